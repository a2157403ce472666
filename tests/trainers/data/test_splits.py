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
from trainers.datasets import DATASETS, Splits, register_dataset

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


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is its own."""
    data_module._stored.cache_clear()
    monkeypatch.setattr(DATASETS, "_entries", {**DATASETS._entries})


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
        # 40 * 40^(-k/3) = 40, 11.7, 3.4, 1: as many as class 0 has
        ({"imbalance": 40}, [40, 12, 3, 1]),
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
    for K, n, r in ((10, 500, 100.0), (100, 500, 10.0), (2, 60, 50.0)):
        data = load(tiny(**fields, num_classes=K, samples_per_class=n, imbalance=r))
        expected = [max(1, round(n * r ** (-k / (K - 1)))) for k in range(K)]
        assert data.train.labels.bincount().tolist() == expected


@pytest.mark.parametrize("dataset", ["uneven", "labels", "synthetic"])
@pytest.mark.parametrize(
    ("samples", "imbalance", "said"),
    [(11, 11.5, "use at most 11"), (1, 1.5, "use at most 1"), (9, 1e6, "use at most 9")],
)
def test_an_imbalance_that_no_samples_have_is_refused(
    tiny: Tiny, dataset: str, samples: int, imbalance: float, said: str
) -> None:
    free = {"model": "ufm", "model_kwargs": {}} if dataset == "labels" else {}
    fields = {"dataset": dataset, "num_classes": 4, **free}
    config = tiny(**fields, samples_per_class=samples, imbalance=imbalance)
    with pytest.raises(InputError, match=f"less than a sample to the smallest.*{said}"):
        check_data([config], data_dir=Path("nowhere"), download=False)
    with pytest.raises(InputError, match=said):
        load(config)


@pytest.mark.parametrize(
    ("samples", "imbalance", "said"),
    [
        (10, 5, []),
        (40, 40, []),
        (10, 4, ["imbalance=4 of uneven is 5 in whole samples: 10 to 2"]),  # 2.5 is even's
        (2, 1.5, ["imbalance=1.5 of uneven is 2 in whole samples: 2 to 1"]),
    ],
)
def test_what_whole_samples_make_of_an_imbalance_is_said(
    tiny: Tiny, samples: int, imbalance: float, said: list[str]
) -> None:
    config = tiny(
        dataset="uneven", num_classes=2 if samples == 40 else 4, imbalance=imbalance,
        samples_per_class=None if samples == 40 else samples,
    )  # fmt: skip
    assert check_data([config], data_dir=Path("nowhere"), download=False) == said


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


IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def reading(name: str, read: Callable[[], Any]) -> dict[str, Any]:
    """Fields of a trial of a user's dataset."""

    @register_dataset(name, num_classes=4, image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    def _(data_dir: Path, download: bool) -> Splits:
        return read()

    return {"dataset": name, "num_classes": 2, "samples_per_class": None}


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES.astype(np.float32), np.arange(4), "float32 images"),
        (IMAGES.transpose(0, 3, 1, 2), np.arange(4), r"images \(4, 3, 8, 8\)"),
        (IMAGES[:, :, :0], np.arange(4), r"images \(4, 8, 0, 3\)"),
        (IMAGES, np.arange(3), r"labels \(3,\)"),
        (IMAGES, np.arange(1, 5), "labels from 1 to 4"),
        (IMAGES, np.arange(4) - 1, "labels from -1 to 2"),
        (IMAGES, np.arange(4) + 0.7, "float64 labels"),
        (IMAGES, np.array([0, 1, 2, np.nan]), "float64 labels"),
        (IMAGES, np.array(["a", "b", "c", "d"]), "<U1 labels"),
        (IMAGES, None, "object labels"),
        (None, np.arange(4), "object images"),
        ([[1, 2], [3]], np.arange(4), "no arrays"),
    ],
)
def test_what_a_users_reader_gives_is_checked(
    tiny: Tiny, images: Any, labels: Any, said: str
) -> None:
    for split in ("training", "test"):
        good = IMAGES, np.arange(4)
        bad = images, labels
        given = Splits(*bad, *good) if split == "training" else Splits(*good, *bad)
        fields = reading(f"wrong {said} of {split}", lambda given=given: given)
        with pytest.raises(InputError, match=rf"the reader of .* gave .*{said}"):
            load(tiny(**fields))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "gave NoneType; it has to give four arrays: train_images, train_labels"),
        ((IMAGES, np.arange(4), IMAGES), "gave tuple; it has to give four"),
        ({}, "gave dict"),
    ],
    ids=["nothing", "three", "other"],
)
def test_a_users_reader_gives_four_arrays(tiny: Tiny, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(tiny(**reading(f"not four {said}", lambda: given)))


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: {}["images"], "KeyError: 'images'"),
        (
            lambda: Path("/nowhere/x.npy").read_bytes(),
            "No such file or directory: '/nowhere/x.npy'",
        ),
    ],
    ids=["KeyError", "OSError"],
)
def test_a_users_readers_own_error_is_told_by_its_place(
    tiny: Tiny, read: Callable[[], Any], said: str
) -> None:
    with pytest.raises(
        InputError, match=rf"the reader of breaking failed \(.*{said}, at .*\.py:\d+\)"
    ) as error:
        load(tiny(**reading("breaking", read)))
    assert isinstance(error.value.__cause__, Exception)


