"""Folders of images, a folder for each class: which files are samples, and what pixels they hold.

Nothing is left out or turned into another image without a word: what can't be read as viewers show
it is refused by its name. Listing costs no import of Pillow.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.store.errors import InputError, one_line
from trainers.machine import usable_cpus

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS: Final = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
# What archives, shares and notebooks put beside the data; so do names that begin with a dot.
NOT_DATA: Final = frozenset(("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"))
SPLITS: Final = ("train", "test", "val")  # the last where there is no test
SEVERAL_PICTURES: Final = ("GIF", "PNG", "TIFF", "WEBP")  # formats whose frames are as good as one
PAPER: Final = (255, 255, 255)  # what is behind a transparent pixel
TAG_BITS, TAG_WHITE_IS = 258, 262  # of TIFF: bits per sample; photometric interpretation
WHITE_IS_ZERO: Final = 0


class Samples(NamedTuple):
    """The images of a split."""

    classes: Sequence[str]  # sorted; a label is a place in it
    paths: Sequence[Path]  # in the order of the classes, and by name in each
    labels: NDArray[np.int64]  # (N,)
    left_out: Counter[str]  # files that are no samples, by why


@dataclass(frozen=True)
class Folder:
    """Both splits of an image folder."""

    train: Samples
    test: Samples

    def notes(self, name: str) -> list[str]:
        """What of it isn't read, in a line for each split that has such files."""
        return [
            f"{name}: of its {split} split these files are left out: "
            f"{', '.join(f'{count:,} {why}' for why, count in left_out.most_common(5))} (images "
            f"end in {', '.join(ENDINGS)} and lie in the folder of a class)"
            for split, (*_, left_out) in (("training", self.train), ("test", self.test))
            if left_out
        ]


def walk_once(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders under `root` and their files, through links, each real folder once, sorted.

    Without what is hidden or put there by other programs. Raises OSError for a folder that can't be
    listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set[tuple[int, int]]()
    for folder, below, names in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(folder)
        known = (status.st_dev, status.st_ino) in seen
        seen.add((status.st_dev, status.st_ino))
        below[:] = [] if known else sorted(filter(_is_data, below))
        if not known:
            yield Path(folder), sorted(filter(_is_data, names))


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name not in NOT_DATA


def list_folder(root: Path, name: str) -> Folder:
    """The samples of both splits under `root`. Raises InputError if it isn't laid out so."""
    tests = [root / split for split in SPLITS[1:]]
    train_folder, test_folder = root / SPLITS[0], next(filter(Path.is_dir, tests), tests[0])
    try:
        train, test = list_samples(train_folder), list_samples(test_folder)
    except OSError as error:
        raise InputError(
            f"{name} can't be read ({one_line(error)}); put images in {train_folder}/CLASS/ and "
            f"{test_folder}/CLASS/"
        ) from error
    if strange := sorted({*train.classes} ^ {*test.classes}):
        raise InputError(
            f"{name} has class {strange[0]!r} in only one of {train_folder} and {test_folder}; "
            "both need a folder for every class"
        )
    return Folder(train, test)


def list_samples(split: Path) -> Samples:
    """The samples of one split. Raises InputError for a class without any, OSError."""
    inside = sorted(entry.name for entry in os.scandir(split) if _is_data(entry.name))
    classes = [name for name in inside if (split / name).is_dir()]
    left_out = Counter({"outside of a class": len(inside) - len(classes)})
    paths: list[Path] = []
    labels: list[int] = []
    owners: dict[str, str] = {}  # of each real folder, its class
    for label, name in enumerate(classes):
        found = _files(split / name, name, owners)
        images = [path for path in found if path.suffix.lower() in ENDINGS]
        others = (path for path in found if path.suffix.lower() not in ENDINGS)
        left_out.update(path.suffix or "without ending" for path in others)
        if not images:
            raise InputError(
                f"{split / name} has no images; put some there, in files that end in "
                f"{', '.join(ENDINGS)}, or remove it"
            )
        paths += images
        labels += [label] * len(images)
    return Samples(classes, paths, np.asarray(labels, np.int64), +left_out)


def _files(folder: Path, name: str, owners: dict[str, str]) -> list[Path]:
    """Files of a class. Raises InputError if a folder is in another class, too, by a link."""
    found = []
    for below, names in walk_once(folder):
        owner = owners.setdefault(os.path.realpath(below), name)
        if owner != name:
            raise InputError(
                f"{below} is in two classes, {owner} and {name}, by a link; remove the link"
            )
        found += [below / file for file in names]
    return sorted(found, key=lambda path: (str(path.parent), path.name))


def decode(paths: Sequence[Path], side: int) -> NDArray[np.uint8]:
    """Images (N, side, side, 3): the shorter side resized, then the middle of the longer one.

    Raises InputError, which names every image that can't be decoded.
    """
    with ThreadPoolExecutor(usable_cpus()) as pool:
        decoded = [*pool.map(lambda path: _decoded(path, side), paths)]
    bad = [(path, why) for path, why in zip(paths, decoded, strict=True) if isinstance(why, str)]
    if bad:
        others = f", nor can {', '.join(str(path) for path, _ in bad[1:4])}" if bad[1:] else ""
        more = f" and {len(bad) - 4:,} more" if bad[4:] else ""
        raise InputError(
            f"image {bad[0][0]} can't be decoded ({bad[0][1]}){others}{more}; correct or remove "
            f"{'them' if bad[1:] else 'it'}"
        )
    return np.stack([image for image in decoded if not isinstance(image, str)])


def _decoded(path: Path, side: int) -> NDArray[np.uint8] | str:
    """The pixels of an image, or why there are none."""
    from PIL import Image
    from torchvision.transforms.functional import center_crop, resize

    try:
        with Image.open(path) as image:
            rgb = to_rgb(image)
        return np.asarray(center_crop(resize(rgb, [side]), [side, side]))  # pyright: ignore
    except Exception as error:  # a damaged image raises nearly anything, after its format
        return one_line(error).replace(f" {str(path)!r}", "")  # which is said already


def to_rgb(image: "Image") -> "Image":
    """An opened image as viewers show it, in mode RGB.

    Turned as its EXIF data say; 16-bit greys scaled, so that the largest number is white; what is
    transparent, on white. Raises ValueError for numbers whose white nobody knows, and for files of
    several pictures.
    """
    from PIL import Image, ImageOps

    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in SEVERAL_PICTURES:
        raise ValueError(f"it holds {frames} pictures; keep one")
    if image.mode[0] in "IF":
        image = Image.fromarray(_grey(image))
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        behind = Image.new("RGBA", image.size, PAPER)
        image = Image.alpha_composite(behind, image.convert("RGBA"))
    return image.convert("RGB")


def _grey(image: "Image") -> NDArray[np.uint8]:
    """An image of large numbers as greys of 8 bits. Raises ValueError if their range is unknown."""
    tags = getattr(image, "tag_v2", {})
    unsigned = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    if not unsigned or "transparency" in image.info:
        raise ValueError(f"nothing says which of its numbers is white (mode {image.mode})")
    white = 2 ** tags.get(TAG_BITS, (16,))[0] - 1
    greys = np.asarray(image).astype(np.float64)
    if tags.get(TAG_WHITE_IS) == WHITE_IS_ZERO:
        greys = white - greys
    return np.rint(greys * (255 / white)).astype(np.uint8)
