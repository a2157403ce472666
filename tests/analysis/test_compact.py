"""Merged files hold what the small ones held, for every reader and at every moment."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import merging
from analysis.compact import main
from analysis.load import ResultsError, load_results
from analysis.lock import SWEEP_LOCK
from analysis.schema import EPOCHS, FEATURES, SCHEMA_VERSION, TABLES
from orchestrator.ledger import forget, read_ledger
from tests.analysis.recorded_store import COLLAPSE, Store
from tests.s3_server import Faulty, serve
from trainers.config import TrialConfig
from trainers.loop import run_trial
from trainers.results import ResultStore

MERGE = """
import sys
from analysis import merging
from analysis.compact import main
merging.MOST_BYTES = 20_000
print("starts", flush=True)
main(["--results", sys.argv[1]])
"""
SCORE_BINS = {"bias": [(0.5, 0.5, 1)], "positive": [(0.0, 1.0, 7)]}


def fill(store: Store, trials: int, *, epochs: int = 3) -> list[str]:
    """Trials that finished, with rows in every table."""
    ids = []
    for seed in range(trials):
        metrics = [{"nc1_train": seed + e / 10, "accuracy_test": None} for e in range(epochs)]
        ids.append(store.add(COLLAPSE, metrics, scores=SCORE_BINS, seed=seed))
        row = {"trial_id": ids[-1], "sample_index": 3, "label": 1, "features": [0.5, float(seed)]}
        store.write("features", ids[-1], [row], FEATURES)
    return ids


def run(store: Store) -> None:
    assert main(["--results", str(store.root)]) == 0


def frames(root: Path | str) -> dict[str, pd.DataFrame]:
    results = load_results(root, tables=tuple(TABLES))
    return {name: getattr(results, name) for name in TABLES}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(found[name], expected[name])


def any_row_twice(store: Store) -> bool:
    """Whether a reader who knows nothing of merged files sees one so."""
    epochs = pd.read_parquet(store.root / "epochs")
    return bool(epochs.duplicated(["trial_id", "epoch"]).any())


def write_again(store: Store, trial_id: str) -> None:
    """A trial trains anew, to the same end."""
    results = ResultStore(store.root)
    for table in ("scores", "epochs", "trials"):
        results.write_rows(table, trial_id, results.read_rows(table, trial_id))


def names(store: Store, table: str) -> list[str]:
    return sorted(os.listdir(store.root / table))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several merged files of several row groups from a few trials."""
    monkeypatch.setattr(merging, "MOST_BYTES", 8000)
    monkeypatch.setattr(merging, "GROUP_BYTES", 2000)
    monkeypatch.setattr(merging, "_AT_ONCE", 3)


@pytest.mark.parametrize("batches", ["one", "several"])
def test_every_reader_finds_the_same(
    store: Store, batches: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    if batches == "several":
        request.getfixturevalue("small_batches")
    ids = fill(store, 20)
    results = ResultStore(store.root)
    before, ledger = frames(store.root), read_ledger(results)
    rows = {(table, i): results.read_rows(table, i) for table in TABLES for i in ids}
    run(store)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" files became ")[0] for line in lines] == [f"{t}: 20" for t in TABLES]
    assert_same(frames(store.root), before)
    assert read_ledger(results) == ledger
    assert {key: results.read_rows(*key) for key in rows} == rows
    assert results.read_rows("epochs", "unknown") == []
    merged = names(store, "epochs")
    assert all(name.startswith("merged-") for name in merged)
    assert (len(merged) == 1) == (batches == "one")
    schema = pq.read_schema(store.root / "epochs" / merged[0])
    assert schema.equals(EPOCHS)
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert len(pd.read_parquet(store.root / "epochs")) == 60


def test_a_second_run_has_nothing_to_do(
    store: Store, small_batches: None, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 12)
    run(store)
    before, files = frames(store.root), names(store, "epochs")
    capsys.readouterr()
    run(store)
    assert capsys.readouterr().out.count("nothing to merge\n") == 4
    assert names(store, "epochs") == files
    assert_same(frames(store.root), before)


def test_one_trial_is_not_merged(store: Store) -> None:
    (only,) = fill(store, 1)
    run(store)
    assert names(store, "epochs") == [f"{only}.parquet"]
    assert not (store.root / "compacted").exists()


def test_a_row_group_is_found_by_its_trials(store: Store, small_batches: None) -> None:
    fill(store, 20)
    run(store)
    (name, *_) = names(store, "epochs")
    metadata = pq.ParquetFile(store.root / "epochs" / name).metadata
    spans = [metadata.row_group(i).column(0).statistics for i in range(metadata.num_row_groups)]
    assert len(spans) > 1
    assert all(a.max <= b.min for a, b in itertools.pairwise(spans))


@settings(max_examples=10, deadline=None)
@given(rounds=st.lists(st.tuples(st.sets(st.integers(0, 11)), st.booleans()), max_size=4))
def test_what_ran_last_wins(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[set[int], bool]]
) -> None:
    store = Store(tmp_path_factory.mktemp("run") / "results")
    ids, latest = fill(store, 12), dict.fromkeys(range(12), 0.0)
    run(store)
    for number, (again, merge) in enumerate(rounds, start=1):
        for i in again:
            latest[i] = 100.0 * number
            row = {"trial_id": ids[i], "epoch": 1, "nc1_train": latest[i]}
            store.write("epochs", ids[i], [row], EPOCHS)
        if merge:
            run(store)
            assert (
                not pd.read_parquet(store.root / "epochs").duplicated(["trial_id", "epoch"]).any()
            )
    epochs = load_results(store.root).epochs
    assert not epochs.duplicated(["trial_id", "epoch"]).any()
    rows = ResultStore(store.root)
    for i, trial_id in enumerate(ids):
        own = epochs[epochs["trial_id"] == trial_id]
        expected = [latest[i]] if latest[i] else [i + 0.0, i + 0.1, i + 0.2]
        assert own["nc1_train"].tolist() == pytest.approx(expected)
        assert [r["nc1_train"] for r in rows.read_rows("epochs", trial_id)] == list(
            own["nc1_train"]
        )


