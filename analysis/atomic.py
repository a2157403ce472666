"""Whole-file writes: a reader sees the old bytes or the new, never a part."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pyarrow import fs

PART_SUFFIX = ".part"


class WriteError(OSError):
    """A file can't be written, which is the disk's or the store's fault and not a trial's."""


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
        reason = error.strerror or " ".join(str(error).split())
        raise WriteError(f"{name} can't be written into {folder}: {reason}") from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    while not _replace(path, data):
        pass


def _replace(path: Path, data: bytes) -> bool:
    """False if the part was taken for a leftover between its making and its lock."""
    part = path.with_name(f".{path.name}.{uuid4().hex}{PART_SUFFIX}")  # rename needs one filesystem
    try:
        with part.open("xb") as file:
            with suppress(OSError):  # where there are no locks, `remove_parts` removes nothing
                fcntl.flock(file, fcntl.LOCK_EX)  # held while we live
            if not part.exists():
                return False
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return True


def remove_parts(folder: Path) -> None:
    """Remove what writers that were killed left in a folder and those below it."""
    for part in folder.rglob(f".*{PART_SUFFIX}"):
        with suppress(OSError), part.open("r+b") as file:  # NFS locks only what is open for writing
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # taken: its writer lives
            part.unlink()
