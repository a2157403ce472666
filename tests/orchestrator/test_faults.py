"""Sweeps that are killed, interrupted, out of disk or on a failing store lose nothing.

Each test does the damage, gives the same command again and compares every row with a run that
nothing disturbed. Moments are random, from a seed: `FAULT_ROUNDS=10` damages a sweep that often
instead of twice, `FAULT_SEED=1` (or any number) does so at other moments.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from tests.orchestrator.sweeps import (
    TABLES,
    TWO,
    Rows,
    checkpoints,
    commands,
    finish,
    processes,
    rows,
    start,
    wait_for,
)
from tests.s3_server import serve
from trainers.results import ResultStore

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))
SEED = int(os.environ.get("FAULT_SEED", "0"))
TRAINING_S = 5.0  # about how long the trials of a sweep train
WORKER, RANK = "ray::ImplicitFunc", "ray::_Rank"
PLAIN = ("--no-mlflow", "--quiet")
Same = Callable[[Path | str, Rows], None]


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> Iterator[float]:
    """Seconds to wait before each round's damage."""
    chosen = random.Random(f"{SEED} {request.node.name}")
    return iter([chosen.uniform(0, TRAINING_S) for _ in range(ROUNDS)])


@pytest.fixture
def same(without_times: Callable) -> Same:
    def check(results: Path | str, expected: Rows) -> None:
        found = rows(results)
        for table in TABLES:
            assert without_times(found[table]) == without_times(expected[table]), table
        store = ResultStore(results)
        selector = fs.FileSelector(store.root, recursive=True)
        files = [i for i in store.filesystem.get_file_info(selector) if i.is_file and i.base_name]
        assert [i.path for i in files if i.base_name.startswith(".")] == []
        assert [i.path for i in files if "/checkpoints/" in i.path] == []

    return check


