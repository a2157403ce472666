"""Trials of unlike sizes on logical GPUs: all run, none waits for ever, shares are kept to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.store.results import ResultStore
from tests.orchestrator.sweeps import finish, rows, start

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# Eight trials where two, or one of two workers, fit at a time.
MIXED = """
dataset: digits
model: mlp
model_kwargs: {hidden: [8]}
optimizer: sgd
loss: [ce, bce]
samples_per_class: 20
batch_size: 20
seed: [0, 1, 2]
epochs: 2
include:
- {batch_size: 40, loss: ce, seed: [0, 1]}
resources:
- {gpus_per_worker: 0.5}
- {batch_size: 40, workers: 2, gpus_per_worker: 1}
"""

# One loss that half a GPU is too small for, one that any is.
GREEDY = """
import ray
import torch
from trainers.registry import register_loss

def refuse(most):
    if ray.is_initialized():
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 1)
        if share <= most:
            raise torch.OutOfMemoryError(f"CUDA out of memory in {share:g} of a GPU")

@register_loss("wants_a_whole")
def wants_a_whole(logits, targets):
    refuse(0.5)
    return torch.nn.functional.cross_entropy(logits, targets)

@register_loss("wants_more")
def wants_more(logits, targets):
    refuse(1)
    return torch.nn.functional.cross_entropy(logits, targets)
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A cluster of two nodes with a GPU each, on paper."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 1, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, num_gpus=1)
    try:
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def test_small_and_large_trials_in_one_sweep(tmp_path: Path, address: str) -> None:
    (tmp_path / "mixed.yaml").write_text(MIXED)
    finish(start(tmp_path, "results", "--address", address, study="mixed.yaml"))
    found = rows(tmp_path / "results")["trials"]
    assert len(found) == 8
    sizes = {(row["batch_size"], row["world_size"], row["status"]) for row in found}
    assert sizes == {(20, 1, "finished"), (40, 2, "finished")}


def test_shares_are_measured_where_that_is_asked_for(tmp_path: Path, address: str) -> None:
    (tmp_path / "small.yaml").write_text(MIXED.partition("include")[0])
    argv = ("--address", address, "--gpus-per-worker", "auto")
    out = finish(start(tmp_path, "results", *argv, study="small.yaml"))
    assert "1 kind of trials measured" in out
    assert {row["status"] for row in rows(tmp_path / "results")["trials"]} == {"finished"}


def test_what_no_node_has_is_told(tmp_path: Path, address: str) -> None:
    (tmp_path / "mixed.yaml").write_text(MIXED)
    argv = ("--address", address, "--cpus-per-worker", "99")
    process = start(tmp_path, "results", *argv, study="mixed.yaml")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out.splitlines()[-1].startswith("error: a trial wants 99 CPU and the cluster has ")
    assert not (tmp_path / "results").exists()


def test_out_of_memory_is_tried_once_more_with_twice_the_share(
    tmp_path: Path, address: str
) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    study = MIXED.partition("include")[0].replace("[ce, bce]", "[ce, wants_a_whole, wants_more]")
    (tmp_path / "greedy.yaml").write_text(f"plugins: [greedy]\n{study}")
    argv = ("--address", address, "--gpus-per-worker", "0.5", "--seeds", "0")
    process = start(tmp_path, "results", *argv, study="greedy.yaml")
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1, out
    assert "2 trials ran out of memory; again, with twice its share" in out
    found = {row["loss"]: row for row in rows(tmp_path / "results")["trials"]}
    ends = {loss: (row["status"], row["attempts"]) for loss, row in found.items()}
    assert ends == {
        "ce": ("finished", 1), "wants_a_whole": ("finished", 2), "wants_more": ("failed", 2)
    }  # fmt: skip
    reason = found["wants_more"]["reason"]
    assert reason.startswith("out of memory with the largest share of a GPU that it gets, at batch")
    assert reason.endswith("CUDA out of memory in 1 of a GPU)")
    shares = {loss: (row["failure"], row["gpu_share"]) for loss, row in found.items()}
    assert shares == {
        "ce": (None, 0.5), "wants_a_whole": (None, 1), "wants_more": ("out_of_memory", 1)
    }  # fmt: skip
    process = start(tmp_path, "results", *argv, study="greedy.yaml")
    out, _ = process.communicate(timeout=240)
    assert "3 done before, 0 to run" in out
    # As a sweep leaves it that was killed between the two tries: the larger one alone is made.
    failed = {"status": "failed", "failure": "out_of_memory", "gpu_share": 0.5}
    owed = found["wants_a_whole"] | failed
    ResultStore(tmp_path / "results").write_rows("trials", owed["trial_id"], [owed])
    process = start(tmp_path, "results", *argv, study="greedy.yaml")
    out, _ = process.communicate(timeout=240)
    assert "2 done before, 1 to run" in out
    assert "ran out of memory" not in out
    again = {row["loss"]: row for row in rows(tmp_path / "results")["trials"]}["wants_a_whole"]
    assert (again["status"], again["attempts"]) == ("finished", 3)
