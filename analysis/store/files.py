"""Whole-file writes: a reader sees the old bytes or the new, never a part."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

from pyarrow import fs

from analysis.store.errors import WriteError, one_line

PART_SUFFIX = ".part"


def write_atomic(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Replace the file at `path` whole, making its folder if need be. Raises WriteError.

    On a local disk through a unique sibling, fsync and rename; on an object store, whose puts are
    whole by themselves, in a single put.
    """
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            _write_local(Path(path), data)
            return
        if filesystem.type_name != "s3":  # which has no folders: making them is four requests
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with filesystem.open_output_stream(path) as stream:
            stream.write(data)
    except OSError as error:
        folder, _, name = path.rpartition("/")
        reason = error.strerror or one_line(error)
        raise WriteError(f"{name} can't be written into {folder}: {reason}") from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file on a disk to be written into, which takes its place whole, or not at all.

    Its folder must exist. Raises OSError.
    """
    part, file = _new_part(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        with suppress(OSError):  # NFS keeps what is open elsewhere; `remove_parts` comes later
            part.unlink(missing_ok=True)


def _new_part(path: Path) -> tuple[Path, IO[bytes]]:
    """A sibling of `path`, locked while its writer lives: see `remove_parts`."""
    while True:
        part = path.with_name(f".{path.name}.{uuid4().hex}{PART_SUFFIX}")  # rename is for one disk
        file = part.open("xb")
        with suppress(OSError):  # where there are no locks, `remove_parts` removes nothing
            fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return part, file
        file.close()  # taken for a leftover between its making and its lock


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder and those below it."""
    for part in folder.rglob(f".*{PART_SUFFIX}"):
        with suppress(OSError), part.open("r+b") as file:  # NFS locks only what is open for writing
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # taken: its writer lives
            part.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file on this machine whole, making its folder if need be. Raises WriteError."""
    write_atomic(fs.LocalFileSystem(), str(path), content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))
