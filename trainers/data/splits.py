"""From a dataset to a trial's splits: uint8 tensors held once, on the device.

How they become batches is in `batches.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data import cache
from trainers.data.augment import crop_padding
from trainers.data.cache import Stored
from trainers.datasets import Dataset, Images, Labels, Pending, Wanted, find_dataset

EVAL_BATCH: Final = 512  # samples
EVAL_PIXELS: Final = 2**16  # in a batch on a CPU: what a layer makes of more leaves its caches
CACHE: Final = "cache"  # a folder in the data folder


@dataclass(frozen=True)
class Split:
    """Inputs and labels (N,) of a split, on the device.

    Inputs are images (N, H, W, C) uint8, or for a model without images the indices (N,). Images
    are a view of `padded`, where each has a black border for crops, (N, H + 2p, W + 2p, C).
    """

    inputs: Tensor
    labels: Tensor
    padded: Tensor | None = None

    @classmethod
    def of_images(cls, padded: Tensor, labels: Tensor, *, pad: int) -> Self:
        """A split of images that have a border of `pad` pixels."""
        height, width = padded.shape[1:3]
        return cls(padded[:, pad : height - pad, pad : width - pad], labels, padded)

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
        _, _, width, channels = inputs.shape
        # Whole rows of pixels at a time, six times as fast as three channels at a time.
        mean, std = (each.expand(channels).repeat(width) for each in (self.mean, self.std))
        rows = inputs.float().flatten(2).sub_(mean).div_(std)
        return rows.view(inputs.shape).permute(0, 3, 1, 2)


def load_data(config: TrialConfig, *, data_dir: Path, download: bool, device: torch.device) -> Data:
    """The data of a trial. Raises InputError if `data_dir` doesn't have what it asks for."""
    facts = find_dataset(config.dataset)
    assert config.num_classes is not None
    if not facts.has_images:
        labels = np.arange(config.num_classes).repeat(config.samples_per_class or 0)
        nothing = torch.zeros(0)
        return Data(_indices(config, labels, device), None, nothing, nothing)
    train, test = _read(config, data_dir, download)
    _check(config, train.labels, data_dir)
    ufm = config.model == "ufm"
    kept = _kept(config, train.labels)
    return Data(
        _indices(config, train.labels, device) if ufm else _take(config, train, kept, device),
        None if ufm else _take(config, test, test.labels < config.num_classes, device),
        255 * torch.tensor(facts.mean, device=device),
        255 * torch.tensor(facts.std, device=device),
    )


def check_data(configs: Iterable[TrialConfig], *, data_dir: Path, download: bool) -> None:
    """Fetch and cache what these trials need, each dataset once, before many workers do.

    Raises InputError if a dataset can't be read or hasn't the classes or samples that are asked of
    it. What is made from nothing is not looked at.
    """
    needs = {}
    for config in configs:
        key = (
            config.dataset,
            config.image_size or 0,
            config.num_classes or 0,
            config.samples_per_class or 0,
        )
        needs[key] = config
    for _, config in sorted(needs.items()):  # so that equal images follow one another
        facts = find_dataset(config.dataset)
        if facts.read is not None or facts.folder is not None:
            train, _ = _read(config, data_dir, download)
            _check(config, train.labels, data_dir)


def _read(config: TrialConfig, data_dir: Path, download: bool) -> tuple[Stored, Stored]:
    """Both splits, padded and whole."""
    facts = find_dataset(config.dataset)
    wanted = Wanted(data_dir, config.image_size or 0, 0, 0)
    if facts.folder is None and facts.make is not None:  # made from these numbers alone
        wanted = wanted._replace(
            num_classes=config.num_classes or 0, samples_per_class=config.samples_per_class or 0
        )
    stamp = cache.fingerprint(data_dir / facts.folder) if facts.folder else ""
    return _stored(config.dataset, wanted, download, stamp)


@lru_cache(maxsize=2)  # a worker runs many trials on one dataset
def _stored(name: str, wanted: Wanted, download: bool, stamp: str) -> tuple[Stored, Stored]:
    facts = find_dataset(name)

    def decode() -> tuple[Pending, Pending]:
        train, test = _decode(name, facts, wanted, download)
        pad = crop_padding(wanted.image_size)
        return _padded(train, pad), _padded(test, pad)

    if facts.folder is None:
        train, test = decode()
        return cache.in_memory(train), cache.in_memory(test)
    return cache.load(
        wanted.data_dir / CACHE,
        f"{quote(name, safe='')}-{wanted.image_size}px",
        source=wanted.data_dir / facts.folder,
        decode=decode,
        may_fetch=download and facts.read is not None,
    )


