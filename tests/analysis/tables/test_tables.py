import json
from pathlib import Path

import pytest

from analysis.store.errors import GapError
from analysis.tables import build_table, build_tables
from analysis.tables.__main__ import entry, main
from analysis.tables.render import render_tables
from analysis.trials.load import load_results
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

TEST = {
    "accuracy_test": 0.5,
    "uniform_accuracy_test": 0.25,
    "compactness_test": 0.5,
    "distinctiveness_test": 0.25,
}


@pytest.fixture
def gap(store: Store) -> Store:
    """Two of four planned trials: CE is complete, one seed of BCE failed, one never started."""
    plan = {store.add(CLASSIFICATION, TEST): CLASSIFICATION}
    failed = store.add(CLASSIFICATION, status="failed", loss="bce")
    plan[failed] = {**CLASSIFICATION, "loss": "bce"}
    plan["notstarted01"] = {**CLASSIFICATION, "loss": "bce", "seed": 1}
    store.study("mine", plan)
    return store


def test_gap_lists_trials_and_commands_and_prints_no_table(
    gap: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(gap.root)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 of 3 trials of Tables 2, 3 are not finished" in err
    assert "000000000001  failed       dataset=cifar10 model=resnet18 loss=bce" in err
    assert "notstarted01  not started  " in err
    assert "\n  python orchestrator/sweep.py --study mine\n" in err
    assert "\n  python orchestrator/sweep.py --study mine --rerun failed\n" in err
    assert "--allow-partial" in err


def test_a_command_that_would_run_nothing_is_not_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = store.add(CLASSIFICATION, status="failed", loss="bce")
    grown = "python orchestrator/sweep.py --seeds 0 && python orchestrator/sweep.py --seeds 1"
    store.study("mine", {failed: {**CLASSIFICATION, "loss": "bce"}}, command=grown)
    assert main(["--results", str(store.root), "--table", "2"]) == 1
    _, commands = capsys.readouterr().err.split("run them with:\n")
    assert commands.splitlines()[:-1] == [
        "  python orchestrator/sweep.py --seeds 0 --rerun failed",
        "  python orchestrator/sweep.py --seeds 1 --rerun failed",
    ]


@pytest.mark.parametrize("option", ["--by", "--metric"])
def test_a_column_given_twice_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--by", "loss", option, "loss", "loss"])
    assert f"error: {option} loss loss names a column twice" in capsys.readouterr().err


def test_allow_partial_prints_a_dash_and_how_many_there_are(
    gap: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    gap.add(CLASSIFICATION, TEST, loss="bce", seed=2)  # finished, of no study: still not a mean
    assert main(["--results", str(gap.root), "--table", "2", "--allow-partial"]) == 0
    table = build_table(load_results(gap.root), 2, compare=False, allow_partial=True)
    assert [row[2:] for row in table.rows] == [
        ("CE", "50.00", "25.00"),
        ("BCE", "–", "–"),
        ("Δ = BCE − CE", "–", "–"),
    ]
    note = (
        "– cifar10 resnet18 sgd da1 bce: 1 of 3 seeds are finished; "
        "not: 000000000001 (failed), notstarted01 (not started)"
    )
    assert note in table.notes
    assert note in capsys.readouterr().out


def test_gap_in_another_table_is_none_in_this(gap: Store) -> None:
    gap.add(COLLAPSE, {"accuracy_train": 1.0})
    assert build_table(load_results(gap.root), 1).rows
    with pytest.raises(GapError):
        build_table(load_results(gap.root), 3)


def test_without_a_plan_unfinished_trials_are_named_in_a_note(store: Store) -> None:
    store.add(CLASSIFICATION, TEST)
    lost = store.add(CLASSIFICATION, status="diverged", seed=1)
    table = build_table(load_results(store.root), 2)
    assert table.notes[-1] == f"1 unfinished trials that are in no study are left out: {lost}"


def test_data_that_changed_between_the_trials_of_a_table_are_named(store: Store) -> None:
    ids = [
        store.add(CLASSIFICATION, TEST, seed=seed, data_fingerprint=fingerprint)
        for seed, fingerprint in enumerate((None, "aa", "aa", "bb"))
    ]
    store.add(CLASSIFICATION, TEST, dataset="mnist", data_fingerprint="cc")
    table = build_table(load_results(store.root), 2)
    (note,) = (note for note in table.notes if "changed" in note)
    assert note == (
        "cifar10 changed between its trials, which see 2 states of its data: 2 of aa (such as "
        f"{ids[1]}), 1 of bb (such as {ids[3]}); run them again with --rerun all to compare like "
        "with like"
    )
    assert main(["--results", str(store.root), "--by", "dataset", "--metric", "accuracy_test"]) == 0


def test_only_the_last_epoch_counts(store: Store) -> None:
    store.add(CLASSIFICATION, [{"accuracy_test": 0.9}, {"accuracy_test": 0.6}])
    table = build_table(load_results(store.root), 2, compare=False)
    assert table.rows[0][3] == "60.00"


def test_finished_trial_without_its_last_epoch_is_an_error(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    trial_id = store.add(CLASSIFICATION, TEST)
    (store.root / "epochs" / f"{trial_id}.parquet").unlink()
    assert main(["--results", str(store.root)]) == 2
    assert f"trial {trial_id} is finished but epochs/ has no row" in capsys.readouterr().err


def test_twins_are_refused(store: Store) -> None:
    first, second = store.add(CLASSIFICATION, TEST), store.add(CLASSIFICATION, TEST)
    with pytest.raises(ValueError, match=f"{first}, {second} have the same configuration and seed"):
        build_table(load_results(store.root), 2)


def test_table_without_trials_names_its_study(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(COLLAPSE, {"accuracy_train": 1.0})
    assert main(["--results", str(store.root)]) == 0
    assert "--study classification" in capsys.readouterr().out
    assert main(["--results", str(store.root), "--table", "1", "2"]) == 1
    assert "Table 2 has no trials in " in capsys.readouterr().err


def test_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: there is no folder")
    assert err.count("\n") == 1


def test_bad_table_number(store: Store) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--table", "4"])
    assert caught.value.code == 2
    store.add(COLLAPSE, {"accuracy_train": 1.0})
    with pytest.raises(ValueError, match=r"table=\['4'\] is unknown"):
        build_table(load_results(store.root), 4)


@pytest.mark.parametrize(
    ("fmt", "suffix"),
    [("markdown", "md"), ("latex", "tex"), ("csv", "csv"), ("json", "json"), ("html", "html")],
)
def test_out_writes_a_file_per_table(
    store: Store, tmp_path: Path, fmt: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(CLASSIFICATION, TEST)
    out = tmp_path / "out"
    arguments = ["--results", str(store.root), "--table", "2", "3", "--format", fmt]
    assert main([*arguments, "--out", str(out)]) == 0
    paths = [out / f"table{number}.{suffix}" for number in (2, 3)]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert all(path.stat().st_size for path in paths)


def test_render_is_what_the_command_prints(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(CLASSIFICATION, TEST)
    text = render_tables([build_table(load_results(store.root), 2, compare=False)], "json")
    arguments = ["--results", str(store.root), "--table", "2", "--format", "json", "--no-compare"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == text
    assert json.loads(text)[0]["name"] == "table2"


def test_the_best_epoch_only_where_it_is_asked_for(store: Store) -> None:
    """By accuracy on the test set; of several equal ones the first."""
    epochs = [
        {"accuracy_test": a, "uniform_accuracy_test": u}
        for a, u in ((0.5, 0.9), (0.8, 0.1), (0.8, 0.2), (None, None), (0.6, 0.5))
    ]
    store.add(CLASSIFICATION, epochs)
    results = load_results(store.root)
    best = build_table(results, 2, compare=False, select="best")
    assert best.rows[0][3:] == ("80.00", "10.00")
    assert any("chosen there, so too high" in note for note in best.notes)
    last = build_table(results, 2, compare=False)
    assert last.rows[0][3:] == ("60.00", "50.00")
    assert "best" not in str(last)


def test_a_trial_never_tested_keeps_its_last_epoch(store: Store) -> None:
    store.add(COLLAPSE, [{"accuracy_train": 0.5}, {"accuracy_train": 1.0}])
    table = build_table(load_results(store.root), 1, compare=False, select="best")
    assert ("A", "100.00") in {(row[2], row[3]) for row in table.rows}


def test_trace_names_what_is_behind_each_cell(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    first = store.add(CLASSIFICATION, TEST, git_commit="abc", version_torch="9.9")
    second = store.add(CLASSIFICATION, TEST, seed=1)
    planned = {first: CLASSIFICATION, second: {**CLASSIFICATION, "seed": 1}}
    store.study("mine", {**planned, "notyet000000": {**CLASSIFICATION, "seed": 2}})
    argv = ["--results", str(store.root), "--table", "2", "--trace", "--allow-partial"]
    assert main([*argv, "--format", "json"]) == 0
    _, trace = json.loads(capsys.readouterr().out)
    assert [row[:4] for row in trace["rows"]] == [
        ["cifar10 resnet18 sgd da1 ce", first, "0", "finished"],
        ["cifar10 resnet18 sgd da1 ce", second, "1", "finished"],
        ["cifar10 resnet18 sgd da1 ce", "notyet000000", "", "not started"],
    ]
    assert {"abc", "9.9", f"{{trials,epochs,scores}}/{first}.parquet"} <= set(trace["rows"][0])


def test_order_of_files_and_seeds_changes_nothing(tmp_path: Path) -> None:
    values = {("ce", 0): 0.1, ("ce", 1): 0.7, ("bce", 0): 0.8, ("bce", 1): 0.9}
    texts = set()
    for name, order in (("a", list(values)), ("b", list(reversed(values)))):
        store = Store(tmp_path / name / "results")
        for loss, seed in order:
            metrics = {**TEST, "accuracy_test": values[loss, seed]}
            store.add(CLASSIFICATION, metrics, loss=loss, seed=seed)
        texts.add(render_tables(build_tables(load_results(store.root), [2, 3]), "markdown"))
    assert len(texts) == 1


def test_entry_exits_with_mains_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["tables", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        entry()
    assert caught.value.code == 2
