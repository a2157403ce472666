"""The batches of an epoch, the same whether or not the trial was interrupted before it.

Their order and augmentation come from generators seeded by (seed, epoch). No per-sample Python.
Every rank draws for the global batch and takes its share, so that the ranks' batches together are
those of one process.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainers.config import TrialConfig
from trainers.data.augment import (
    BatchMixup,
    crop_and_flip,
    crop_padding,
    draw_angles,
    draw_crops,
    rotate,
)
from trainers.data.splits import Data


class Batch(NamedTuple):
    """A rank's share of a batch, possibly empty, ready for the model."""

    inputs: Tensor  # images (B, C, H, W), or for a model without images the indices (B,)
    targets: Tensor  # class ids (B,), or soft targets (B, K)
    global_size: int  # samples of all ranks


class _Draws(NamedTuple):
    """What chance decides about each position of a pass, on the device."""

    order: Tensor  # (N,) which sample
    crops: Tensor  # (N, 3)
    angles: Tensor | None  # (N,) degrees


class TrainBatches:
    """The batches of an epoch: shuffled, augmented, with class ids or soft targets."""

    def __init__(self, data: Data, config: TrialConfig, rank: int = 0, world_size: int = 1) -> None:
        self._data = data
        self._config = config
        self._rank = rank
        self._world_size = world_size
        self._padding = crop_padding(config.image_size or 0)
        self._mix: BatchMixup | None = None
        if config.augment == "da1+da2":
            assert config.num_classes is not None
            self._mix = BatchMixup(num_classes=config.num_classes)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """This rank's share of every batch of an epoch (1-based).

        Seeds torch's and NumPy's global generators too: layers such as dropout, and timm's Mixup,
        draw from those. Dropout is each rank's own, Mixup's parameters are those of all.
        """
        seed = self._config.seed
        seeds = np.random.SeedSequence((seed, epoch)).generate_state(3)
        generator = torch.Generator().manual_seed(int(seeds[0]))
        if self._rank > 0:
            seeds[1:2] = np.random.SeedSequence((seed, epoch, self._rank)).generate_state(1)
        torch.manual_seed(int(seeds[1]))
        np.random.seed(int(seeds[2]))  # noqa: NPY002  (timm's Mixup draws from it)
        for _ in range(self._config.passes_per_epoch):
            draws = self._draw(generator)
            positions = torch.arange(len(draws.order), device=draws.order.device)
            for batch in positions.split(self._config.batch_size):
                yield Batch(*self._share(draws, batch), len(batch))

    def _draw(self, generator: torch.Generator) -> _Draws:
        count, degrees = len(self._data.train), self._config.rotation
        device = self._data.train.labels.device
        order = torch.randperm(count, generator=generator)
        crops = draw_crops(count, self._padding, generator)
        angles = draw_angles(count, degrees, generator).to(device) if degrees else None
        return _Draws(order.to(device), crops.to(device), angles)

    def _share(self, draws: _Draws, batch: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's inputs and targets of the batch at these positions of a pass."""
        mine = batch.tensor_split(self._world_size)[self._rank]
        if self._mix is None:
            return self._gather(draws, mine)
        if self._world_size == 1:
            return self._mix(*self._gather(draws, mine))
        # Sample i is mixed with sample B - 1 - i, which may be another rank's. Here the partners
        # follow in reverse, so that the same rule, applied to both, finds them.
        partners = batch.flip(0).tensor_split(self._world_size)[self._rank]
        inputs, targets = self._mix(*self._gather(draws, torch.cat([mine, partners.flip(0)])))
        return inputs[: len(mine)], targets[: len(mine)]

    def _gather(self, draws: _Draws, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs, augmented but not mixed, and class ids."""
        train = self._data.train
        indices = draws.order[positions]
        if self._config.augment == "none":
            inputs = train.inputs.index_select(
                0, indices
            )  # faster than indexing, as rows of pixels
        else:
            assert train.padded is not None  # a TrialConfig lets only images be augmented
            crops = draws.crops[positions]
            inputs = crop_and_flip(train.padded, indices, crops, pad=self._padding)
        if draws.angles is not None:
            inputs = rotate(inputs, draws.angles[positions])
        return self._data.prepare(inputs), train.labels[indices]
