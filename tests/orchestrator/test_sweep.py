"""The command line without Ray: plans, dry runs, and every mistake in one line, exit code 2."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from analysis.store.results import ResultStore
from orchestrator import sweep
from orchestrator.options import What
from orchestrator.plan.plan import make_plan
from orchestrator.run.reporter import Reporter
from orchestrator.terminal.progress import SweepProgress
from orchestrator.terminal.tally import Tally

TINY_STUDY = """
dataset: digits
samples_per_class: 6
model: resnet18
model_kwargs: {channels: [4, 4, 8, 8]}
loss: [ce, bce]
optimizer: sgd
batch_size: 16
epochs: 2
"""


TAKEN = """
from trainers.registry import register_loss
@register_loss("focal")
def focal(logits, targets): ...
"""


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY_STUDY)
    (tmp_path / "broken.yaml").write_text("dataset: digits\nloss: [ce\n")
    (tmp_path / "empty.yaml").write_text(TINY_STUDY.replace("[ce, bce]", "[]"))
    (tmp_path / "mnist.yaml").write_text(TINY_STUDY.replace("dataset: digits", "dataset: mnist"))
    (tmp_path / "crash.yaml").write_text(TINY_STUDY + "plugins: [crash]")
    (tmp_path / "crash.py").write_text("1 / 0")
    (tmp_path / "leave.yaml").write_text(TINY_STUDY + "plugins: [leave]")
    (tmp_path / "leave.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "mine.yaml").write_text(TINY_STUDY + "plugins: [taken]")
    (tmp_path / "taken.py").write_text(TAKEN)
    block = "resources: [{model: resnet34, workers: 2}]"
    (tmp_path / "sized.yaml").write_text(TINY_STUDY + block)
    (tmp_path / "a_file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--study", "digitz"], "'digitz' is not a known study; did you mean 'digits'?"),
        (["--study", "broken.yaml"], "broken.yaml, line 3: malformed YAML"),
        (["--study", "empty.yaml"], "empty.yaml: loss is an axis without values"),
        (["--set", "los=ce"], "--set: 'los' is not a known field; did you mean 'loss'?"),
        (["--set", "loss=bec"], "loss='bec' is not a known loss; did you mean 'bce'?"),
        (["--set", "dataset=digit"], "dataset='digit' is not a known dataset"),
        (["--set", "model=resnet81"], "model='resnet81' is not a known model"),
        (["--set", "optimizer=sdg"], "optimizer='sdg' is not a known optimizer"),
        (["--set", "lambda_b=-1"], "lambda_b=-1 must be greater than or equal to 0"),
        (["--set", "loss=[]"], "loss is an axis without values"),
        (["--set", "loss"], "--set loss: write it as key=value"),
        (["--set", "lr="], "--set lr=: write it as key=value"),
        (["--set", "loss\nce"], "--set 'loss\\nce': write it as key=value"),
        (["--set", "loss=[ce"], "--set loss=[ce, line 1: malformed YAML"),
        (["--results", "a_file"], "--results a_file can't be written"),
        (["--results", "a_file/deeper"], "can't be written"),
        (["--study", "mnist.yaml", "--no-download"], "MNIST can't be read from"),
        (["--set", "plugins=[x]"], "--set: 'plugins' is not a known field (known:"),
        (["--set", "lr=true"], "lr=True must be a number or a name, not true or false"),
        (["--study", "crash.yaml"], "plugin 'crash' can't be imported (ZeroDivisionError"),
        (["--study", "leave.yaml"], "plugin 'leave' can't be imported (SystemExit: 0)"),
        (["--study", "mine.yaml"], "loss 'focal' is registered already; choose another name"),
        (["--results", "\udcff"], "--results '\\udcff': "),
        (["--tracking-uri", "sqlite:///what?/m.db"], "has a question mark in its path"),
        (["--reru", "all"], "unrecognized arguments: --reru all"),
        (["--workers", "some"], "--workers: 'some' is neither a whole number nor auto"),
        (["--results", ""], "--results '' is neither a folder nor a URI"),
        (["--results", "s3://"], "--results 's3://': names no bucket or folder"),
        (["--results", "s3:/bucket/x"], "--results 's3:/bucket/x' is neither a folder nor a URI"),
        (["--tracking-uri", "sqlite:"], "--tracking-uri 'sqlite:' names no file; write it as"),
        (["--tracking-uri", "sqlite://a.db"], "--tracking-uri 'sqlite://a.db' names no file"),
        (["--tracking-uri", "sqlite:////tmp"], "--tracking-uri 'sqlite:////tmp' is a folder; name"),
        (["--tracking-uri", "http:"], "--tracking-uri 'http:' names no server"),
        (["--tracking-uri", "mysql://"], "--tracking-uri 'mysql://' names no server"),
        (["--tracking-uri", "nowhere"], "--tracking-uri 'nowhere' must begin with one of http:"),
        (["--address", "127.0.0.1:1", "--dry-run"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--results", "a_file", "--dry-run"], "--results a_file can't be read: "),
        (["--seeds", "0", "1", "0"], "--seeds has a seed twice; give each once"),
        (["--set", "seed=[0, 0]"], "--set: seed has 0 twice; give each value once"),
        (["--set", "model_kwargs=[{}, {}]"], "--set: model_kwargs has {} twice"),
        (["--study", "sized.yaml"], "sized.yaml: resources {'model': 'resnet34'} matches no trial"),
        (["--set", "lr=-1"], "tiny.yaml with lr=-1: lr=-1 must be greater than 0"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
        (["--set", "lr=1", "--set", "lr=2"], "lr is set to 1 and to 2; give it once"),
        (["--seeds", "0", "--set", "seed=1"], "seed is set to 1 and to [0]; give it once"),
        (["--epochs", "2", "--set", "epochs=3"], "epochs is set to 3 and to 2; give it once"),
        (["--gpus-per-worker", "many"], "--gpus-per-worker: 'many' is neither a number nor auto"),
        (["--limit", "0"], "--limit 0 must be at least 1"),
        (["--epochs", "-3"], "--epochs -3 must be at least 1"),
        (["--cpus-per-worker", "-1"], "cpus_per_worker=-1 must be at least 0.01, and finite"),
        (["--retries", "-1"], "--retries -1 must be at least 0"),
        (["--limit", "many"], "argument --limit: invalid int value: 'many'"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    argv: list[str],
    message: str,
    somewhere: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    before = sorted(somewhere.rglob("*"))
    if "--study" not in argv:
        argv = ["--study", "tiny.yaml", *argv]
    try:
        code = sweep.main(argv)
    except SystemExit as end:
        code = end.code
    assert code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message in error
    assert sorted(path for path in somewhere.rglob("*")) == before


def test_a_dry_run_shows_the_plan_and_touches_nothing(
    somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(somewhere.rglob("*"))
    assert sweep.main(["--study", "tiny.yaml", "--seeds", "0", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "4 trials, 0 done, 4 to run" in out
    assert out.count(" new ") == 4
    assert "estimated wall time: unknown; no finished trial of 1 of 1 kind (" in out
    assert sorted(somewhere.rglob("*")) == before


def test_a_dry_run_asks_the_cluster_that_the_environment_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--study", "tiny.yaml", "--dry-run"]
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert sweep.main(argv) == 2
    assert "no Ray cluster answers at 127.0.0.1:1" in capsys.readouterr().err
    assert sweep.main([*argv, "--address", "local"]) == 0
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert sweep.main(argv) == 0


def test_a_plan_of_several_studies_holds_common_trials_once() -> None:
    what = What(studies=("bias_decay", "full"), limit=30)
    plan = make_plan(what, ResultStore("results"))
    assert len(plan.trials) == 30
    assert set(plan.studies) == {"bias_decay", "full"}
    assert len(plan.studies["bias_decay"]) == 24


def test_two_files_of_one_name_are_both_planned(somewhere: Path) -> None:
    (somewhere / "other").mkdir()
    (somewhere / "other" / "tiny.yaml").write_text(TINY_STUDY.replace("sgd", "adamw"))
    what = What(studies=("tiny.yaml", "other/tiny.yaml"))
    plan = make_plan(what, ResultStore("results"))
    assert len(plan.studies["tiny"]) == len(plan.trials) == 4


def test_a_trial_that_no_worker_could_start_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    store = ResultStore("results")
    plan = make_plan(What(studies=("tiny.yaml",), limit=1), store)
    tally = Tally(plan.trials, plan.kinds, sizes=dict.fromkeys(plan.trials, 1.0), before={})
    with SweepProgress(tally, console=Console()) as progress:
        Reporter(plan.trials, store, progress, None).lost(plan.to_do[0], "no such package")
    (row,) = store.read_rows("trials", plan.to_do[0])
    assert (row["status"], row["loss"]) == ("failed", "ce")
    assert row["reason"] == "its worker died each time: no such package"
    assert "no such package" in capsys.readouterr().out


def test_a_second_sweep_into_the_same_results_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ResultStore("results").lock(".sweep.lock", wait=False):
        assert sweep.main(["--study", "tiny.yaml", "--address", "local"]) == 2
    assert "another sweep is running into" in capsys.readouterr().err


def test_a_worker_that_dies_after_its_trial_ended_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = ResultStore("results")
    plan = make_plan(What(studies=("tiny.yaml",), limit=1), store)
    (trial_id,) = plan.to_do
    row = plan.trials[trial_id].row() | {"trial_id": trial_id, "status": "finished", "wall_s": 1.0}
    store.write_rows("trials", trial_id, [row])
    tally = Tally(plan.trials, plan.kinds, sizes=dict.fromkeys(plan.trials, 1.0), before={})
    with SweepProgress(tally, console=Console()) as progress:
        Reporter(plan.trials, store, progress, None).lost(trial_id, "killed")
    assert store.read_rows("trials", trial_id)[0]["status"] == "finished"
    assert tally.number_ended == 1


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_port_where_something_else_listens_is_no_cluster(
    scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.run.connection.CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        argv = ["--study", "tiny.yaml", "--address", f"{scheme}127.0.0.1:{port}"]
        assert sweep.main(argv) == 2
    assert "(what listens there is no Ray); start it" in capsys.readouterr().err


def test_the_one_file_runs_wherever_it_is_copied(somewhere: Path) -> None:
    copied = somewhere / "submitted" / "sweep.py"
    copied.parent.mkdir()
    shutil.copy(sweep.__file__, copied)
    argv = [sys.executable, str(copied), "--study", "tiny.yaml", "--dry-run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(sweep.__file__).parents[1])}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert "2 trials, 0 done, 2 to run" in done.stdout
    assert done.stderr == ""


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as end:
            sweep.main([option])
        assert end.value.code == 0
    assert "python orchestrator/sweep.py --study ufm" in capsys.readouterr().out
