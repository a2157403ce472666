"""The splits of a trial."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data import splits as data_module
from trainers.data.augment import crop_padding
from trainers.data.splits import Data, check_data, load_data
from trainers.datasets import Splits, register_dataset

Tiny = Callable[..., TrialConfig]
CPU = torch.device("cpu")
SIZES = (40, 25, 60, 11)  # of the classes of `uneven`


@register_dataset("uneven", num_classes=4, image_size=16, mean=(0.5,), std=(0.2,))
def uneven(data_dir: Path, download: bool) -> Splits:
    """Every pixel of a sample is its place in the training set; classes are shuffled."""
    labels = np.random.default_rng(0).permutation(np.arange(4).repeat(SIZES))
    places = np.arange(len(labels), dtype=np.uint8)
    images = np.tile(places[:, None, None, None], (1, 16, 16, 1))
    return Splits(images, labels, images[:50], labels[:50])


LABELS = uneven(Path(), False).train_labels


def load(config: TrialConfig, data_dir: Path = Path("nowhere")) -> Data:
    return load_data(config, data_dir=data_dir, download=False, device=CPU)


def test_digits_are_the_real_ones_split_in_order(tiny: Tiny) -> None:
    data = load(tiny(samples_per_class=None))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.inputs.shape == (1437, 8, 8, 1)
    assert data.train.inputs.dtype == torch.uint8
    normalised = data.prepare(data.train.inputs)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-3)
    assert normalised.std().item() == pytest.approx(1, abs=1e-3)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_samples_per_class_and_class_subset(tiny: Tiny) -> None:
    data = load(tiny(samples_per_class=6, num_classes=3))
    assert data.train.labels.bincount().tolist() == [6, 6, 6]
    assert data.test is not None
    assert data.test.labels.max() == 2
    everything = load(tiny(samples_per_class=None))
    zeros = everything.train.inputs[everything.train.labels == 0]
    assert torch.equal(data.train.inputs[data.train.labels == 0], zeros[:6])


def test_images_are_resized(tiny: Tiny) -> None:
    assert load(tiny(image_size=12)).train.inputs.shape[1:] == (12, 12, 1)


@pytest.mark.parametrize("size", [7, 8, 16, 33])
@pytest.mark.parametrize("samples_per_class", [None, 6])
def test_images_are_the_inside_of_what_is_padded(
    tiny: Tiny, size: int, samples_per_class: int | None
) -> None:
    train = load(tiny(image_size=size, samples_per_class=samples_per_class)).train
    pad = crop_padding(size)
    assert train.padded is not None
    assert train.inputs.shape[1:] == (size, size, 1)
    assert train.inputs.untyped_storage().data_ptr() == train.padded.untyped_storage().data_ptr()
    outside = (0, 0, pad, pad, pad, pad)
    assert torch.equal(train.padded, torch.nn.functional.pad(train.inputs, outside))


def first(counts: list[int]) -> list[int]:
    """Places of the first so many of each class."""
    places = [np.flatnonzero(k == LABELS)[:count] for k, count in enumerate(counts)]
    return np.sort(np.concatenate(places)).tolist()


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({}, [40, 25, 60, 11]),
        ({"samples_per_class": 11}, [11, 11, 11, 11]),
        ({"samples_per_class": 25, "num_classes": 2}, [25, 25, 0, 0]),
        # 10 * 8^(-k/3) = 10, 5, 2.5, 1.25, and halves go to the even neighbour
        ({"samples_per_class": 10, "imbalance": 8}, [10, 5, 2, 1]),
        # 40 * 100^(-k/3) = 40, 8.6, 1.9, 0.4: as many as class 0 has, and one at least
        ({"imbalance": 100}, [40, 9, 2, 1]),
        ({"imbalance": 1e6}, [40, 1, 1, 1]),
        # of two classes the largest has 40: 40, 20
        ({"imbalance": 2, "num_classes": 2}, [40, 20, 0, 0]),
    ],
    ids=str,
)
def test_samples_of_each_class(tiny: Tiny, fields: dict[str, Any], counts: list[int]) -> None:
    fields = {"dataset": "uneven", "samples_per_class": None, **fields}
    data = load(tiny(**fields))
    places = first(counts)
    assert data.train.inputs[:, 0, 0, 0].tolist() == places
    assert data.train.labels.tolist() == LABELS[places].tolist()
    assert data.test
    tested = np.flatnonzero(LABELS[:50] < fields.get("num_classes", 4))  # never thinned
    assert data.test.inputs[:, 0, 0, 0].tolist() == tested.tolist()
    free = {"model": "ufm", "model_kwargs": {}}
    ufm = load(tiny(**fields, **free))
    assert ufm.train.labels.tolist() == data.train.labels.tolist()
    assert ufm.train.inputs.tolist() == list(range(len(places)))
    assert (ufm.test, ufm.train.padded) == (None, None)


def test_long_tail_of_labels_alone(tiny: Tiny) -> None:
    fields = {"dataset": "labels", "model": "ufm", "model_kwargs": {}}
    for K, n, r in ((10, 500, 100.0), (100, 500, 10.0), (2, 3, 50.0)):
        data = load(tiny(**fields, num_classes=K, samples_per_class=n, imbalance=r))
        expected = [max(1, round(n * r ** (-k / (K - 1)))) for k in range(K)]
        assert data.train.labels.bincount().tolist() == expected


def test_more_samples_than_a_class_has_are_refused(tiny: Tiny) -> None:
    config = tiny(dataset="uneven", samples_per_class=12)
    said = "samples_per_class=12 is more than class 3 of uneven has; use at most 11"
    with pytest.raises(InputError, match=said):
        load(config)
    with pytest.raises(InputError, match=said):
        check_data([tiny(), config], data_dir=Path("nowhere"), download=False)
    few = tiny(dataset="uneven", samples_per_class=25, num_classes=3)
    check_data([tiny(), few], data_dir=Path("nowhere"), download=False)


def test_checking_reads_each_dataset_once_and_makes_none(tiny: Tiny) -> None:
    data_module._stored.cache_clear()
    sizes = (8, 16, 32)
    grid = [
        tiny(dataset=dataset, image_size=size, samples_per_class=n, seed=seed)
        for seed in (0, 1)
        for n in (3, 5)
        for size in sizes
        for dataset in ("digits", "uneven", "synthetic")
    ]
    check_data(grid, data_dir=Path("nowhere"), download=False)
    assert data_module._stored.cache_info().misses == 2 * len(sizes)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((4, 8, 8, 3), np.float32), np.arange(4), "float32 images"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.arange(4), r"images \(4, 3, 8, 8\)"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.arange(3), r"labels \(3,\)"),
        (np.zeros((4, 8, 8, 3), np.uint8), np.arange(1, 5), "labels from 1 to 4"),
    ],
)
def test_what_a_users_reader_gives_is_checked(
    tiny: Tiny, images: np.ndarray, labels: np.ndarray, said: str
) -> None:
    name = f"wrong {said}"

    @register_dataset(name, num_classes=4, image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    def _(data_dir: Path, download: bool) -> Splits:
        return Splits(images, labels, images, labels)

    with pytest.raises(InputError, match=rf"the reader of .* gave .*{said}.* to "):
        load(tiny(dataset=name, num_classes=2, samples_per_class=None))


def test_labels_alone() -> None:
    fields = {"dataset": "labels", "samples_per_class": 3, "num_classes": 4, "model": "ufm"}
    data = load(TrialConfig.parse({**fields, "loss": "ce", "optimizer": "lbfgs"}))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.train.inputs.tolist() == list(range(12))
    assert data.test is None
