"""Whole sweeps through Ray Tune. How they stand faults is in `test_faults.py`."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.orchestrator.sweeps import (
    TABLES,
    Rows,
    checkpoints,
    finish,
    processes,
    rows,
    start,
    wait_for,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
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


def test_a_sweep_leaves_results_and_nothing_else(home: Path, undisturbed: Rows) -> None:
    results = home / "whole"
    assert {row["status"] for row in undisturbed["trials"]} == {"finished"}
    assert len(undisturbed["epochs"]) == 4 * 8
    assert len(pd.read_parquet(results / "epochs")) == 4 * 8
    expected = {*TABLES, "checkpoints", "mlflow.db", "figures", "studies", "tables"}
    names = {path.name for path in results.iterdir()}
    assert {name for name in names if not name.startswith("mlflow.db-")} == expected
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
    assert "1 trial, 0 done before, 1 to run" in out
    second = rows(home / "again")
    assert second["trials"][0]["started_at"] > first["trials"][0]["started_at"]
    for table in TABLES:
        assert without_times(second[table]) == without_times(first[table])


def test_added_seeds_run_alone(home: Path, undisturbed: Rows) -> None:
    out = finish(start(home, "whole", "--seeds", "0", "1", "--set", "optimizer=sgd"))
    assert "4 trials, 2 done before, 2 to run" in out
    assert len(rows(home / "whole")["trials"]) == 6


@pytest.mark.parametrize(
    ("name", "part", "lost"),
    [
        ("node", "raylet/raylet ", "no node of the Ray cluster is alive"),
        ("head", "gcs/gcs_server ", "the head of the Ray cluster doesn't answer"),
    ],
)
def test_a_cluster_that_dies_ends_the_sweep_and_the_same_command_continues(
    home: Path, undisturbed: Rows, without_times: Callable, name: str, part: str, lost: str
) -> None:
    process = start(home, name)
    wait_for(lambda: checkpoints(home / name), "a checkpoint")
    listed = processes(process.pid)
    pid = min(pid for pid, command in listed.items() if part in command)  # a fork may be like it
    os.kill(pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    # Workers outlive their node for a while: what runs may still be able to end well.
    assert process.returncode in (0, 130), out
    ended = f"{lost}; every finished epoch is safe"
    assert (ended in out) == (process.returncode == 130)
    finish(start(home, name))
    for table, found in rows(home / name).items():
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
    assert "Traceback" not in out
    statuses = sorted(row["status"] for row in rows(home / "bad")["trials"])
    assert statuses == ["diverged", "diverged", "finished", "finished"]


def test_a_users_own_loss_and_dataset(home: Path) -> None:
    (home / "my_module.py").write_text(PLUGIN)
    (home / "mine.yaml").write_text(PLUGIN_STUDY)
    finish(start(home, "mine", study="mine.yaml"))
    (trial,) = pq.read_table(home / "mine" / "trials").to_pylist()
    assert (trial["status"], trial["loss"], trial["num_train"]) == ("finished", "my_loss", 20)
    assert trial["loss_kwargs"] == '{"scale": 2}'


def test_a_failed_trial_is_told_without_its_pages(home: Path) -> None:
    late = "if len(logits) == 4: raise RuntimeError('no such loss')\n    return scale *"
    wrong = PLUGIN.replace("return scale *", late)  # which the check before has no batch for
    (home / "wrong_module.py").write_text(wrong)
    (home / "wrong.yaml").write_text(PLUGIN_STUDY.replace("my_module", "wrong_module"))
    process = start(home, "wrong", "--no-mlflow", study="wrong.yaml")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "no such loss" in out
    assert "Traceback" not in out
    assert [row["status"] for row in rows(home / "wrong")["trials"]] == ["failed"]


def test_two_ranks_end_where_one_does(home: Path, two_ranks: Rows) -> None:
    (trial,) = two_ranks["trials"]
    assert (trial["status"], trial["world_size"], trial["epochs_done"]) == ("finished", 2, 60)
    assert [row["epoch"] for row in two_ranks["epochs"]] == list(range(1, 61))
    finish(start(home, "one", study="ddp.yaml"))
    alone = rows(home / "one")
    for ours, theirs in zip(two_ranks["epochs"][:5], alone["epochs"][:5], strict=True):
        for name in ("train_loss", "nc1_train", "uniform_accuracy_test", "s_pos_mean_train"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