def kill(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def none_left(*sweeps: subprocess.Popen[str]) -> None:
    for sweep in sweeps:
        wait_for(lambda s=sweep: not processes(s.pid), "the end of every process", timeout_s=90)


@pytest.mark.parametrize("victim", ["driver", "driver and workers"])
def test_a_killed_driver(
    home: Path, undisturbed: Rows, same: Same, moments: Iterator[float], victim: str
) -> None:
    name = victim.replace(" ", "-")
    sweeps = []
    for moment in moments:
        sweeps.append(sweep := start(home, name, *PLAIN))
        wait_for(lambda s=sweep: commands(s.pid, WORKER) or s.poll() is not None, "a worker")
        time.sleep(moment)
        workers = commands(sweep.pid, WORKER) if "workers" in victim else []
        kill([sweep.pid, *workers])
        sweep.communicate()
    finish(start(home, name))  # at once: workers whose driver is gone may be writing still
    same(home / name, undisturbed)
    none_left(*sweeps)


@pytest.mark.parametrize("kind", ["worker", "rank"])
def test_a_killed_worker_comes_back_by_itself(
    home: Path, undisturbed: Rows, two_ranks: Rows, same: Same, moments: Iterator[float], kind: str
) -> None:
    """Of a trial of one process, and of one whose ranks wait for each other."""
    more = TWO if kind == "rank" else ()
    study = "ddp.yaml" if kind == "rank" else "study.yaml"
    process_name = RANK if kind == "rank" else WORKER
    sweep = start(home, kind, *PLAIN, "--retries", "100", *more, study=study)
    wait_for(lambda: checkpoints(home / kind), "a checkpoint")
    for moment in (0.0, *moments):  # the first one surely in the middle of a trial
        time.sleep(moment)
        if sweep.poll() is None:
            kill(commands(sweep.pid, process_name)[-1:])
    finish(sweep)
    same(home / kind, two_ranks if kind == "rank" else undisturbed)
    assert max(row["attempts"] for row in rows(home / kind)["trials"]) > 1
    none_left(sweep)


@pytest.mark.parametrize("asked_by", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_trials_finish_their_epoch(
    home: Path, undisturbed: Rows, same: Same, asked_by: signal.Signals
) -> None:
    name = asked_by.name
    sweep = start(home, name)
    wait_for(lambda: checkpoints(home / name), "a checkpoint")
    if asked_by == signal.SIGINT:
        os.killpg(sweep.pid, asked_by)  # as a terminal does
    else:
        os.kill(sweep.pid, asked_by)
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    assert "finishing the epochs under way; Ctrl-C again to stop now" in out
    assert "interrupted; every finished epoch is safe. To continue: python" in out
    assert "Traceback" not in out
    stopped = [row for row in rows(home / name)["trials"] if row["status"] == "running"]
    assert stopped, "nothing was left to stop"
    for row in stopped:  # its row was brought up to date after its last checkpoint
        newest = max(checkpoints(home / name / row["trial_id"]), default=None)
        saved = max((home / name / "checkpoints" / row["trial_id"]).glob("*.pt"), default=newest)
        assert saved is None or saved.stem == f"epoch_{row['epochs_done']:06d}"
    none_left(sweep)
    finish(start(home, name))
    same(home / name, undisturbed)


def test_asked_to_end_ranks_agree_on_their_last_epoch(
    home: Path, two_ranks: Rows, same: Same
) -> None:
    sweep = start(home, "agree", *PLAIN, *TWO, study="ddp.yaml")
    wait_for(lambda: checkpoints(home / "agree"), "a checkpoint")
    os.kill(sweep.pid, signal.SIGINT)
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    (trial,) = rows(home / "agree")["trials"]
    assert trial["status"] == "running"
    assert max(checkpoints(home / "agree")).stem == f"epoch_{trial['epochs_done']:06d}"
    finish(start(home, "agree", *PLAIN, *TWO, study="ddp.yaml"))
    same(home / "agree", two_ranks)


def test_asked_twice_all_ends_at_once(home: Path, undisturbed: Rows, same: Same) -> None:
    sweep = start(home, "twice", *PLAIN)
    wait_for(lambda: checkpoints(home / "twice"), "a checkpoint")
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)
        time.sleep(0.05)  # two signals at one moment are one to the kernel
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, out
    assert "interrupted; every finished epoch is safe" in out
    assert "Traceback" not in out
    none_left(sweep)
    finish(start(home, "twice", *PLAIN))
    same(home / "twice", undisturbed)


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of its own, of a few megabytes."""
    folder = home / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_in_the_middle(
    home: Path, undisturbed: Rows, same: Same, small_disk: Path
) -> None:
    results = small_disk / "results"
    sweep = start(home, str(results), *PLAIN, "--retries", "1")
    wait_for(lambda: checkpoints(results), "a checkpoint")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    assert f"can't be written into {results}/" in out
    assert "No space left on device; every finished epoch is safe. To continue: python" in out
    assert "Traceback" not in out
    rows(results)  # every file is whole
    assert list(results.rglob("*.part")) == []
    none_left(sweep)
    filler.unlink()
    finish(start(home, str(results), *PLAIN))
    same(results, undisturbed)


def test_a_store_that_fails_one_request_in_ten(
    home: Path,
    undisturbed: Rows,
    same: Same,
    moments: Iterator[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also killed there, so that its locks outlive it, and with another sweep at the door."""
    with serve(monkeypatch, seed=SEED) as s3:
        s3.rate = 0.1
        results = "s3://bucket/run"
        store = ResultStore(results)
        sweep = start(home, results, *PLAIN)
        wait_for(lambda: store.names("trials"), "a trial")
        other = start(home, results, *PLAIN)
        out, _ = other.communicate(timeout=120)
        assert other.returncode == 2, out
        assert f"error: another sweep is running into {results}" in out
        kill([sweep.pid, *commands(sweep.pid, WORKER)])
        sweep.communicate()
        again = start(home, results, *PLAIN)
        finish(again)
        assert sum(s3.seen[fault] for fault in ("500", "503", "dropped", "answer lost")) > 20
        s3.rate = 0
        same(results, undisturbed)
        none_left(sweep, other, again)
