"""Decoded splits in memory-mapped files, which every process of a node shares.

A file holds one split: a header, the images (N, H, W, C) uint8 and the labels (N,) int64. It is
named by a fingerprint of the dataset's own files, so that replaced data are decoded anew. What the
images are is not decided here.
"""

import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from analysis.store.files import PART_SUFFIX, whole_file
from analysis.store.locks import lock
from trainers.datasets import Pending
from trainers.image_folder import walk_once

VERSION: Final = 2  # raised when the same files are decoded otherwise, or written otherwise
HEADER_BYTES: Final = 4096  # a page, so that images begin on one


class Stored(NamedTuple):
    """A decoded split. Writing to a mapped one changes neither the file nor other processes."""

    images: NDArray[np.uint8]  # (N, H, W, C)
    labels: NDArray[np.int64]  # (N,)
    crc32: int  # of shape, images and labels


Decode = Callable[[], tuple[Pending, Pending]]


class DamagedError(Exception):
    """A cache file is not what was written."""


def in_memory(split: Pending) -> Stored:
    """A split in this process's own memory."""
    images = np.empty((len(split.labels), *split.image_shape), np.uint8)
    for where, block in split.blocks():
        images[where] = block
    return Stored(images, split.labels, _crc32(images, split.labels))


def load(
    folder: Path, name: str, *, source: Path, decode: Decode, may_fetch: bool, stamp: str = ""
) -> tuple[Stored, Stored]:
    """Both splits of a dataset, mapped from `folder`, which is filled first if need be.

    One process at a time decodes, and fetches if it `may_fetch`, while others wait. Where nothing
    can be written, the splits are kept in memory, which is said on stderr, as is a damaged file.

    Args: `name` is unique to the dataset and how it is decoded; its own files lie in `source`;
        `stamp` is their fingerprint as far as known, by which a split that is there is found
        without a look at them.
    Raises: what `decode` raises, apart from OSError.
    """
    if stamp:
        with suppress(OSError, DamagedError):  # of other files, on another machine
            return _open(folder, name, stamp)
    if not may_fetch and not source.exists():
        train, test = decode()  # raises, most likely: leave no folder behind
        return in_memory(train), in_memory(test)
    try:
        return _open(folder, name, fingerprint(source))
    except (OSError, DamagedError):
        pass  # looked into below, when nobody else is writing
    try:
        with lock(fs.LocalFileSystem(), str(folder / ".lock"), wait=True):
            return _open_or_fill(folder, name, source, decode)
    except OSError as error:
        train, test = map(in_memory, decode())
        print(
            f"{name} can't be cached in {folder} ({error.strerror or error}); "
            "every process keeps a copy of its own in memory",
            file=sys.stderr,
        )
        return train, test


def fingerprint(source: Path) -> str:
    """Ten hex digits of the names, sizes and modification times of all files under `source`."""
    files = []
    for folder, names in walk_once(source) if source.is_dir() else ():
        for name in names:
            if not name.endswith(".gz"):  # archives come and go beside what was extracted from them
                path = folder / name
                files.append([str(path.relative_to(source)), *_size_and_time(path)])
    text = json.dumps([VERSION, sorted(files)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:10]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _paths(folder: Path, name: str, stamp: str) -> tuple[Path, Path]:
    stem = f"{name}.{stamp}"
    return folder / f"{stem}.train", folder / f"{stem}.test"


def _open(folder: Path, name: str, stamp: str) -> tuple[Stored, Stored]:
    train, test = _paths(folder, name, stamp)
    return read(train), read(test)


def _open_or_fill(folder: Path, name: str, source: Path, decode: Decode) -> tuple[Stored, Stored]:
    try:
        return _open(folder, name, fingerprint(source))
    except FileNotFoundError:
        pass
    except DamagedError as error:
        print(f"{error}; it is built anew", file=sys.stderr)
    splits = decode()  # may fetch what the fingerprint is of
    paths = _paths(folder, name, fingerprint(source))
    for old in folder.iterdir():
        # Of replaced data, or of a writer that was killed: nobody else writes now.
        if old.name.rsplit(".", 2)[0] == name or old.suffix == PART_SUFFIX:
            with suppress(OSError):  # a kernel or a server may hold on to it for a while
                old.unlink(missing_ok=True)
    for path, split in zip(paths, splits, strict=True):
        write(path, split)
    return read(paths[0]), read(paths[1])


def write(path: Path, split: Pending) -> None:
    """Decode a split into a file, which appears whole or not at all. Raises OSError."""
    shape = (len(split.labels), *split.image_shape)
    with whole_file(path) as file:
        file.write(bytes(HEADER_BYTES))
        crc = _shape_crc(shape)
        for _, block in split.blocks():
            crc = _append(file, block, crc)
        crc = _append(file, split.labels.astype("<i8"), crc)
        file.seek(0)
        header = {"shape": shape, "crc32": crc}
        file.write(json.dumps(header).encode().ljust(HEADER_BYTES))


def _append(file: IO[bytes], array: NDArray, crc: int) -> int:
    array = np.ascontiguousarray(array)
    file.write(array.data)
    return zlib.crc32(array.data, crc)


def _shape_crc(shape: tuple[int, ...]) -> int:
    return zlib.crc32(json.dumps(shape).encode())


def read(path: Path) -> Stored:
    """Map a split's images into memory; its labels are read.

    Raises: DamagedError unless the file is what `write` wrote, to the last bit; OSError.
    """
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(HEADER_BYTES))
            shape, expected = tuple(header["shape"]), header["crc32"]
            labels_at = HEADER_BYTES + math.prod(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"cache {path} is damaged (header)") from error
        size = os.fstat(file.fileno()).st_size
        if len(shape) != 4 or size != labels_at + 8 * shape[0]:
            raise DamagedError(f"cache {path} is damaged ({size} bytes of another length)")
        # Copy-on-write rather than read-only, which torch warns of.
        images = np.memmap(file, np.uint8, "c", HEADER_BYTES, shape)
        file.seek(labels_at)
        labels = np.fromfile(file, "<i8")
    if _crc32(images, labels) != expected:
        raise DamagedError(f"cache {path} is damaged (checksum)")
    return Stored(images, labels.astype(np.int64), expected)


def _crc32(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> int:
    """What `write` makes of a split, block by block."""
    crc = zlib.crc32(images.data, _shape_crc(images.shape))
    return zlib.crc32(np.ascontiguousarray(labels, "<i8").data, crc)
