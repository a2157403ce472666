"""Sweeps that are killed, interrupted, out of disk or on a failing store lose nothing.

Each test does the damage, gives the same command again and compares every row with a run that
nothing disturbed. Moments are random, from a seed: `FAULT_ROUNDS=10` runs each test ten times,
`FAULT_SEED=1` (or any number) at other moments.
"""

import contextlib
import os
import pty
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import cast

import pytest
from ray.cluster_utils import Cluster

from analysis.store.results import CHECKPOINTS, ResultStore
from tests.orchestrator.sweeps import (
    LONG,
    TWO,
    Rows,
    Same,
    checkpoints,
    commands,
    finish,
    processes,
    rows,
    start,
    wait_for,
)
from tests.s3_server import FAULTS, serve

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
SEED = int(os.environ.get("FAULT_SEED", "0"))
WORKER, RANK = "ray::ImplicitFunc", "ray::_Rank"
PLAIN = ("--no-mlflow", "--quiet")
DDP = (*PLAIN, *TWO, "--retries", "100")
Sweep = subprocess.Popen[str]
rounds = pytest.mark.parametrize("number", range(ROUNDS))


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def kill(pids: list[int]) -> None:
    signalled(pids, signal.SIGKILL)


def signalled(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.kill(pid, number)


def none_left(*sweeps: Sweep) -> None:
    for sweep in sweeps:
        wait_for(lambda s=sweep: not processes(s.pid), "the end of every process", timeout_s=90)


def kill_driver(sweep: Sweep, results: Path) -> None:
    kill([sweep.pid])
    sweep.communicate()  # and on at once: its workers may be writing still


def kill_driver_and_workers(sweep: Sweep, results: Path | str) -> None:
    kill([sweep.pid, *commands(sweep.pid, WORKER)])
    sweep.communicate()


def ctrl_c(sweep: Sweep, results: Path) -> None:
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does
    ends_after_its_epochs(sweep, results)


def terminate(sweep: Sweep, results: Path) -> None:
    os.kill(sweep.pid, signal.SIGTERM)  # as Slurm does
    ends_after_its_epochs(sweep, results)


def terminate_all(sweep: Sweep, results: Path) -> None:
    os.killpg(sweep.pid, signal.SIGTERM)  # as `timeout` does, and Slurm to what srun started
    ends_after_its_epochs(sweep, results)


def ctrl_c_twice(sweep: Sweep, results: Path) -> None:
    for _ in range(2):
        os.killpg(sweep.pid, signal.SIGINT)
        time.sleep(0.05)  # two signals at one moment are one to the kernel
    out, _ = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, out
    assert "interrupted; every finished epoch is safe" in out
    assert "Traceback" not in out
    none_left(sweep)


def ends_after_its_epochs(sweep: Sweep, results: Path) -> None:
    out, _ = sweep.communicate(timeout=120)
    if sweep.returncode == 0:
        return  # the epochs under way were the last
    assert sweep.returncode == 130, out
    assert "finishing the epochs under way; Ctrl-C again to stop now" in out
    assert "interrupted; every finished epoch is safe. To continue: python" in out
    assert "Traceback" not in out
    none_left(sweep)
    stopped = [row for row in rows(results)["trials"] if row["status"] == "running"]
    assert len(stopped) <= 2  # those that ran: what waited for a slot did not begin


ENDINGS = (kill_driver, kill_driver_and_workers, ctrl_c, terminate, terminate_all, ctrl_c_twice)


@rounds
def test_ended_in_every_way_in_turn(
    home: Path, longer: Rows, same: Same, chance: random.Random, number: int
) -> None:
    """The same command again and again; each time it gets a bit further, then it is ended."""
    name, sweeps = f"ended-{number}", []
    for end in chance.sample(ENDINGS, len(ENDINGS)):
        sweeps.append(sweep := start(home, name, *LONG))
        wait_for(lambda s=sweep: commands(s.pid, WORKER) or s.poll() is not None, "a worker")
        before = set(checkpoints(home / name))  # also of workers that outlived their driver
        wait_for(lambda s=sweep, b=before: further(home / name, s, b), "a new checkpoint")
        time.sleep(chance.uniform(0, 0.5))
        if sweep.poll() is None:
            end(sweep, home / name)
        else:
            finish(sweep)  # it was quicker
    finish(start(home, name, *LONG))
    same(home / name, longer)
    none_left(*sweeps)


def further(results: Path, sweep: Sweep, before: set[Path]) -> bool:
    """Whether a sweep has more checkpoints than before, or ended."""
    return not set(checkpoints(results)) <= before or sweep.poll() is not None


@rounds
def test_killed_workers_come_back_by_themselves(
    home: Path, undisturbed: Rows, same: Same, chance: random.Random, number: int
) -> None:
    results = home / f"worker-{number}"
    sweep = start(home, results.name, *PLAIN, "--retries", "100")
    kill_two(sweep, WORKER, results, chance)
    assert "Traceback" not in finish(sweep)
    same(results, undisturbed)
    assert max(row["attempts"] for row in rows(results)["trials"]) > 1
    none_left(sweep)


@rounds
def test_lost_machines_cost_no_try(
    home: Path, undisturbed: Rows, same: Same, chance: random.Random, number: int
) -> None:
    """One try a trial, and more machines lost than that, by a trial that gets on between."""
    results = home / f"machines-{number}"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        node = cluster.add_node(num_cpus=1)
        argv = ("--retries", "1", "--address", str(cluster.address))
        sweep = start(home, results.name, *PLAIN, *argv)
        for _ in range(3):
            before = set(checkpoints(results))
            wait_for(lambda b=before: further(results, sweep, b), "a new checkpoint")
            time.sleep(chance.uniform(0, 0.5))
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
        finish(sweep)
    finally:
        cluster.shutdown()
    same(results, undisturbed)
    assert sum(row["attempts"] - 1 for row in rows(results)["trials"]) >= 2


@rounds
def test_killed_ranks_come_back_and_agree_on_their_last_epoch(
    home: Path, two_ranks: Rows, same: Same, chance: random.Random, number: int
) -> None:
    results = home / f"ranks-{number}"
    sweep = start(home, results.name, *DDP, study="ddp.yaml")
    kill_two(sweep, RANK, results, chance)
    before = set(checkpoints(results))
    wait_for(lambda: further(results, sweep, before), "a new checkpoint")
    ctrl_c(sweep, results)
    (trial,) = rows(results)["trials"]
    assert trial["attempts"] > 1
    if trial["status"] == "running":
        assert max(checkpoints(results)).stem == f"epoch_{trial['epochs_done']:06d}"
    again = start(home, results.name, *DDP, study="ddp.yaml")
    finish(again)
    same(results, two_ranks)
    none_left(sweep, again)


@rounds
@pytest.mark.parametrize("name", ["gcs_server", WORKER, RANK])
def test_a_signal_to_all_of_a_sweep_is_one_to_its_driver(
    home: Path, chance: random.Random, name: str, number: int
) -> None:
    """While Ray starts, while the trial begins, and while its ranks train."""
    results = home / f"all-{name.removeprefix('ray::')}-{number}"
    argv = ("--no-mlflow", *TWO, "--epochs", "3000")
    sweep = start(home, results.name, *argv, study="ddp.yaml")
    there = lambda: any(name in command for command in processes(sweep.pid).values())  # noqa: E731
    wait_for(there, name)
    if name == RANK:
        wait_for(lambda: checkpoints(results), "a checkpoint")
    time.sleep(chance.uniform(0, 2))
    os.killpg(sweep.pid, signal.SIGTERM)
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    told = [line for line in out.splitlines() if not line.startswith(("ddp: 1 trial", "0/1 "))]
    if told[0].startswith("finishing the epochs under way"):
        del told[0]
    (line,) = told
    assert line.startswith("interrupted; every finished epoch is safe. To continue: python")
    none_left(sweep)


def kill_two(sweep: Sweep, name: str, results: Path, chance: random.Random) -> None:
    """Kill a process of a trial at the first checkpoint, and a later one at a random moment."""
    wait_for(lambda: checkpoints(results), "a checkpoint")
    kill(commands(sweep.pid, name)[-1:])
    wait_for(lambda: commands(sweep.pid, name) or sweep.poll() is not None, "a new one")
    time.sleep(chance.uniform(0, 4))  # from its start into its first epochs
    kill(commands(sweep.pid, name)[-1:])


def stop_and_go(sweep: Sweep, chance: random.Random) -> None:
    """A machine that sleeps, whole or a process of it: a laptop's lid, a debugger, a hypervisor."""
    there = [*processes(sweep.pid)]
    some = chance.choice([there, chance.sample(there, 1), [sweep.pid], commands(sweep.pid, WORKER)])
    signalled(some, signal.SIGSTOP)
    time.sleep(chance.uniform(1, 12))
    signalled(some, signal.SIGCONT)


def kill_one_of_rays(sweep: Sweep, chance: random.Random) -> None:
    """Without its head, its agent or its scheduler a cluster is lost, and the sweep says so."""
    parts = ("raylet/raylet", "gcs_server", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
    part = chance.choice(parts)
    kill([pid for pid, command in processes(sweep.pid).items() if part in command])
    out, _ = sweep.communicate(timeout=180)
    assert sweep.returncode in (0, 130), out  # 0: it had no more to ask of it
    assert "every finished epoch is safe" in out or sweep.returncode == 0


def kill_while_mlflow_begins(sweep: Sweep, chance: random.Random) -> None:
    """Its database is made in the first seconds."""
    kill([sweep.pid, *commands(sweep.pid, WORKER)])
    sweep.communicate()


def begin_another(sweep: Sweep, chance: random.Random) -> None:
    """Two sweeps want the same results; the second may find that the first has ended."""
    words = cast(list[str], sweep.args)
    results = words[words.index("--results") + 1]
    other = start(Path(os.readlink(f"/proc/{sweep.pid}/cwd")), results, *WITH_MLFLOW)
    out, _ = other.communicate(timeout=300)
    assert other.returncode in (0, 2), out
    if other.returncode:
        assert f"error: another sweep is running into {results}" in out
        assert "Traceback" not in out


WITH_MLFLOW = tuple(word for word in LONG if word != "--no-mlflow")
DAMAGES = (stop_and_go, kill_one_of_rays, kill_while_mlflow_begins, begin_another)


def database_begun(results: Path, sweep: Sweep) -> bool:
    return any(results.glob("*mlflow*")) or sweep.poll() is not None


@rounds
def test_a_day_of_damage(
    home: Path, longer: Rows, same: Same, chance: random.Random, number: int
) -> None:
    """Three of these, one after the other; the same command goes on after each."""
    name, sweeps = f"day-{number}", [start(home, f"day-{number}", *WITH_MLFLOW)]
    database = home / name / "mlflow.db"
    for damage in chance.sample(DAMAGES, 3):
        sweep, before = sweeps[-1], set(checkpoints(home / name))
        if damage is kill_while_mlflow_begins:
            wait_for(lambda s=sweep: database_begun(home / name, s), "MLflow's file")
        else:
            wait_for(lambda s=sweep, b=before: further(home / name, s, b), "a new checkpoint")
        time.sleep(chance.uniform(0, 2))
        if sweep.poll() is None:
            damage(sweep, chance)
        if sweep.poll() is not None:
            assert sweep.stdout
            sweep.stdout.close()  # of one that was quicker: nobody has read it
            sweeps.append(start(home, name, *WITH_MLFLOW))
    finish(sweeps[-1])
    same(home / name, longer)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "select status, count(*) from runs group by status"
        assert dict(connection.execute(query)) == {"FINISHED": 4}
    none_left(*sweeps)


@rounds
def test_nobody_listens(
    home: Path, undisturbed: Rows, same: Same, chance: random.Random, number: int
) -> None:
    """The terminal goes away in the middle, and what was closed before the start stays so."""
    name = f"unheard-{number}"
    reader, terminal = pty.openpty()
    sweep = start(home, name, "--no-mlflow", output=terminal)
    os.close(terminal)
    drain = Thread(target=read_on, args=(reader, closed := Event()), daemon=True)
    drain.start()
    wait_for(lambda: checkpoints(home / name), "a checkpoint")
    time.sleep(chance.uniform(0, 3))
    closed.set()
    drain.join()
    assert sweep.wait(timeout=300) == 0
    same(home / name, undisturbed)
    none_left(sweep)
    shutil.rmtree(home / name)
    sweep = start(home, name, "--no-mlflow", output=None)
    assert sweep.wait(timeout=300) == 0
    same(home / name, undisturbed)


def read_on(reader: int, closed: Event) -> None:
    """Be the terminal of a program, until it goes away."""
    while not closed.is_set():
        if select.select([reader], [], [], 0.1)[0]:
            os.read(reader, 65536)
    os.close(reader)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Write until there is no room for a byte more."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


@rounds
def test_a_disk_that_fills_up_in_the_middle(
    home: Path, undisturbed: Rows, same: Same, small_disk: Path, number: int
) -> None:
    results = small_disk / "results"
    sweep = start(home, str(results), *PLAIN, "--retries", "1")
    wait_for(lambda: checkpoints(results), "a checkpoint")
    filler = small_disk / "filler"
    fill(filler)
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    assert f"can't be written into {results}/" in out
    assert "No space left on device; every finished epoch is safe. To continue: python" in out
    assert len(out.splitlines()) == 1, out
    rows(results)  # every file is whole
    none_left(sweep)
    filler.unlink()
    finish(start(home, str(results), *PLAIN))
    assert list(results.rglob("*.part")) == []
    same(results, undisturbed)


def test_a_disk_that_fills_up_under_ranks(home: Path, small_disk: Path) -> None:
    results = small_disk / "results"
    argv = (*PLAIN, *TWO, "--retries", "1", "--epochs", "3000")
    sweep = start(home, str(results), *argv, study="ddp.yaml")
    wait_for(lambda: checkpoints(results), "a checkpoint")
    fill(small_disk / "filler")
    out, _ = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, out
    (line,) = out.splitlines()
    assert "No space left on device; every finished epoch is safe. To continue: python" in line
    none_left(sweep)


@rounds
def test_a_store_that_fails_one_request_in_ten(
    home: Path, longer: Rows, same: Same, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Two sweeps want it at once, and the one that gets it is killed, so that locks outlive it."""
    with serve(monkeypatch, seed=SEED + number) as s3:
        s3.rate = 0.1
        results = "s3://bucket/run"
        first, second = (start(home, results, *LONG) for _ in range(2))
        wait_for(lambda: first.poll() or second.poll(), "the end of one of them")
        refused, sweep = (first, second) if first.poll() else (second, first)
        out, _ = refused.communicate()
        assert refused.returncode == 2, out
        assert f"error: another sweep is running into {results}" in out
        store = ResultStore(results)
        wait_for(lambda: store.names(CHECKPOINTS), "a checkpoint")
        kill_driver_and_workers(sweep, results)
        again = start(home, results, *LONG)
        finish(again)
        assert sum(s3.seen[fault] for fault in FAULTS) > 20
        s3.rate = 0
        same(results, longer)
        none_left(first, second, again)
