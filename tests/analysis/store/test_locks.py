"""Locks: on a disk, and for object stores, where any pyarrow filesystem will do to test it."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from analysis.store import locks as lease_module
from analysis.store.errors import InputError, LeaseLostError, WriteError
from analysis.store.locks import lease, remove_expired
from analysis.store.results import ResultStore

LOCAL = fs.LocalFileSystem()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 30.0)
    monkeypatch.setattr(lease_module, "RENEW_S", 0.05)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[str]:
    """A lock's path. Nothing is left of it at the end."""
    yield str(tmp_path / ".lock")
    assert list(tmp_path.iterdir()) == []


def test_it_has_one_holder_at_a_time(lock: str) -> None:
    holders, most, turns = [0], [0], [0]

    def work() -> None:
        for _ in range(3):
            with lease(LOCAL, lock, wait=True) as check:
                holders[0] += 1
                most[0] = max(most[0], holders[0])
                time.sleep(0.02)
                check()
                turns[0] += 1
                holders[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (turns[0], most[0]) == (12, 1)


def test_a_living_holder_is_told_from_a_dead_one(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_S", 2.0)
    (tmp_path / ".lock.dead").touch()
    with lease(LOCAL, lock, wait=False):  # once the other one is old
        assert not (tmp_path / ".lock.dead").exists()
        with pytest.raises(BlockingIOError), lease(LOCAL, lock, wait=False):
            pass


def test_an_old_claim_holds_nobody_up(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=pytest.fail)
    monkeypatch.setattr(lease_module, "time", clock)
    (tmp_path / ".lock.dead").touch()
    os.utime(tmp_path / ".lock.dead", (0, 0))
    with lease(LOCAL, lock, wait=True):
        pass


def test_a_holder_that_cannot_renew_learns_that_it_lost(
    lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(LOCAL, lock, wait=False) as check:
        check()
        monkeypatch.setattr(lease_module, "LEASE_S", 0.3)

        def unreachable(*_: object) -> None:
            raise OSError("no answer")

        monkeypatch.setattr(lease_module, "write_atomic", unreachable)
        time.sleep(0.5)
        with pytest.raises(LeaseLostError, match=r"not renewed for 0\.3 s"):
            check()


def test_claims_of_the_dead_are_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".a.lock.dead").touch()
    (tmp_path / "trial").mkdir()
    remove_expired(LOCAL, str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2  # it may be alive
    os.utime(tmp_path / ".a.lock.dead", (0, 0))
    remove_expired(LOCAL, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["trial"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
@pytest.mark.parametrize("wait", [False, True])
def test_a_disk_without_locks_is_told_by_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wait: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = rf"{tmp_path} is on a file system without locks \({os.strerror(number)}\).* mount it"
    with (
        pytest.raises(WriteError, match=said),
        lease_module.lock(LOCAL, str(tmp_path / ".lock"), wait=wait),
    ):
        pass
    with pytest.raises(InputError, match=f"--results {tmp_path}/results: {said}"):
        ResultStore(tmp_path / "results").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_cannot_be_removed_is_free_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "busy")

    path = str(tmp_path / ".lock")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", busy)
        for _ in range(2):
            with lease_module.lock(LOCAL, path, wait=False):
                pass
    with lease_module.lock(LOCAL, path, wait=False):
        pass
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys
from pyarrow import fs
from analysis.store.locks import lock
with lock(fs.LocalFileSystem(), sys.argv[1], wait=True):
    print("held", flush=True)
    input()
"""


def test_who_waits_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease_module, "PATIENCE_S", 0.1)
    path = str(tmp_path / ".lock")
    command = [sys.executable, "-c", HOLD, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        ends = threading.Timer(0.5, holder.communicate, [b"\n"])
        ends.start()
        with lease_module.lock(LOCAL, path, wait=True):
            pass
        ends.join()
    said = capsys.readouterr().err
    assert said == f"waiting for {path}, held by process {holder.pid} on {socket.gethostname()}\n"
    with lease_module.lock(LOCAL, path, wait=True):
        pass
    assert capsys.readouterr().err == ""
