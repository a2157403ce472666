"""From a dataset to a trial's splits: uint8 tensors held once, on the device.

How they become batches is in `batches.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
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
