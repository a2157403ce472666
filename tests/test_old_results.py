"""Results of version 0.1.0, kept in `tests/data`: read, tabled, added to, carried on by this one.

`results/` was made there by `old.yaml` and, killed at its epoch 30, by `stopped.json`; `merged/` is
the same after `analysis.compact`; `expected/` is what tables and theory printed of it.
"""

import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import load_results
from analysis.compact import main as compact
from analysis.store.results import ResultStore
from analysis.tables.__main__ import main as tables
from analysis.theory.__main__ import main as theory
from orchestrator.plan.ledger import read_ledger
from orchestrator.plan.study import expand, load_study
from tests.orchestrator.sweeps import start
from trainers.registry import load_plugins
from trainers.train import main as train

OLD = Path(__file__).parent / "data" / "v0.1.0"
STOPPED = "fd73f1daa957"


@pytest.fixture(params=["results", "merged"])
def here(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the old files in it; the results under the name that they had."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    (tmp_path / request.param).rename(tmp_path / "results_0.1.0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    return tmp_path


@pytest.mark.parametrize("fmt", ["markdown", "latex"])
def test_tables_are_those_of_then(fmt: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ["--results", "results_0.1.0", "--format", fmt]
    assert tables([*results, "--allow-partial"]) == 0
    assert capsys.readouterr().out == (here / "expected" / f"tables.{fmt}").read_text("utf-8")
    assert theory(results) == 0
    assert capsys.readouterr().out == (here / "expected" / f"theory.{fmt}").read_text("utf-8")


def test_everything_is_read(here: Path) -> None:
    results = load_results("results_0.1.0", tables=("trials", "epochs", "scores", "features"))
    assert results.trials["status"].value_counts().to_dict() == {
        "finished": 14, "failed": 1, "diverged": 1, "running": 1,
    }  # fmt: skip
    assert len(results.epochs) == 6 * 3 + 8 * 4
    assert results.scores["trial_id"].nunique() == 14
    assert results.features.groupby("trial_id").size().tolist() == [360] * 4
    assert len(results.plan) == 16


def test_ids_are_those_of_today(here: Path) -> None:
    load_plugins(["greedy"])
    planned = expand(load_study("old.yaml"))
    ledger = read_ledger(ResultStore("results_0.1.0"))
    assert {*planned, STOPPED} == {*ledger.rows}
    assert ledger.to_do(planned, None) == []


@pytest.mark.slow
def test_what_was_stopped_carries_on(here: Path) -> None:
    store = ResultStore("results_0.1.0")
    (before,) = store.read_rows("trials", STOPPED)
    assert train(["--config", "stopped.json", "--results", "results_0.1.0"]) == 0
    (after,) = store.read_rows("trials", STOPPED)
    assert (after["status"], after["attempts"], after["epochs_done"]) == ("finished", 2, 200)
    assert after["started_at"] == before["started_at"]
    assert after["wall_s"] > before["wall_s"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("here", ["results"], indirect=True)
def test_a_seed_is_added(here: Path) -> None:
    text = (here / "old.yaml").read_text()
    (here / "old.yaml").write_text(text.replace("seed: [0, 1]", "seed: [0, 1, 2]"))
    before = load_results("results_0.1.0").trials.set_index("trial_id")
    process = start(here, "results_0.1.0", "--no-mlflow", study="old.yaml")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1, out  # one has failed and one diverged, then as now
    assert "18 trials, 16 done before, 2 to run" in out
    after = load_results("results_0.1.0").trials.set_index("trial_id")
    assert (after["status"] == "finished").sum() == 16
    assert after.loc[before.index, before.columns].equals(before)


def test_merged_once_more_they_can_be_joined(here: Path) -> None:
    results, tables = Path("results_0.1.0"), ("trials", "epochs", "scores", "features")
    before = load_results(results, tables=tables)
    assert compact(["--results", str(results)]) == 0
    for table in tables:
        merged = [path.stem for path in (results / table).glob("merged-*")]
        assert merged
        assert all(re.fullmatch(r"merged-[0-9a-f]{12}-[0-9a-f]{12}", name) for name in merged)
        pd.testing.assert_frame_equal(
            getattr(load_results(results, tables=tables), table), getattr(before, table)
        )
