"""Locks of a results folder that die with their holder's process, on a disk or an object store."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from pyarrow import fs

from analysis.lease import lease

SWEEP_LOCK: Final = ".sweep.lock"  # whoever writes more than one trial into a folder holds it


@contextmanager
def lock(filesystem: fs.FileSystem, path: str, *, wait: bool) -> Iterator[Callable[[], None]]:
    """Hold the lock at `path`; gives a check that it is still held.

    On a disk it is the kernel's and can't be lost. On NFS it holds between machines too, and a
    server of NFSv4 frees what a machine that died has held after 90 s or what it is set to;
    mounted with `nolock` or `local_lock=flock` it excludes only the processes of one machine.
    On an object store see `analysis.lease`: it ends 30 s after its holder, and the check raises
    LeaseLostError when it could not be renewed.

    Raises BlockingIOError if it is taken and `wait` is False.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with lease(filesystem, path, wait=wait) as check:
            yield check
        return
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with place.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_at(file, place):  # its last holder removed it while this one waited
                continue
            try:
                yield lambda: None
            finally:
                place.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
