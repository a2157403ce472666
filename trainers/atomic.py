"""Whole-file writes: a reader sees the old bytes or the new, never a part."""

import os
from pathlib import Path
from uuid import uuid4

from pyarrow import fs

PART_SUFFIX = ".part"


def write_atomic(filesystem: fs.FileSystem, path: str, data: bytes) -> None:
    """Replace the file at `path` whole, making its folder if need be. Raises OSError.

    On a local disk through a unique sibling, fsync and rename; on an object store, whose puts are
    whole by themselves, in a single put.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        _write_local(Path(path), data)
        return
    filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid4().hex}{PART_SUFFIX}")  # rename needs one filesystem
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