def _decode(name: str, facts: Dataset, wanted: Wanted, download: bool) -> tuple[Pending, Pending]:
    """Both splits, resized. Raises InputError if they can't be read."""
    if facts.make is not None:
        return facts.make(wanted)
    assert facts.read is not None
    splits = facts.read(wanted.data_dir, download)
    side = wanted.image_size
    return _fit(name, facts, *splits[:2], side), _fit(name, facts, *splits[2:], side)


def _fit(name: str, facts: Dataset, images: Images, labels: Labels, side: int) -> Pending:
    images, labels = np.asarray(images), np.asarray(labels)
    is_image = images.dtype == np.uint8 and images.ndim == 4 and len(images) > 0
    if not is_image or images.shape[3] != facts.channels or labels.shape != images.shape[:1]:
        raise InputError(
            f"the reader of {name} gave {images.dtype} images {images.shape} and labels "
            f"{labels.shape}; it has to give uint8 (N, H, W, {facts.channels}) and (N,)"
        )
    if labels.min() < 0 or labels.max() >= facts.most_classes:
        raise InputError(
            f"the reader of {name} gave labels from {labels.min()} to {labels.max()}; "
            f"they have to be from 0 to {facts.most_classes - 1}"
        )
    return Pending(
        labels.astype(np.int64),
        (side, side, facts.channels),
        lambda start, stop: _resized(images[start:stop], side),
    )


def _resized(images: Images, side: int) -> Images:
    if images.shape[1:3] == (side, side):
        return images
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    return transforms.resize(channels_first, [side, side]).permute(0, 2, 3, 1).numpy()


def _padded(split: Pending, pad: int) -> Pending:
    """Each image with a border, black before normalisation."""
    height, width, channels = split.image_shape
    border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return Pending(
        split.labels,
        (height + 2 * pad, width + 2 * pad, channels),
        lambda start, stop: np.pad(split.images(start, stop), border),
    )


def _check(config: TrialConfig, labels: Labels, data_dir: Path) -> None:
    """Raises InputError if the training labels are too few for the trial."""
    classes, samples = config.num_classes or 0, config.samples_per_class or 0
    there = int(labels.max()) + 1
    if find_dataset(config.dataset).num_classes is None and classes > there:
        raise InputError(
            f"num_classes={classes} is more than {config.dataset} has in {data_dir}; "
            f"use at most {there}"
        )
    counts_K = np.bincount(labels, minlength=classes)[:classes]
    smallest = int(counts_K.argmin())
    if samples > counts_K[smallest]:
        raise InputError(
            f"samples_per_class={samples} is more than class {smallest} of {config.dataset} has; "
            f"use at most {counts_K[smallest]}"
        )


def _kept(config: TrialConfig, labels: Labels) -> NDArray[np.bool_]:
    """Which training samples a trial uses, (N,): the first of each class, in their own order."""
    assert config.num_classes is not None
    counts = np.bincount(labels, minlength=config.num_classes)
    by_class = labels.argsort(kind="stable")
    rank = np.empty_like(labels)  # 0 for the first sample of its class
    rank[by_class] = np.arange(len(labels)) - (counts.cumsum() - counts)[labels[by_class]]
    quota = np.zeros_like(counts)
    quota[: config.num_classes] = _quotas(config, counts[: config.num_classes])
    return rank < quota[labels]


def _quotas(config: TrialConfig, counts_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Training samples that each class may have, (K,).

    With an imbalance r they fall as r^(-k / (K - 1)), as in Cui et al. 2019.
    """
    if config.imbalance is None:
        return np.full(len(counts_K), config.samples_per_class or counts_K.max())
    decay = config.imbalance ** (-np.arange(len(counts_K)) / (len(counts_K) - 1))
    most = config.samples_per_class or int(
        (counts_K / decay).min()
    )  # no class has fewer than asked
    return np.rint(most * decay).clip(1).astype(np.int64)


def _take(
    config: TrialConfig, stored: Stored, keep: NDArray[np.bool_], device: torch.device
) -> Split:
    """The images to keep; where that is all of them, they stay where they are."""
    images, labels = torch.from_numpy(stored.images), torch.from_numpy(stored.labels)
    if not keep.all():
        mask = torch.from_numpy(keep)
        images, labels = images[mask], labels[mask]
    pad = crop_padding(config.image_size or 0)
    return Split.of_images(images.to(device), labels.to(device), pad=pad)


def _indices(config: TrialConfig, labels: Labels, device: torch.device) -> Split:
    """Training samples of a model without images."""
    kept = torch.from_numpy(labels[_kept(config, labels)]).to(device)
    return Split(torch.arange(len(kept), device=device), kept)


def eval_batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels of a split in order."""
    size = EVAL_BATCH
    if split.inputs.ndim == 4 and split.inputs.device.type == "cpu":
        _, height, width, _ = split.inputs.shape
        size = min(max(EVAL_PIXELS // (height * width), 1), EVAL_BATCH)
    yield from zip(split.inputs.split(size), split.labels.split(size), strict=True)
