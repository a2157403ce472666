"""From a dataset to a trial's splits: uint8 tensors held once, on the device.

How they become batches is in `batches.py`.
"""

import traceback
from collections import Counter, defaultdict
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

from analysis.store.errors import InputError, one_line
from trainers.config import TrialConfig
from trainers.data import cache
from trainers.data.augment import crop_padding
from trainers.data.cache import Stored
from trainers.datasets import Dataset, Images, Labels, Pending, Splits, Wanted, find_dataset

EVAL_BATCH: Final = 512  # samples
EVAL_PIXELS: Final = 2**16  # in a batch on a CPU: what a layer makes of more leaves its caches
CACHE: Final = "cache"  # a folder in the data folder
ROUNDING: Final = 0.05  # of an imbalance, by whole samples, that nobody need know of


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
    fingerprint: str | None = None  # of all images and labels that it was taken from

    def prepare(self, inputs: Tensor) -> Tensor:
        """Images (B, H, W, C) uint8 to normalised (B, C, H, W), channels_last; indices as is."""
        if inputs.dtype != torch.uint8:
            return inputs
        _, _, width, channels = inputs.shape
        # Whole rows of pixels at a time, six times as fast as three channels at a time.
        mean, std = (each.expand(channels).repeat(width) for each in (self.mean, self.std))
        rows = inputs.float().flatten(2).sub_(mean).div_(std)
        return rows.view(inputs.shape).permute(0, 3, 1, 2)


def load_data(
    config: TrialConfig, *, data_dir: Path, download: bool, device: torch.device, stamp: str = ""
) -> Data:
    """The data of a trial. Raises InputError if `data_dir` doesn't have what it asks for.

    `stamp` is what `stamp_of` gave, where somebody has asked before.
    """
    facts = find_dataset(config.dataset)
    assert config.num_classes is not None
    if not facts.has_images:
        labels = _labels_alone(config)
        _check(config, labels, labels, data_dir)
        nothing = torch.zeros(0)
        return Data(_indices(config, labels, device), None, nothing, nothing)
    train, test = _read(config, data_dir, download, stamp)
    _check(config, train.labels, test.labels, data_dir)
    ufm = config.model == "ufm"
    kept = _kept(config, train.labels)
    return Data(
        _indices(config, train.labels, device) if ufm else _take(config, train, kept, device),
        None if ufm else _take(config, test, test.labels < config.num_classes, device),
        255 * torch.tensor(facts.mean, device=device),
        255 * torch.tensor(facts.std, device=device),
        _fingerprint(train, test),
    )


def check_data(
    configs: Iterable[TrialConfig],
    *,
    data_dir: Path,
    download: bool,
    trained: Iterable[tuple[TrialConfig, str]] = (),
) -> list[str]:
    """Fetch and cache what these trials need, each dataset once, before many workers do.

    Args: `trained` are trials that ran before, and the fingerprints of their data.
    Raises InputError if a dataset can't be read or hasn't the classes or samples that are asked of
    it. What is made from nothing is not made. Returns what a user had better know, a line each.
    """
    before: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for config, fingerprint in trained:
        before[_source(config)][fingerprint] += 1
    needs = {(*_source(c), *_taken(c)): c for c in configs}
    notes: list[str] = []
    for _, config in sorted(needs.items()):  # so that equal images follow one another
        facts = find_dataset(config.dataset)
        if facts.read is None and facts.folder is None:
            labels = _labels_alone(config)
            notes += _check(config, labels, labels, data_dir)
            continue
        train, test = _read(config, data_dir, download)
        notes += _check(config, train.labels, test.labels, data_dir)
        notes += facts.notes(data_dir) if facts.notes else []
        changed = (
            before[_source(config)].total() - before[_source(config)][_fingerprint(train, test)]
        )
        if changed:
            notes.append(
                f"{config.dataset} has changed: {changed:,} trials that ran before saw other data; "
                "--rerun all runs them again"
            )
    return list(dict.fromkeys(notes))


def _source(config: TrialConfig) -> tuple[str, int]:
    """What the images that are decoded depend on, where they aren't made for the trial."""
    return config.dataset, config.image_size or 0


def _taken(config: TrialConfig) -> tuple[int, int, float]:
    return config.num_classes or 0, config.samples_per_class or 0, config.imbalance or 0.0


def _fingerprint(train: Stored, test: Stored) -> str:
    return f"{train.crc32:08x}{test.crc32:08x}"


def _labels_alone(config: TrialConfig) -> Labels:
    """Those of a training set that is made, in some order."""
    return np.arange(config.num_classes or 0).repeat(config.samples_per_class or 0)


