"""A lock on an object store: an object that its holder keeps renewing, and a dead one doesn't.

Stores have no locks, and pyarrow has no conditional put. So whoever wants the lock puts a claim, an
object of its own name, then lists the claims and holds the lock if it sees no other that is alive;
else it takes its claim back and tries again later. Of two claims, the one put later sees the
earlier, since the stores list what was put before (S3 since 2020, Google's and Azure's too): never
do both hold. Age is measured by the store's clock alone, as the time between two puts.

One window is left, as with any lease: a holder that is frozen (a paused machine) for longer than
LEASE_S after it checked and before its write arrives, writes although another may hold the lock.
"""

import errno
import fcntl
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

from pyarrow import fs

from analysis.store.errors import LeaseLostError, WriteError
from analysis.store.files import write_atomic

LEASE_S = 30.0  # without a renewal, a claim counts for no longer than this
RENEW_S = 5.0
PATIENCE_S: Final = 1.0  # after which a process says that it waits
NO_LOCKS: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def lease(filesystem: fs.FileSystem, path: str, *, wait: bool) -> Iterator[Callable[[], None]]:
    """Hold the lock `path`; gives a function that raises LeaseLostError once it is lost.

    With `wait` False it waits only as long as the other holder may be dead, at most LEASE_S, and
    raises BlockingIOError once that has renewed its claim.
    """
    claim = _take(filesystem, path, wait=wait)
    over = threading.Event()
    renewing = threading.Thread(target=claim.renew_until, args=(over,), daemon=True)
    renewing.start()
    try:
        yield claim.check
    finally:
        over.set()
        renewing.join()
        claim.remove()


def remove_expired(filesystem: fs.FileSystem, folder: str) -> None:
    """Remove the claims in a folder whose holders died."""
    probe = _Claim(filesystem, f"{folder}/.")
    probe.put()
    probe.others()
    probe.remove()


def _take(filesystem: fs.FileSystem, path: str, *, wait: bool) -> "_Claim":
    seen: dict[str, datetime] = {}
    is_said = False
    while True:
        claim = _Claim(filesystem, f"{path}.")
        claim.put()
        others = claim.others()
        if others == {} and not claim.is_old():
            return claim
        claim.remove()
        others = others or {}
        if not wait and any(seen.get(name, at) != at for name, at in others.items()):
            raise BlockingIOError(f"{path} is locked")
        if wait and others and not is_said:
            print(f"waiting for {path}, held by another process", file=sys.stderr)
            is_said = True
        seen |= others
        time.sleep(random.uniform(0.1, 0.5) * RENEW_S)  # not in step with who else is waiting


class _Claim:
    """One process's object. Its name is never used again."""

    def __init__(self, filesystem: fs.FileSystem, prefix: str) -> None:
        self._filesystem = filesystem
        self._prefix = prefix
        self._path = f"{prefix}{uuid4().hex}"
        self._renewed = 0.0

    def put(self) -> None:
        """Make it as new."""
        started = time.time()  # not monotonic(), which stands still while a laptop sleeps
        write_atomic(self._filesystem, self._path, b"")
        self._renewed = started

    def is_old(self) -> bool:
        """Whether others may count it as dead."""
        return time.time() - self._renewed > LEASE_S

    def check(self) -> None:
        """Raises LeaseLostError if it is old."""
        if self.is_old():
            raise LeaseLostError(f"{self._path} was not renewed for {LEASE_S:g} s")

    def others(self) -> dict[str, datetime] | None:
        """When each other living claim was put, by path; removes dead ones. None: try again."""
        folder = self._prefix.rpartition("/")[0]
        listed = self._filesystem.get_file_info(fs.FileSelector(folder))
        claims = {i.path: i.mtime for i in listed if i.path.startswith(self._prefix) and i.mtime}
        now = claims.pop(self._path, None)
        if now is None:
            return None  # someone who found it old removed it
        dead = [path for path, at in claims.items() if now - at > timedelta(seconds=LEASE_S)]
        for path in dead:
            self._delete(path)
            del claims[path]
        return claims

    def renew_until(self, over: threading.Event) -> None:
        """Keep it new. What fails is tried again; `check` tells when that took too long."""
        while not over.wait(RENEW_S) and not self.is_old():
            with suppress(OSError):
                self.put()

    def remove(self) -> None:
        """Take it back."""
        self._delete(self._path)

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._filesystem.delete_file(path)


SWEEP_LOCK: Final = ".sweep.lock"  # whoever writes more than one trial into a folder holds it


@contextmanager
def lock(filesystem: fs.FileSystem, path: str, *, wait: bool) -> Iterator[Callable[[], None]]:
    """Hold the lock at `path`; gives a check that it is still held.

    On a disk it is the kernel's and can't be lost. On NFS it holds between machines too, and a
    server of NFSv4 frees what a machine that died has held after 90 s or what it is set to;
    mounted with `nolock` or `local_lock=flock` it excludes only the processes of one machine.
    On an object store see `store.locks`: it ends 30 s after its holder, and the check raises
    LeaseLostError when it could not be renewed.

    Raises BlockingIOError if it is taken and `wait` is False, WriteError where no lock can be held.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):
        with lease(filesystem, path, wait=wait) as check:
            yield check
        return
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with place.open("a+") as file:
            _flock(file, place, wait=wait)
            if not _is_at(file, place):  # its last holder removed it while this one waited
                continue
            try:
                _sign(file)
                yield lambda: None
            finally:
                with suppress(OSError):  # NFS keeps what another machine has open
                    place.unlink(missing_ok=True)
            return


def _flock(file: IO[str], path: Path, *, wait: bool) -> None:
    """Raises BlockingIOError if it is taken, WriteError where the file system has no locks."""
    try:
        if not wait:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif not _taken_at_once(file):
            file.seek(0)
            print(f"waiting for {path}, held by {file.read() or 'another'}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise _without_locks(path.parent, error) from error


def check_locks(file: IO[bytes], folder: Path) -> None:
    """Raises WriteError if files of a folder, of which one is open, can't be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise _without_locks(folder, error) from error


def _without_locks(folder: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{folder} is on a file system without locks ({error.strerror}), so that two writers could "
        "not be told apart; mount it with them (NFS without nolock, Lustre with flock), or choose "
        "another place"
    )


def _taken_at_once(file: IO[str]) -> bool:
    """Whether a lock could be had within PATIENCE_S. Raises OSError."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def _sign(file: IO[str]) -> None:
    """Say who holds a lock, for those who wait for it."""
    with suppress(OSError):  # a full disk: it is held all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
