"""What a dry run says of a plan whose costs are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.compact import compact
from analysis.store.results import ResultStore
from analysis.trials.load import open_results
from orchestrator.options import Resources, What, parse_options
from orchestrator.plan.ledger import Cost
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.terminal.dry_run import show_plan

STUDY = """
dataset: digits
model: mlp
loss: ce
optimizer: sgd
batch_size: [10, 20]
seed: [0, 1, 2]
epochs: 36
"""
BOX = [{"CPU": 4.0}]


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Six trials, of 10 and of 20 s an epoch, two thousand and a million bytes a trial."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY)
    store = ResultStore("results")
    plan: Plan = make_plan(
        What(studies=("mine.yaml",)), store, resources=Resources(cpus_per_worker=2)
    )
    found = {
        kind: {
            "seconds_per_epoch": float(plan.trials[ids[0]].batch_size),
            "peak_memory_bytes": 0,
            "device_memory_bytes": 0,
            "results_bytes": 2_000 if plan.trials[ids[0]].batch_size == 10 else 1_000_000,
            "checkpoint_bytes": plan.trials[ids[0]].batch_size * 10**8,
        }
        for kind, ids in plan.kinds.items()
    }
    plan = plan.with_probes(found)  # pyright: ignore[reportArgumentType]
    show_plan(plan, store, nodes=BOX)
    return capsys.readouterr().out.splitlines()


def test_time_is_that_of_the_schedule(shown: list[str]) -> None:
    # One of each kind, then the longest: 720 + 720 + 360, beside 360 + 720 + 360 s; 15 to start.
    assert "estimated wall time: 30 min with at most 2 at once" in "\n".join(shown)
    assert "estimated use: 1.8 CPU-hours" in shown  # 3 x 360 + 3 x 720 s on two CPUs


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--cpus-per-worker", "9"],
            "estimated wall time: none here (--address auto asks",
        ),
        ([], "estimated wall time: unknown; no finished trial of 2 of 2 kinds"),
        ([], "estimated disk: unknown; no trial has finished in the results"),
        (["--quiet"], "6 trials, 2 done (1 failed, 1 diverged), 4 to run"),
    ],
)
def test_what_can_not_be_told_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY)
    options = parse_options(["--study", "mine.yaml", *argv])
    what, quiet = options.what, options.show.quiet
    store = ResultStore("results")
    if quiet:
        trials = make_plan(what, store).trials
        for (i, config), status in zip(trials.items(), ("failed", "diverged"), strict=False):
            row = {"trial_id": i, **config.row(), "status": status}
            store.write_rows("trials", i, [row])
    plan = make_plan(what, store, resources=options.resources)
    show_plan(plan, store, nodes=BOX, quiet=quiet)
    lines = capsys.readouterr().out.splitlines()
    assert [found for found in lines if found.startswith(line)]
    assert quiet != any(" new " in found for found in lines)


@pytest.mark.parametrize(
    ("plain_s", "compile_s", "line"),
    [
        (15.0, 47.0, "    compile: pays after 10 epochs: 1.50 times as fast, 47 s to compile"),
        (10.2, 47.0, "    compile: does not pay in 36 epochs: 1.02 times as fast, 47 s to compile"),
        (9.0, 0.0, "    compile: does not pay in 36 epochs: 0.90 times as fast, 0 s to compile"),
        (None, None, None),
    ],
)
def test_whether_compiling_pays_is_told_of_kinds_that_compile(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    plain_s: float | None,
    compile_s: float | None,
    line: str | None,
) -> None:
    """An epoch of 10 s: it gains 5 s an epoch, 0.2 s, which are 7.2 s of 47 in all, or nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY.replace("[10, 20]", "10") + "compile: true\n")
    store = ResultStore("results")
    plan = make_plan(What(studies=("mine.yaml",)), store)
    cost = Cost(10.0, 0)
    if plain_s is not None:
        measured: Any = {"plain_seconds_per_epoch": plain_s, "compile_s": compile_s}
        cost = cost._replace(compiling=measured)
    ledger = replace(plan.ledger, probed=dict.fromkeys(plan.kinds, cost))
    show_plan(replace(plan, ledger=ledger), store, nodes=BOX)
    lines = capsys.readouterr().out.splitlines()
    assert [found for found in lines if "compile: " in found] == ([line] if line else [])


def test_disk_counts_trials_and_not_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY)
    what, store = What(studies=("mine.yaml",)), ResultStore("results")
    for i, config in list(make_plan(what, store).trials.items())[:3]:
        row = {"trial_id": i, **config.row(), "status": "finished"}
        store.write_rows("trials", i, [row])
    compact(open_results("results"))
    (merged,) = (tmp_path / "results" / "trials").iterdir()
    show_plan(make_plan(what, store), store, nodes=BOX)
    size = f"{merged.stat().st_size / 1e6:,.3g} MB"  # of three trials there, and of three to run
    told = f"estimated disk: {size} of results, as the 3 finished trials there took"
    assert told in capsys.readouterr().out


def test_disk_is_that_of_all_results_and_of_the_largest_checkpoints(shown: list[str]) -> None:
    assert "estimated disk: 3.01 MB of results" in shown
    assert "  and while it runs 8 GB of checkpoints, 2 of each running trial" in shown