def test_a_rerun_without_epochs_has_none(store: Store) -> None:
    first, *_ = fill(store, 3)
    run(store)
    store.write("epochs", first, [], EPOCHS)
    for _ in range(2):
        assert first not in set(load_results(store.root).epochs["trial_id"])
        assert ResultStore(store.root).read_rows("epochs", first) == []
        run(store)
    assert first not in set(pd.read_parquet(store.root / "epochs")["trial_id"])


def test_trials_that_run_are_left_alone(store: Store) -> None:
    fill(store, 3)
    running = store.add(COLLAPSE, {"nc1_train": 1.0}, status="running", seed=9)
    before = frames(store.root)
    run(store)
    for table in ("trials", "epochs"):
        assert f"{running}.parquet" in names(store, table)
        assert len(names(store, table)) == 2
    assert_same(frames(store.root), before)


def test_a_forgotten_trial_is_to_do_and_starts_anew(store: Store) -> None:
    first, second, *_ = fill(store, 3)
    run(store)
    results = ResultStore(store.root)
    forget(results, [first])
    ledger = read_ledger(results)
    assert (ledger.status(first), ledger.status(second)) == ("running", "finished")
    (row,) = results.read_rows("trials", first)
    assert (row["epochs_done"], row["attempts"], row["started_at"]) == (0, None, None)
    assert (row["dataset"], row["seed"]) == ("cifar10", 0)
    forget(results, [first])  # a sweep that was killed after it forgot
    assert read_ledger(results).status(first) == "running"


def test_a_merged_trial_is_not_trained_again_until_it_is_forgotten(
    store: Store, tiny: Callable[..., TrialConfig], without_times: Callable[[list], list]
) -> None:
    results, configs = ResultStore(store.root), [tiny(seed=0, epochs=2), tiny(seed=1, epochs=2)]
    reported: list[dict[str, Any]] = []
    for config in configs:
        run_trial(config, lambda _: None, store=results)
    before = frames(store.root)
    run(store)
    first = configs[0].trial_id
    assert run_trial(configs[0], reported.append, store=results)["attempts"] == 1
    assert reported == results.read_rows("epochs", first)
    assert names(store, "epochs") == ["merged-000000000001.parquet"]
    forget(results, [first])
    assert run_trial(configs[0], lambda _: None, store=results)["attempts"] == 1
    assert f"{first}.parquet" in names(store, "epochs")
    assert without_times(results.read_rows("epochs", first)) == without_times(reported)
    run(store)
    assert not any_row_twice(store)
    pd.testing.assert_frame_equal(frames(store.root)["scores"], before["scores"])


def test_a_broken_file_is_named_and_nothing_touched(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = fill(store, 5)
    path = store.root / "scores" / f"{ids[3]}.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    before = sorted(store.root.rglob("*"))
    assert main(["--results", str(store.root)]) == 2
    assert f"{path} is not a whole Parquet file" in capsys.readouterr().err
    assert sorted(store.root.rglob("*")) == before


def test_what_was_merged_counts_again_without_a_broken_rerun(store: Store) -> None:
    first, *_ = fill(store, 3)
    run(store)
    before = frames(store.root)
    write_again(store, first)
    path = store.root / "epochs" / f"{first}.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ResultsError, match=rf"{path.name} is not a whole.*\n.*\*/TRIAL_ID.parquet"):
        load_results(store.root)
    for file in store.root.glob(f"*/{first}.parquet"):
        file.unlink()
    assert_same(frames(store.root), before)


def test_a_broken_merged_file_is_named(store: Store) -> None:
    fill(store, 5)
    run(store)
    (path,) = (store.root / "epochs").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{path.name}, which holds many trials.*delete it and"):
        load_results(store.root)
    path.unlink()
    for merged in (store.root / "trials").glob("merged-*.parquet"):
        merged.unlink()
    assert read_ledger(ResultStore(store.root)).rows == {}


def test_another_schema_version_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = fill(store, 5)
    other = EPOCHS.empty_table().replace_schema_metadata({"schema_version": "0"})
    pq.write_table(other, store.root / "epochs" / f"{ids[0]}.parquet")
    assert main(["--results", str(store.root)]) == 2
    assert "has schema_version 0" in capsys.readouterr().err
    assert len(names(store, "trials")) == 5


def test_a_sweep_that_runs_is_not_disturbed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, 2)
    with ResultStore(store.root).lock(SWEEP_LOCK, wait=False):
        assert main(["--results", str(store.root)]) == 2
    assert "a sweep is running" in capsys.readouterr().err
    assert len(names(store, "trials")) == 2


@pytest.mark.parametrize("place", ["nowhere", "empty", "ftp://host/x"])
def test_what_is_no_results_folder_is_refused(
    tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["--results", place if "://" in place else str(tmp_path / place)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_trial_written_meanwhile_keeps_its_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = fill(store, 4)
    merge = merging._delete_taken

    def late(table: merging.Table, batch: merging._Batch) -> None:
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
    assert steps > 10
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