def test_a_users_reader_may_give_a_view(tiny: Tiny) -> None:
    images = np.random.default_rng(0).integers(256, size=(4, 12, 12, 3), dtype=np.uint8)
    labels, seen = np.array([0, 1, 0, 1]), []
    for name, way in (("mirrored", -1), ("as is", 1)):
        view = np.ascontiguousarray(images[:, :, ::-1])[:, :, ::-1] if way < 0 else images
        assert (way < 0) == (view.strides[2] < 0)
        fields = reading(name, lambda view=view: Splits(view, labels, view, labels))
        of_size = {size: load(tiny(**fields, image_size=size)).fingerprint for size in (8, 12)}
        seen.append(of_size)
    assert seen[0] == seen[1]


def test_absent_classes(tiny: Tiny) -> None:
    def checked(train: list[int], test: list[int]) -> list[str]:
        name = f"absent {train} {test}"
        given = Splits(IMAGES, np.array(train), IMAGES, np.array(test))
        config = tiny(**{**reading(name, lambda: given), "num_classes": 3})
        return check_data([config], data_dir=Path("nowhere"), download=False)

    assert checked([0, 1, 2, 2], [0, 1, 2, 2]) == []
    assert checked([0, 1, 2, 3], [0, 0, 3, 2])[0].endswith(
        "has no test sample of class 1: no metric of the test set has it"
    )
    with pytest.raises(InputError, match="has no training sample of class 1; add some"):
        checked([0, 0, 2, 2], [0, 1, 2, 2])
    with pytest.raises(InputError, match="has no test sample of the 3 classes; add some"):
        checked([0, 1, 2, 2], [3, 3, 3, 3])


@pytest.mark.parametrize(
    "facts",
    [
        {"mean": (127.0,)}, {"mean": (-0.1,)}, {"std": (0.0,)}, {"std": (58.0,)},
        {"std": (float("nan"),)}, {"mean": (0.5, 0.5)}, {"mean": (), "std": ()},
        {"num_classes": 1}, {"image_size": 0},
    ],
    ids=str,
)  # fmt: skip
def test_facts_that_no_images_have_are_refused(facts: dict[str, Any]) -> None:
    good = {"num_classes": 2, "image_size": 8, "mean": (0.5,), "std": (0.2,)}
    with pytest.raises(InputError, match=r"dataset 'impossible' can't have .*per channel"):
        register_dataset("impossible", **{**good, **facts})


def test_the_fingerprint_is_of_what_the_data_are(tiny: Tiny) -> None:
    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    labels = np.array([0, 1, 0, 1])
    seen = set()
    changes: list[tuple[Any, Any]] = [
        (images, labels), (images[::-1], labels), (images, labels[::-1]), (images[:2], labels[:2]),
    ]  # fmt: skip
    for number, (x, y) in enumerate(changes):
        for split in ("train", "test"):
            both = (x, y, images, labels) if split == "train" else (images, labels, x, y)
            fields = reading(f"state {number} {split}", lambda both=both: Splits(*both))
            seen.add(load(tiny(**fields)).fingerprint)
    assert len(seen) == 2 * len(changes) - 1  # the first is the same for both
    assert all(each and len(each) == 16 for each in seen)
    assert load(tiny(samples_per_class=2)).fingerprint == load(tiny()).fingerprint
    free = {"model": "ufm", "model_kwargs": {}, "dataset": "labels", "num_classes": 3}
    assert load(tiny(**free)).fingerprint is None


def test_that_data_changed_since_other_trials_is_said(tiny: Tiny) -> None:
    config = tiny(dataset="uneven", samples_per_class=2)
    now = load(config).fingerprint
    assert now

    def notes(*fingerprints: str) -> list[str]:
        trained = [(tiny(dataset="uneven", samples_per_class=9), f) for f in fingerprints]
        where = Path("nowhere")
        return check_data([config], data_dir=where, download=False, trained=trained)

    assert notes() == notes(now, now) == []
    (note,) = notes(now, "0" * 16, "1" * 16)
    assert note.startswith("uneven has changed: 2 trials that ran before saw other data; --rerun")


def test_labels_alone() -> None:
    fields = {"dataset": "labels", "samples_per_class": 3, "num_classes": 4, "model": "ufm"}
    data = load(TrialConfig.parse({**fields, "loss": "ce", "optimizer": "lbfgs"}))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.train.inputs.tolist() == list(range(12))
    assert data.test is None
