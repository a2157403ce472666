"""The datasets: their facts, and how each is read into uint8 arrays.

What is kept of them on disk is in `data/cache.py`, what a trial takes of them in `data/splits.py`.
Facts cost no import of torch.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.store.errors import InputError
from trainers.machine import usable_cpus
from trainers.registry import Registry, unknown

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
ANY_NUMBER: Final = 2**31 - 1
BLOCK_BYTES: Final = 1 << 26  # decoded at a time
FOLDER: Final = "folder/"  # what names of image folders begin with


class Pending(NamedTuple):
    """A split that is still to be decoded, block by block."""

    labels: NDArray[np.int64]  # (N,)
    image_shape: tuple[int, int, int]  # (H, W, C)
    images: Callable[
        [int, int], NDArray[np.uint8]
    ]  # samples start to stop: (stop - start, H, W, C)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """All images in order, and where they belong."""
        step = max(1, BLOCK_BYTES // math.prod(self.image_shape))
        for start in range(0, len(self.labels), step):
            stop = min(start + step, len(self.labels))
            yield slice(start, stop), self.images(start, stop)


class Splits(NamedTuple):
    """Images (N, H, W, C) uint8 and labels (N,) int64 of both splits."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


class Wanted(NamedTuple):
    """What a dataset that is made to measure needs to know of the trial."""

    data_dir: Path
    image_size: int
    num_classes: int
    samples_per_class: int


Reader = Callable[[Path, bool], Splits]
Maker = Callable[[Wanted], tuple[Pending, Pending]]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Facts of a dataset, and the way to its images.

    That is `read`, or `make` where images depend on the trial; `labels`, without any, has neither.
    """

    num_classes: int | None  # K unless a study says otherwise; None: it has to
    most_classes: int
    samples_per_class: int | None = None  # unless a study says otherwise; None: all there are
    image_size: int | None = None
    mean: tuple[float, ...] = ()  # per channel, of pixels scaled to [0, 1]
    std: tuple[float, ...] = ()
    read: Reader | None = None
    make: Maker | None = None
    folder: str | None = None  # where its files lie in the data folder; None: it has no files

    @property
    def channels(self) -> int:
        """Of its images; 0 if it has none."""
        return len(self.mean)

    @property
    def has_images(self) -> bool:
        """Whether there are images, rather than labels alone."""
        return self.channels > 0


DATASETS: Final[Registry[Dataset]] = Registry("dataset", {})


def find_dataset(name: str) -> Dataset:
    """A registered dataset, or `folder/<name>`. Raises InputError, with the nearest name."""
    if name.startswith(FOLDER):
        return _image_folder(name.removeprefix(FOLDER))
    if name not in DATASETS.names():
        raise unknown("dataset", name, [*DATASETS.names(), f"{FOLDER}NAME"])
    return DATASETS[name]


def register_dataset(
    name: str, *, num_classes: int, image_size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Reader], Reader]:
    """Decorator for a reader `f(data_dir, download) -> Splits`.

    Args: `image_size` is the side in pixels that images are resized to unless a study says
    otherwise; `mean` and `std` are per channel, of pixels scaled to [0, 1].
    """

    def add(read: Reader) -> Reader:
        DATASETS.register(name)(
            Dataset(
                num_classes=num_classes,
                most_classes=num_classes,
                image_size=image_size,
                mean=mean,
                std=std,
                read=read,
            )
        )
        return read

    return add


# Labels alone, for models that see no images; K is a field of the trial.
DATASETS.register("labels")(Dataset(num_classes=10, most_classes=ANY_NUMBER))


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


def _torchvision(name: str, folder: str, data_dir: Path, download: bool) -> Splits:
    from torchvision import datasets

    def read(train: bool) -> tuple[Images, Labels]:
        split = getattr(datasets, name)(data_dir, train, download=download)
        images, labels = np.asarray(split.data), np.asarray(split.targets, np.int64)
        if not 0 < len(images) == len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        if images.ndim == 3:  # Paper: grey images are converted to 3 channels.
            images = np.repeat(images[..., None], 3, axis=-1)
        return images, labels

    try:
        return Splits(*read(True), *read(False))
    except Exception as error:  # a damaged archive, pickle or idx file raises nearly anything
        hint = _hint(data_dir / folder, download)
        raise InputError(
            f"{name} can't be read from {data_dir} ({_reason(error)}); {hint}"
        ) from error


def _hint(folder: Path, download: bool) -> str:
    there = folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))
    if there and download:
        return f"remove {folder} to fetch it anew"
    if there:
        return f"remove {folder} and allow --download, or put its files there"
    return f"{'check the network' if download else 'allow --download'}, or put its files there"


def _reason(error: Exception) -> str:
    """What happened, in one line, without torchvision's advice on its own arguments."""
    text = " ".join(str(error).split()).partition(" You can use download")[0].rstrip(".")
    plain = text and isinstance(error, RuntimeError | OSError | ValueError)
    return text if plain else f"{type(error).__name__}: {text}".rstrip(": ")