def stamp_of(dataset: str, data_dir: Path) -> str:
    """What tells whether a dataset's files are the same; empty if it has none.

    Looks at every file, which takes minutes for a million of them on a network.
    """
    folder = find_dataset(dataset).folder
    return cache.fingerprint(data_dir / folder) if folder else ""


def _read(
    config: TrialConfig, data_dir: Path, download: bool, stamp: str = ""
) -> tuple[Stored, Stored]:
    """Both splits, padded and whole."""
    facts = find_dataset(config.dataset)
    wanted = Wanted(data_dir, config.image_size or 0, 0, 0)
    if facts.folder is None and facts.make is not None:  # made from these numbers alone
        wanted = wanted._replace(
            num_classes=config.num_classes or 0, samples_per_class=config.samples_per_class or 0
        )
    stamp = stamp or stamp_of(config.dataset, data_dir)
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
        stamp=stamp,
    )


def _decode(name: str, facts: Dataset, wanted: Wanted, download: bool) -> tuple[Pending, Pending]:
    """Both splits, resized. Raises InputError if they can't be read."""
    if facts.make is not None:
        return facts.make(wanted)
    assert facts.read is not None
    try:
        given = facts.read(wanted.data_dir, download)
    except InputError:
        raise
    except Exception as error:  # the user's code can raise anything
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"the reader of {name} failed ({one_line(error)}, at {where.filename}:{where.lineno})"
        ) from error
    if not isinstance(given, tuple | list) or len(given) != 4:
        raise InputError(
            f"the reader of {name} gave {type(given).__name__}; it has to give four arrays: "
            f"{', '.join(Splits._fields)}"
        )
    train, test = given[:2], given[2:]
    side = wanted.image_size
    return _fit(name, facts, *train, side), _fit(name, facts, *test, side)


def _fit(name: str, facts: Dataset, images: Images, labels: Labels, side: int) -> Pending:
    try:
        images, labels = np.asarray(images), np.asarray(labels)
    except ValueError as error:  # lists of several lengths
        raise InputError(f"the reader of {name} gave no arrays ({one_line(error)})") from error
    is_image = images.dtype == np.uint8 and images.ndim == 4 and images.size > 0
    is_label = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not (is_image and is_label and images.shape[3] == facts.channels):
        raise InputError(
            f"the reader of {name} gave {images.dtype} images {images.shape} and {labels.dtype} "
            f"labels {labels.shape}; it has to give uint8 (N, H, W, {facts.channels}) and whole "
            "numbers (N,)"
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
    contiguous = np.ascontiguousarray(images)  # torch knows no negative strides
    channels_first = torch.from_numpy(contiguous).permute(0, 3, 1, 2)
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


def _check(config: TrialConfig, train: Labels, test: Labels, data_dir: Path) -> list[str]:
    """Raises InputError if there are too few labels for the trial; what else to know of them."""
    classes, name = config.num_classes or 0, config.dataset
    there = int(train.max()) + 1
    if find_dataset(name).num_classes is None and classes > there:
        raise InputError(
            f"num_classes={classes} is more than {name} has in {data_dir}; use at most {there}"
        )
    counts_K, tested_K = (np.bincount(y, minlength=classes)[:classes] for y in (train, test))
    _check_counts(config, counts_K)
    if not tested_K.any():
        raise InputError(f"{name} has no test sample of the {classes} classes; add some")
    if not tested_K.all():
        absent = ", ".join(map(str, np.flatnonzero(tested_K == 0)[:5]))
        return [f"{name} has no test sample of class {absent}: no metric of the test set has it"]
    return _check_imbalance(config, counts_K)


def _check_counts(config: TrialConfig, counts_K: NDArray[np.int64]) -> None:
    samples, smallest = config.samples_per_class or 1, int(counts_K.argmin())
    if samples <= counts_K[smallest]:
        return
    if counts_K[smallest] == 0:
        raise InputError(f"{config.dataset} has no training sample of class {smallest}; add some")
    raise InputError(
        f"samples_per_class={samples} is more than class {smallest} of {config.dataset} has; "
        f"use at most {counts_K[smallest]}"
    )


def _check_imbalance(config: TrialConfig, counts_K: NDArray[np.int64]) -> list[str]:
    """Raises InputError if the smallest class has no whole sample; what rounding makes of it."""
    if config.imbalance is None:
        return []
    most, *_, least = _quotas(config, counts_K)
    if most < config.imbalance:
        raise InputError(
            f"imbalance={config.imbalance:g} of {config.dataset} leaves less than a sample to the "
            f"smallest class, the largest has {most}; use at most {most}"
        )
    if abs(most / least / config.imbalance - 1) <= ROUNDING:
        return []
    return [
        f"imbalance={config.imbalance:g} of {config.dataset} is {most / least:.3g} in whole "
        f"samples: {most} to {least}"
    ]


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
