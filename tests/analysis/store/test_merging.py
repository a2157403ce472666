"""Merging that is killed, that others read and write beside, or that an object store fails."""

import itertools
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.compact import main
from analysis.store import merging
from analysis.store.results import ResultStore
from analysis.store.schema import EPOCHS
from analysis.trials.load import load_results
from tests.analysis.merged_store import (
    any_row_twice,
    assert_same,
    fill,
    frames,
    run,
    write_again,
)
from tests.analysis.recorded_store import COLLAPSE, Store
from tests.orchestrator.sweeps import wait_for
from tests.s3_server import Faulty, serve

MERGE = """
import sys
from analysis.store import merging
from analysis.compact import main
merging.MOST_BYTES = 20_000
print("starts", flush=True)
main(["--results", sys.argv[1]])
"""


def test_a_trial_written_meanwhile_keeps_its_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(store, 4)
    merge = merging._delete_taken

    def late(table: merging.OwnedTable, batch: merging._Batch) -> None:
        if table.folder.endswith("epochs"):
            row = {"trial_id": ids[1], "epoch": 1, "nc1_train": 77.0}
            store.write("epochs", ids[1], [row], EPOCHS)
        merge(table, batch)

    monkeypatch.setattr(merging, "_delete_taken", late)
    run(store)
    epochs = load_results(store.root).epochs
    assert epochs.loc[epochs["trial_id"] == ids[1], "nc1_train"].tolist() == [77.0]


class Killed(BaseException):
    pass


def killed_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let so many writes, new generations and deletions be done, and no more."""
    done = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: object) -> object:
            if next(done) > steps:
                raise Killed
            return function(*args)

        return step

    for name in ("write_atomic", "renew_generation", "_delete"):
        patch.setattr(merging, name, dying(getattr(merging, name)))


@pytest.mark.parametrize("again", [(), (2, 5)], ids=["first merge", "with reruns"])
def test_killed_at_any_step_it_is_completed(
    store: Store, small_batches: None, monkeypatch: pytest.MonkeyPatch, again: tuple[int, ...]
) -> None:
    """Each step in turn is the first that a run doesn't reach; the next goes on from there."""
    ids = fill(store, 10)
    if again:
        run(store)
    for i in again:
        write_again(store, ids[i])
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=99)
    expected, steps = frames(store.root), 0
    while True:
        with monkeypatch.context() as patch:
            killed_after(patch, steps)
            try:
                run(store)
                break
            except Killed:
                steps += 1
        assert_same(frames(store.root), expected)
        assert again or not any_row_twice(store)
    assert steps > 8  # files of both tables were hidden, told of, deleted, shown
    assert_same(frames(store.root), expected)
    assert not any_row_twice(store)
    assert list(store.root.rglob(".*")) == []


def look(root: Path, stop: str, results: "multiprocessing.Queue[object]") -> None:
    """Read again and again, until told to stop; says how often, or what went wrong."""
    expected, count = frames(root), 0
    try:
        while not Path(stop).exists():
            assert_same(frames(root), expected)
            count += 1
            Path(f"{stop}.looking").touch()
        results.put(count)
    except BaseException as error:
        results.put(repr(error))
        raise


@pytest.mark.slow
def test_readers_see_all_rows_while_it_runs_and_dies(tmp_path: Path) -> None:
    store, stop = Store(tmp_path / "results"), tmp_path / "stop"
    ids, rng = fill(store, 100, epochs=1), random.Random(0)
    expected = frames(store.root)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    reader = context.Process(target=look, args=(store.root, str(stop), queue))
    reader.start()
    wait_for((tmp_path / "stop.looking").exists, "the reader's first look")
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", MERGE, str(store.root)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
        assert_same(frames(store.root), expected)
        run(store)
        assert_same(frames(store.root), expected)
        assert not any_row_twice(store)
        for trial_id in rng.sample(ids, 30):
            write_again(store, trial_id)
    stop.touch()
    seen = queue.get(timeout=60)
    reader.join()
    assert isinstance(seen, int), seen
    assert seen > 0


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    with serve(monkeypatch) as server:
        yield server


def test_on_an_object_store(s3: Faulty, small_batches: None) -> None:
    store = ResultStore("s3://bucket/run")
    for number in range(12):
        trial_id = f"{number:012x}"
        row = {"trial_id": trial_id, "status": "finished", "epochs_done": 1, "seed": number}
        store.write_rows("trials", trial_id, [row])
        store.write_rows("epochs", trial_id, [{"trial_id": trial_id, "epoch": 1, "lr": number}])
    before = frames(store.location)
    s3.rate = 0.1
    assert main(["--results", store.location]) == 0
    s3.rate = 0.0
    assert_same(frames(store.location), before)
    assert all(name.startswith("merged-") for name in store.names("epochs"))
    assert store.read_rows("epochs", f"{7:012x}")[0]["lr"] == 7
    assert store.names("trials") == [n for n in store.names("trials") if "merged" in n]
