"""From a dataset to batches: uint8 tensors held once, gathered and augmented a batch at a time.

The order of an epoch and its augmentation come from generators seeded by (seed, epoch) alone, so
an epoch is the same whether or not the trial was interrupted before it. No per-sample Python.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.v2 import functional as transforms

from trainers.config import TrialConfig
from trainers.datasets import DATASETS

EVAL_BATCH = 512


@dataclass(frozen=True)
class Split:
    """Inputs and labels (N,) of a split, on the device.

    Inputs are images (N, H, W, C) uint8, or for a model without images the indices (N,).
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Both splits of a trial; `test` is None where there are no images."""

    train: Split
    test: Split | None
    mean: Tensor  # (C,), of pixels from 0 to 255
    std: Tensor

    def prepare(self, inputs: Tensor) -> Tensor:
        """Images (B, H, W, C) uint8 to normalised (B, C, H, W), channels_last; indices as is."""
        if inputs.dtype != torch.uint8:
            return inputs
        return inputs.float().sub_(self.mean).div_(self.std).permute(0, 3, 1, 2)


def load_data(config: TrialConfig, *, data_dir: Path, download: bool, device: torch.device) -> Data:
    """The data of a trial. Raises InputError if the dataset can't be read from `data_dir`."""
    facts = DATASETS[config.dataset]
    assert config.num_classes is not None
    if facts.read is None:
        labels = torch.arange(config.num_classes).repeat_interleave(config.samples_per_class or 0)
        nothing = torch.zeros(0)
        train = Split(torch.arange(len(labels)).to(device), labels.to(device))
        return Data(train, None, nothing, nothing)
    train, test = _read(config.dataset, data_dir, download, config.image_size or 0)
    train = _first_per_class(_first_classes(train, config.num_classes), config.samples_per_class)
    test = _first_classes(test, config.num_classes)
    if config.model == "ufm":
        train, test = Split(torch.arange(len(train)), train.labels), None
    return Data(
        _to(train, device),
        _to(test, device) if test is not None else None,
        255 * torch.tensor(facts.mean, device=device),
        255 * torch.tensor(facts.std, device=device),
    )


@lru_cache(maxsize=2)  # a worker runs many trials on one dataset
def _read(name: str, data_dir: Path, download: bool, image_size: int) -> tuple[Split, Split]:
    read = DATASETS[name].read
    assert read is not None
    splits = read(data_dir, download)
    return (
        _split(splits.train_images, splits.train_labels, image_size),
        _split(splits.test_images, splits.test_labels, image_size),
    )


def _split(images: np.ndarray, labels: np.ndarray, image_size: int) -> Split:
    inputs = torch.from_numpy(images)
    if inputs.shape[1:3] != (image_size, image_size):
        resized = transforms.resize(inputs.permute(0, 3, 1, 2), [image_size, image_size])
        inputs = resized.permute(0, 2, 3, 1).contiguous()
    return Split(inputs, torch.from_numpy(labels))


def _first_classes(split: Split, num_classes: int) -> Split:
    keep = split.labels < num_classes
    return split if bool(keep.all()) else Split(split.inputs[keep], split.labels[keep])


def _first_per_class(split: Split, samples_per_class: int | None) -> Split:
    """The first samples of each class, in the dataset's own order."""
    if samples_per_class is None:
        return split
    one_hot = F.one_hot(split.labels)
    rank = (one_hot.cumsum(0) * one_hot).sum(1)  # 1 for the first sample of its class
    keep = rank <= samples_per_class
    return Split(split.inputs[keep], split.labels[keep])


def _to(split: Split, device: torch.device) -> Split:
    return Split(split.inputs.to(device), split.labels.to(device))


def eval_batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of a split in order."""
    for start in range(0, len(split), EVAL_BATCH):
        stop = start + EVAL_BATCH
        yield split.inputs[start:stop], split.labels[start:stop]


class TrainBatches:
    """The batches of an epoch: shuffled, augmented, with class ids or soft targets."""

    def __init__(self, data: Data, config: TrialConfig) -> None:
        self._data = data
        self._config = config
        self._windows: Tensor | None = None
        self._mix: BatchMixup | None = None
        if config.augment != "none":
            self._windows = crop_windows(data.train.inputs, pad=crop_padding(config))
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
        draws = draw_crops(len(train), crop_padding(self._config), generator)
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


def crop_padding(config: TrialConfig) -> int:
    """Pixels of padding around an image: 4 at the paper's 32, in proportion elsewhere."""
    return (config.image_size or 0) // 8


def crop_windows(images: Tensor, *, pad: int) -> Tensor:
    """Every crop of every image, as a view: (N, 2*pad + 1, 2*pad + 1, H, W, C) of (N, H, W, C)."""
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))  # black, before normalisation
    count, height, width, channels = images.shape
    n, y, x, c = padded.stride()
    shape = (count, 2 * pad + 1, 2 * pad + 1, height, width, channels)
    return padded.as_strided(shape, (n, y, x, y, x, c))


def draw_crops(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """Row offset, column offset and flip of each sample, (count, 3), uniform."""
    offsets = torch.randint(2 * pad + 1, (count, 2), generator=generator)
    return torch.cat([offsets, torch.randint(2, (count, 1), generator=generator)], dim=1)


def crop_and_flip(windows: Tensor, indices: Tensor, draws: Tensor) -> Tensor:
    """DA1: random crops (B, H, W, C) of the images at `indices`, half of them mirrored."""
    row, column, flip = draws.unbind(1)
    crops = windows[indices, row, column]
    return torch.where(flip.bool()[:, None, None, None], crops.flip(2), crops)


class BatchMixup(Mixup):
    """DA2: timm's Mixup and CutMix in batch mode, for batches of any size.

    timm refuses an odd batch, which only its pair mode needs to be even.
    """

    def __init__(self, num_classes: int) -> None:
        # Paper: it names no label smoothing; timm's own default would be 0.1.
        super().__init__(
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            switch_prob=0.5,
            label_smoothing=0.0,
            num_classes=num_classes,
        )

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W), in place, and class ids (B,) to soft targets (B, K)."""
        lam = self._mix_batch(x)
        return x, mixup_target(target, self.num_classes, lam, self.label_smoothing)
