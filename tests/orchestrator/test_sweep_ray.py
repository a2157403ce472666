"""Whole sweeps through Ray Tune, undisturbed, interrupted and killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]
STUDY = """
dataset: digits
model: resnet18
model_kwargs: {channels: [4, 4, 8, 8]}
loss: [ce, bce]
optimizer: [sgd, adamw]
samples_per_class: 30
batch_size: 32
epochs: 8
regularizer: global
augment: da1+da2
"""
PLUGIN = """
import numpy as np
from torch.nn.functional import cross_entropy
from trainers.datasets import Splits, register_dataset
from trainers.registry import register_loss

@register_loss("my_loss")
def my_loss(logits, targets, scale=1.0):
    return scale * cross_entropy(logits, targets)

@register_dataset("my_data", num_classes=2, image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
def my_data(data_dir, download):
    labels = np.arange(20) % 2
    images = np.full((20, 8, 8, 3), 50, np.uint8) + (100 * labels[:, None, None, None]).astype("u1")
    return Splits(images, labels, images, labels)
"""
PLUGIN_STUDY = """
plugins: [my_module]
dataset: my_data
model: resnet18
model_kwargs: {channels: [4, 4, 8, 8]}
loss: my_loss
loss_kwargs: {scale: 2.0}
optimizer: sgd
batch_size: 4
epochs: 2
"""
TABLES = ("trials", "epochs", "scores", "features")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "study.yaml").write_text(STUDY)
    return folder


def start(home: Path, name: str, *argv: str, study: str = "study.yaml") -> subprocess.Popen[str]:
    """A sweep into `home/name`, as a user starts it, in a session of its own."""
    command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), "--study", study]
    return subprocess.Popen(
        [*command, "--results", name, "--address", "local", *argv],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_answers_ctrl_c,
    )


def _answers_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and so does what they start, such as these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def rows(results: Path) -> Rows:
    return {
        table: sorted(
            (
                row
                for file in (results / table).iterdir()
                for row in pq.read_table(file).to_pylist()
            ),
            key=lambda row: [str(v).zfill(20) for v in row.values()][:2],
        )
        for table in TABLES
    }


def processes(session: int) -> dict[int, str]:
    """Commands of the live processes that `session` started, by process id."""
    command = ["ps", "-e", "-ww", "-o", "pid=,sess=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = (line.split(maxsplit=3) for line in listed.splitlines())
    return {int(f[0]): f[3] for f in fields if f[1] == str(session) and f[2][0] != "Z"}


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.02)


def checkpoints(results: Path) -> list[Path]:
    return list(results.glob("checkpoints/*/*.pt"))


@pytest.fixture(scope="module")
def undisturbed(home: Path) -> Rows:
    out = finish(start(home, "whole"))
    assert "4 trials, 0 done before, 4 to run" in out
    assert "Table 2" in out
    assert re.search(r"finished +4 of 4 trials", out)
    assert "mlflow ui --backend-store-uri sqlite:///" in out
    return rows(home / "whole")


def test_a_sweep_leaves_results_and_nothing_else(home: Path, undisturbed: Rows) -> None:
    results = home / "whole"
    assert {row["status"] for row in undisturbed["trials"]} == {"finished"}
    assert len(undisturbed["epochs"]) == 4 * 8
    assert len(pd.read_parquet(results / "epochs")) == 4 * 8
    expected = {*TABLES, "checkpoints", "mlflow.db", "studies", "tables"}
    assert {path.name for path in results.iterdir()} == expected
    assert list((results / "checkpoints").iterdir()) == []
    assert {path.name for path in home.iterdir()} >= {"study.yaml", "whole"}
    assert not (home / "mlruns").exists()


def test_a_second_run_trains_nothing_and_says_so(home: Path, undisturbed: Rows) -> None:
    out = finish(start(home, "whole"))
    assert "4 trials, 4 done before, 0 to run" in out
    assert rows(home / "whole") == undisturbed


def test_a_rerun_that_cannot_be_placed_loses_nothing(home: Path, undisturbed: Rows) -> None:
    process = start(home, "whole", "--rerun", "all", "--cpus-per-worker", "4096")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert "error: a trial wants 4096 CPU and the cluster has" in out
    assert rows(home / "whole") == undisturbed


def test_a_rerun_trains_anew_to_the_same_numbers(
    home: Path, undisturbed: Rows, without_times: Callable
) -> None:
    one = ("--set", "optimizer=sgd", "--set", "loss=ce")
    out = finish(start(home, "again", *one))
    first = rows(home / "again")
    out = finish(start(home, "again", *one, "--rerun", "all"))
    assert "1 trials, 0 done before, 1 to run" in out
    second = rows(home / "again")
    assert second["trials"][0]["started_at"] > first["trials"][0]["started_at"]
    for table in TABLES:
        assert without_times(second[table]) == without_times(first[table])


def test_added_seeds_run_alone(home: Path, undisturbed: Rows) -> None:
    out = finish(start(home, "whole", "--seeds", "0", "1", "--set", "optimizer=sgd"))
    assert "4 trials, 2 done before, 2 to run" in out
    assert len(rows(home / "whole")["trials"]) == 6


@pytest.mark.parametrize("victim", ["driver", "worker", "driver and workers"])
def test_killed_and_run_again_equals_an_undisturbed_run(
    home: Path, undisturbed: Rows, without_times: Callable, victim: str
) -> None:
    name = victim.replace(" ", "-")
    process = start(home, name)
    wait_for(lambda: checkpoints(home / name), "a checkpoint")
    workers = worker_ids(process.pid)
    if "driver" in victim:
        os.kill(process.pid, signal.SIGKILL)
    if "worker" in victim:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    if victim == "worker":
        out = finish(process)  # Tune brings it back by itself
        assert "4 of 4 trials" in out
    else:
        process.communicate()
        finish(start(home, name))
    for table, found in rows(home / name).items():
        assert without_times(found) == without_times(undisturbed[table])
    assert list((home / name).rglob("*.part")) == []
    assert checkpoints(home / name) == []
    wait_for(lambda: not processes(process.pid), "the end of every process", timeout_s=60)


def worker_ids(session: int) -> list[int]:
    """Process ids of the Ray workers that run a trial."""
    listed = processes(session)
    found = [pid for pid, command in listed.items() if command.startswith("ray::ImplicitFunc")]
    assert found, listed
    return found


def test_a_cluster_that_dies_ends_the_sweep_and_the_same_command_continues(
    home: Path, undisturbed: Rows, without_times: Callable
) -> None:
    process = start(home, "node")
    wait_for(lambda: checkpoints(home / "node"), "a checkpoint")
    listed = processes(process.pid)
    (raylet,) = [pid for pid, command in listed.items() if "raylet/raylet " in command]
    os.kill(raylet, signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    # Workers outlive their node for a while: what runs may still be able to end well.
    assert process.returncode in (0, 130), out
    lost = "no node of the Ray cluster is alive; every finished epoch is safe"
    assert (lost in out) == (process.returncode == 130)
    finish(start(home, "node"))
    for table, found in rows(home / "node").items():
        assert without_times(found) == without_times(undisturbed[table])


def test_ctrl_c_is_answered_in_a_line_and_the_same_command_continues(
    home: Path, undisturbed: Rows, without_times: Callable
) -> None:
    process = start(home, "ctrl-c")
    wait_for(lambda: checkpoints(home / "ctrl-c"), "a checkpoint")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "interrupted; every finished epoch is safe. To continue: python" in out
    assert "Traceback" not in out
    wait_for(lambda: not processes(process.pid), "the end of every process", timeout_s=60)
    finish(start(home, "ctrl-c"))
    for table, found in rows(home / "ctrl-c").items():
        assert without_times(found) == without_times(undisturbed[table])


def test_a_bad_trial_is_one_bad_trial(home: Path) -> None:
    process = start(
        home, "bad", "--set", "lr=[1e30, 0.01]", "--set", "optimizer=sgd", "--epochs", "1"
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert re.search(r"failed +0, diverged 2", out)
    assert "the loss is not finite at epoch 1, step" in out
    assert "--rerun diverged" in out
    statuses = sorted(row["status"] for row in rows(home / "bad")["trials"])
    assert statuses == ["diverged", "diverged", "finished", "finished"]


def test_a_users_own_loss_and_dataset(home: Path) -> None:
    (home / "my_module.py").write_text(PLUGIN)
    (home / "mine.yaml").write_text(PLUGIN_STUDY)
    finish(start(home, "mine", study="mine.yaml"))
    (trial,) = pq.read_table(home / "mine" / "trials").to_pylist()
    assert (trial["status"], trial["loss"], trial["num_train"]) == ("finished", "my_loss", 20)
    assert trial["loss_kwargs"] == '{"scale": 2}'


DDP_STUDY = """
dataset: digits
model: mlp
model_kwargs: {hidden: [32, 16]}
loss: bce
optimizer: adamw
batch_size: 30
epochs: 60
augment: da1+da2
regularizer: global
"""
TWO = ("--workers", "2", "--cpus-per-worker", "0.5")


@pytest.fixture(scope="module")
def two_ranks(home: Path) -> Rows:
    (home / "ddp.yaml").write_text(DDP_STUDY)
    finish(start(home, "two", *TWO, study="ddp.yaml"))
    return rows(home / "two")


def test_two_ranks_end_where_one_does(home: Path, two_ranks: Rows) -> None:
    (trial,) = two_ranks["trials"]
    assert (trial["status"], trial["world_size"], trial["epochs_done"]) == ("finished", 2, 60)
    assert [row["epoch"] for row in two_ranks["epochs"]] == list(range(1, 61))
    finish(start(home, "one", study="ddp.yaml"))
    alone = rows(home / "one")
    for ours, theirs in zip(two_ranks["epochs"][:5], alone["epochs"][:5], strict=True):
        for name in ("train_loss", "nc1_train", "uniform_accuracy_test", "s_pos_mean_train"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


def test_a_killed_rank_changes_no_number(
    home: Path, two_ranks: Rows, without_times: Callable
) -> None:
    process = start(home, "rank", *TWO, study="ddp.yaml")
    wait_for(lambda: checkpoints(home / "rank"), "a checkpoint")
    listed = processes(process.pid)
    ranks = [pid for pid, command in listed.items() if command.startswith("ray::_Rank")]
    assert len(ranks) == 2, listed
    os.kill(ranks[1], signal.SIGKILL)
    finish(process)  # Tune brings the trial back by itself
    found = rows(home / "rank")
    assert found["trials"][0]["attempts"] > 1
    for table in TABLES:
        assert without_times(found[table]) == without_times(two_ranks[table])
    wait_for(lambda: not processes(process.pid), "the end of every process", timeout_s=60)
