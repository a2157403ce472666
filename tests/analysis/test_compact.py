"""Merged files hold what the small ones held, for every reader and at every moment."""

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.compact import main
from analysis.store.errors import InputError, ResultsError
from analysis.store.locks import SWEEP_LOCK
from analysis.store.results import ResultStore
from analysis.store.rows import EpochRow
from analysis.store.schema import EPOCHS, SCHEMA_VERSION, TABLES
from analysis.trials.load import load_results
from orchestrator.plan.ledger import forget, read_ledger
from tests.analysis.merged_store import (
    any_row_twice,
    assert_same,
    fill,
    frames,
    names,
    run,
    write_again,
)
from tests.analysis.recorded_store import COLLAPSE, Store
from trainers.config import TrialConfig
from trainers.run.loop import run_trial


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
    assert results.read_rows("scores", first) == [] != results.read_rows("scores", second)
    forget(results, [first])  # a sweep that was killed after it forgot
    assert read_ledger(results).status(first) == "running"


def test_a_merged_trial_is_not_trained_again_until_it_is_forgotten(
    store: Store, tiny: Callable[..., TrialConfig], without_times: Callable[[list], list]
) -> None:
    results, configs = ResultStore(store.root), [tiny(seed=0, epochs=2), tiny(seed=1, epochs=2)]
    reported: list[EpochRow] = []
    for config in configs:
        run_trial(config, lambda _: None, store=results)
    before = frames(store.root)
    run(store)
    first = configs[0].trial_id
    assert run_trial(configs[0], reported.append, store=results)["attempts"] == 1
    assert reported == results.read_rows("epochs", first)
    (name,) = names(store, "epochs")
    assert re.fullmatch(r"merged-000000000001-[0-9a-f]{12}\.parquet", name)
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


def joined(*roots: Path, into: Path) -> Store:
    """Results folders in one, as docs/scale.md advises."""
    for root in roots:
        shutil.copytree(root, into, dirs_exist_ok=True)
    return Store(into)


def half(tmp_path: Path, name: str, *, first: int, trials: int = 3) -> Store:
    store = Store(tmp_path / name, trials=first)
    fill(store, trials)
    return store


@pytest.mark.parametrize("merged", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_folders_that_were_merged_can_be_joined(
    tmp_path: Path, merged: tuple[bool, bool], overlap: int
) -> None:
    parts = [half(tmp_path, "a", first=0), half(tmp_path, "b", first=3 - overlap)]
    expected = frames(joined(*(part.root for part in parts), into=tmp_path / "unmerged").root)
    for part, is_merged in zip(parts, merged, strict=True):
        if is_merged:
            run(part)
    both = joined(*(part.root for part in parts), into=tmp_path / "both")
    seen = [frames(both.root)]
    run(both)
    seen.append(frames(both.root))
    assert not any_row_twice(both)
    for found in seen:
        for name in TABLES:
            found[name], wanted = (
                frame.sort_values(list(frame.columns[:3]), ignore_index=True)
                for frame in (found[name], expected[name])
            )
            if overlap:  # the same trials, with another seed each in this fixture
                assert found[name]["trial_id"].tolist() == wanted["trial_id"].tolist()
            else:
                pd.testing.assert_frame_equal(found[name], wanted)


def test_a_trial_that_is_merged_in_two_joined_folders_is_of_one_of_them(tmp_path: Path) -> None:
    a = half(tmp_path, "a", first=0)
    shutil.copytree(a.root, tmp_path / "b")
    b = Store(tmp_path / "b")
    for store, number in ((a, 1), (b, 2)):
        for trial_id in ResultStore(store.root).names("trials"):
            name = trial_id.removesuffix(".parquet")
            row = {**ResultStore(store.root).read_rows("trials", name)[0], "attempts": number}
            ResultStore(store.root).write_rows("trials", name, [row])
            epochs = ResultStore(store.root).read_rows("epochs", name)
            rows = [{**each, "lr": float(number)} for each in epochs]
            ResultStore(store.root).write_rows("epochs", name, rows)
        run(store)
    both = joined(a.root, b.root, into=tmp_path / "both")
    for _ in range(2):
        found = frames(both.root)
        (winner,) = found["trials"]["attempts"].unique()
        assert found["epochs"]["lr"].unique().tolist() == [winner]
        assert len(found["epochs"]) == 9
        run(both)


def test_a_copy_that_grew_elsewhere_can_be_joined_again(store: Store, tmp_path: Path) -> None:
    fill(store, 2)
    run(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copy = Store(tmp_path / "copy", trials=20)
    for grown in (store, copy):
        fill(grown, 2)
        run(grown)
    both = joined(store.root, copy.root, into=tmp_path / "both")
    assert len(frames(both.root)["trials"]) == 6
    run(both)
    assert len(frames(both.root)["trials"]) == 6
    assert not any_row_twice(both)


@pytest.mark.parametrize("table", ["trials", "epochs", "scores"])
@pytest.mark.parametrize(
    "name", ["{} (conflicted copy).parquet", "{}.1.parquet", "000000000009.parquet", "merged"]
)
def test_a_stray_copy_is_named_and_counts_nowhere(
    store: Store, table: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_ = fill(store, 2)
    if name == "merged":
        run(store)
        source = next((store.root / table).glob("merged-*"))
        stray = source.with_name(f"{source.stem} (1).parquet")
    else:
        source = store.root / table / f"{first}.parquet"
        stray = store.root / table / name.format(first)
    shutil.copy(source, stray)
    said = re.escape(f"{stray} holds trial {first}, which it is not named for")
    with pytest.raises(ResultsError, match=said):
        load_results(store.root)
    if table == "trials":
        with pytest.raises(InputError, match=said):
            read_ledger(ResultStore(store.root))
    if stray.stem == "000000000009":
        with pytest.raises(ResultsError, match=said):
            ResultStore(store.root).read_rows(table, stray.stem)
    capsys.readouterr()
    if name != "merged" and table != "trials":
        run(store)  # strays are of no trial, so they stay
    stray.unlink()
    assert len(frames(store.root)["trials"]) == 2
