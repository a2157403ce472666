"""Datasets as they lie on disk, and what is said when they don't."""

import struct
from pathlib import Path

import numpy as np
import pytest

from trainers.datasets import DATASETS
from trainers.registry import InputError


def write_mnist(folder: Path, name: str) -> None:
    """Three images a split, in MNIST's own format: idx files of big-endian sizes and bytes."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for split, first in (("train", 0), ("t10k", 5)):
        images = np.arange(3 * 28 * 28, dtype=np.int64).astype(np.uint8) + first
        header = struct.pack(">iiii", 2051, 3, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes([first, first + 1, first + 2])
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, 3) + labels)


@pytest.mark.slow  # imports torchvision
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_format(tmp_path: Path, name: str, folder: str) -> None:
    write_mnist(tmp_path, folder)
    read = DATASETS[name].read
    assert read
    splits = read(tmp_path, False)
    assert splits.train_images.shape == (3, 28, 28, 3)  # grey in three channels
    assert splits.train_images.dtype == np.uint8
    assert splits.train_images[0, 0, 5].tolist() == [5, 5, 5]
    assert splits.train_labels.tolist() == [0, 1, 2]
    assert splits.test_labels.tolist() == [5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_data_without_download_is_one_line(tmp_path: Path, name: str) -> None:
    read = DATASETS[name].read
    assert read
    with pytest.raises(
        InputError, match=r"can't be read from .*; allow --download, or put"
    ) as error:
        read(tmp_path, False)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
