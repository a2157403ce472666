"""The batches of an epoch, the same whether or not the trial was interrupted before it.

Their order and augmentation come from generators seeded by (seed, epoch). No per-sample Python.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from trainers.augment import BatchMixup, crop_and_flip, crop_padding, crop_windows, draw_crops
from trainers.config import TrialConfig
from trainers.data import Data


class TrainBatches:
    """The batches of an epoch: shuffled, augmented, with class ids or soft targets."""

    def __init__(self, data: Data, config: TrialConfig) -> None:
        self._data = data
        self._config = config
        self._padding = crop_padding(config.image_size or 0)
        self._windows: Tensor | None = None
        self._mix: BatchMixup | None = None
        if config.augment != "none":
            self._windows = crop_windows(data.train.inputs, pad=self._padding)
        if config.augment == "da1+da2":
            assert config.num_classes is not None
            self._mix = BatchMixup(num_classes=config.num_classes)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs, ready for the model, and targets of every batch of an epoch (1-based).

        Seeds torch's and NumPy's global generators too: layers such as dropout, and timm's Mixup,
        draw from those.
        """
        seeds = np.random.SeedSequence((self._config.seed, epoch)).generate_state(3)
        generator = torch.Generator().manual_seed(int(seeds[0]))
        torch.manual_seed(int(seeds[1]))
        np.random.seed(int(seeds[2]))  # noqa: NPY002  (timm's Mixup draws from it)
        for _ in range(self._config.passes_per_epoch):
            yield from self._one_pass(generator)

    def _one_pass(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        train, size = self._data.train, self._config.batch_size
        device = train.labels.device
        order = torch.randperm(len(train), generator=generator)
        draws = draw_crops(len(train), self._padding, generator)
        order, draws = order.to(device), draws.to(device)
        for start in range(0, len(train), size):
            indices = order[start : start + size]
            targets = train.labels[indices]
            if self._windows is None:
                inputs = train.inputs[indices]
            else:
                inputs = crop_and_flip(self._windows, indices, draws[start : start + size])
            inputs = self._data.prepare(inputs)
            if self._mix is not None:
                inputs, targets = self._mix(inputs, targets)
            yield inputs, targets