_MNIST_MEAN, _MNIST_STD = (0.1307,) * 3, (0.3081,) * 3
_FASHION_MEAN, _FASHION_STD = (0.286,) * 3, (0.353,) * 3
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _add(
    name: str,
    theirs: str,
    folder: str,
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> None:
    """Register a dataset of torchvision, by the name of its class and of its folder."""
    DATASETS.register(name)(
        Dataset(
            num_classes=num_classes,
            most_classes=num_classes,
            image_size=32,
            mean=mean,
            std=std,
            read=partial(_torchvision, theirs, folder),
            folder=folder,
        )
    )


_add("mnist", "MNIST", "MNIST", 10, _MNIST_MEAN, _MNIST_STD)
_add("fashion_mnist", "FashionMNIST", "FashionMNIST", 10, _FASHION_MEAN, _FASHION_STD)
_add("cifar10", "CIFAR10", "cifar-10-batches-py", 10, _CIFAR_MEAN, _CIFAR_STD)
_add("cifar100", "CIFAR100", "cifar-100-python", 100, _CIFAR_MEAN, _CIFAR_STD)


def _synthetic(wanted: Wanted) -> tuple[Pending, Pending]:
    """A coarse random pattern a class, under three times as much noise."""
    side, classes = wanted.image_size, wanted.num_classes
    patterns = np.random.default_rng(0).integers(64, size=(classes, 4, 4, 3), dtype=np.uint8)
    cells = np.arange(side) * 4 // side
    patterns = patterns[:, cells[:, None], cells]

    def split(samples_per_class: int, seed: int) -> Pending:
        labels = np.arange(classes * samples_per_class) % classes
        shape = (len(labels), side, side, 3)
        noise = np.random.default_rng(seed).integers(192, size=shape, dtype=np.uint8)

        def block(start: int, stop: int) -> Images:
            return noise[start:stop] + patterns[labels[start:stop]]

        return Pending(labels, (side, side, 3), block)

    return split(wanted.samples_per_class, 1), split(100, 2)


DATASETS.register("synthetic")(
    Dataset(
        num_classes=10,
        most_classes=1000,
        samples_per_class=500,
        image_size=32,
        mean=(0.5,) * 3,
        std=(0.23,) * 3,
        make=_synthetic,
    )
)


def _image_folder(name: str) -> Dataset:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(
            f"{FOLDER + name!r} names no folder inside the data folder; write "
            f"{FOLDER}NAME, with images in NAME/train/CLASS/ and NAME/test/CLASS/"
        )
    return Dataset(
        num_classes=None,
        most_classes=ANY_NUMBER,
        image_size=32,
        mean=(0.485, 0.456, 0.406),  # of ImageNet
        std=(0.229, 0.224, 0.225),
        make=partial(_from_folder, name),
        folder=name,
    )


def _from_folder(name: str, wanted: Wanted) -> tuple[Pending, Pending]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Resize

    root, side = wanted.data_dir / name, wanted.image_size
    tests = (root / name for name in ("test", "val"))
    test_folder = next(filter(Path.is_dir, tests), root / "test")
    fit = Compose([Resize(side), CenterCrop(side)])  # of the shorter side, and of the middle
    try:
        train, test = ImageFolder(root / "train", fit), ImageFolder(test_folder, fit)
    except OSError as error:
        raise InputError(
            f"{FOLDER}{name} can't be read ({_reason(error)}); put images in "
            f"{root / 'train'}/CLASS/ and {root / 'test'}/CLASS/"
        ) from error
    if strange := sorted({*train.classes} ^ {*test.classes}):
        raise InputError(
            f"{FOLDER}{name} has class {strange[0]!r} in only one of {root / 'train'} and "
            f"{test_folder}; both need a folder for every class"
        )
    return _to_decode(train, side), _to_decode(test, side)


def _to_decode(folder: "ImageFolder", side: int) -> Pending:
    def image(index: int) -> Images:
        try:
            return np.asarray(folder[index][0])
        except Exception as error:  # a damaged image raises nearly anything, after its format
            raise InputError(
                f"image {folder.samples[index][0]} can't be decoded ({_reason(error)}); "
                "correct or remove it"
            ) from error

    def block(start: int, stop: int) -> Images:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            return np.stack([*pool.map(image, range(start, stop))])

    return Pending(np.asarray(folder.targets, np.int64), (side, side, 3), block)
