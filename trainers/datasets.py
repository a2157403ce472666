"""The datasets: their facts, and how each is read into uint8 arrays.

What a batch looks like and how it is augmented is in `data.py`. Facts cost no import of torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.registry import InputError, Registry


class Splits(NamedTuple):
    """Images (N, H, W, C) uint8 and labels (N,) int64 of both splits."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


Reader = Callable[[Path, bool], Splits]


@dataclass(frozen=True)
class Dataset:
    """Facts of a dataset. `read` is None for `labels`, which has no images."""

    num_classes: int
    image_size: int | None = None
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    read: Reader | None = None


DATASETS: Final[Registry[Dataset]] = Registry("dataset", {})


def register_dataset(
    name: str, *, num_classes: int, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Reader], Reader]:
    """Decorator for a reader `f(data_dir, download) -> Splits`.

    Args: `image_size` is the side in pixels that images are resized to unless a study says
    otherwise; `mean` and `std` are per channel, of pixels scaled to [0, 1].
    """

    def add(read: Reader) -> Reader:
        facts = Dataset(num_classes, image_size, len(mean), mean, std, read)
        DATASETS.register(name)(facts)
        return read

    return add


# Labels alone, for models that see no images; K is a field of the trial.
DATASETS.register("labels")(Dataset(num_classes=10))


@register_dataset("digits", num_classes=10, image_size=8, mean=(0.3054,), std=(0.3753,))
def digits(data_dir: Path, download: bool) -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8x8: the first 80 % train, the rest test.

    The file's order is kept, as in scikit-learn's own examples, so most test digits come from
    writers that no model has seen.
    """
    from sklearn.datasets import load_digits

    raw_images, raw_labels = map(np.asarray, load_digits(return_X_y=True))
    images = np.rint(raw_images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = raw_labels.astype(np.int64)
    cut = len(labels) * 4 // 5
    return Splits(images[:cut], labels[:cut], images[cut:], labels[cut:])


def _torchvision(name: str, data_dir: Path, download: bool) -> Splits:
    from torchvision import datasets

    def read(train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        try:
            split = getattr(datasets, name)(data_dir, train, download=download)
        except (RuntimeError, OSError) as error:  # what torchvision and urllib raise
            hint = (
                "check the network, or put its files there"
                if download
                else "allow --download, or put its files there"
            )
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{name} can't be read from {data_dir} ({reason}); {hint}") from error
        images = np.asarray(split.data)
        if images.ndim == 3:  # Paper: grey images are converted to 3 channels.
            images = np.repeat(images[..., None], 3, axis=-1)
        return images, np.asarray(split.targets, np.int64)

    return Splits(*read(True), *read(False))


_MNIST_MEAN, _MNIST_STD = (0.1307,) * 3, (0.3081,) * 3
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@register_dataset("mnist", num_classes=10, image_size=32, mean=_MNIST_MEAN, std=_MNIST_STD)
def mnist(data_dir: Path, download: bool) -> Splits:
    """MNIST, in 3 channels."""
    return _torchvision("MNIST", data_dir, download)


@register_dataset(
    "fashion_mnist", num_classes=10, image_size=32, mean=(0.286,) * 3, std=(0.353,) * 3
)
def fashion_mnist(data_dir: Path, download: bool) -> Splits:
    """Fashion-MNIST, in 3 channels."""
    return _torchvision("FashionMNIST", data_dir, download)


@register_dataset("cifar10", num_classes=10, image_size=32, mean=_CIFAR_MEAN, std=_CIFAR_STD)
def cifar10(data_dir: Path, download: bool) -> Splits:
    """CIFAR-10."""
    return _torchvision("CIFAR10", data_dir, download)


@register_dataset("cifar100", num_classes=100, image_size=32, mean=_CIFAR_MEAN, std=_CIFAR_STD)
def cifar100(data_dir: Path, download: bool) -> Splits:
    """CIFAR-100."""
    return _torchvision("CIFAR100", data_dir, download)
