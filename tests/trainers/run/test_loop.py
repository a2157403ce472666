"""A trial from its first row to its last: resume, failure, and what lands in the store."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.store.errors import LeaseLostError
from analysis.store.results import CHECKPOINTS, ResultStore
from analysis.store.schema import ALPHA_BIAS, BIAS_METRICS, EPOCHS, SPLIT_METRICS, WEIGHT_METRICS
from trainers import datasets
from trainers.config import TrialConfig
from trainers.data.splits import _stored, load_data
from trainers.datasets import DATASETS, Splits
from trainers.metrics.features import from_features
from trainers.registry import LOSSES
from trainers.run.loop import run_trial
from trainers.run.ranks import Ranks
from trainers.run.trainer import Trainer

Tiny = Callable[..., TrialConfig]
Rows = list[dict[str, Any]]
# One of each way that state could leak past a checkpoint.
KINDS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "adamw", "augment": "da1+da2", "regularizer": "global"},
    {"model_kwargs": {"channels": [4, 4, 8, 8], "drop_rate": 0.3, "drop_path_rate": 0.2}},
    {"model": "ufm", "model_kwargs": {}, "optimizer": "lbfgs", "batch_size": 60},
    {"precision": "fp16", "augment": "da1"},
    {"precision": "bf16", "optimizer": "nadamw", "lr": 1e-3, "schedule": "cosine"},
]


class Stop(BaseException):
    """Ends a trial from outside, as Ctrl-C does."""


def run(config: TrialConfig, store: ResultStore, *, stop_after: int | None = None) -> Rows:
    rows: list[Any] = []

    def report(row: Any) -> None:
        rows.append(row)
        if row["epoch"] == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        run_trial(config, report, store=store)
    return rows


def stored(store: ResultStore, config: TrialConfig) -> dict[str, Rows]:
    tables = ("trials", "epochs", "scores", "features")
    return {table: store.read_rows(table, config.trial_id) for table in tables}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values()))[:30])
@pytest.mark.parametrize("stop_after", [1, 2])
def test_resume_after_any_epoch_changes_no_bit(
    tiny: Tiny, tmp_path: Path, without_times: Callable, kind: dict[str, Any], stop_after: int
) -> None:
    config = tiny(**kind)
    whole, parts = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "parts")
    run(config, whole)
    run(config, parts, stop_after=stop_after)
    torch.manual_seed(99)  # whatever the process did before must not matter
    np.random.seed(99)
    seen = run(config, parts)
    assert [row["epoch"] for row in seen] == [1, 2, 3]  # restored rows are reported first
    expected, found = stored(whole, config), stored(parts, config)
    for table in expected:
        assert without_times(found[table]) == without_times(expected[table])
    assert found["trials"][0]["attempts"] == 2


def test_data_that_changed_since_the_checkpoint_are_trained_on_from_the_start(
    tiny: Tiny, tmp_path: Path, without_times: Callable, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def digits(data_dir: Path, download: bool) -> Splits:
        whole = datasets.digits(data_dir, download)
        return whole._replace(
            train_images=whole.train_images[::step], train_labels=whole.train_labels[::step]
        )

    facts = dataclasses.replace(DATASETS["digits"], read=digits)
    monkeypatch.setitem(DATASETS._entries, "changing", facts)
    config = tiny(dataset="changing", samples_per_class=None)
    whole, parts = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "parts")
    step = 1
    run(config, parts, stop_after=2)
    step = 2
    _stored.cache_clear()
    run(config, whole)
    assert not capsys.readouterr().err
    seen = run(config, parts)
    assert [row["epoch"] for row in seen] == [1, 2, 3]
    said = capsys.readouterr().err
    assert (
        said
        == f"{config.trial_id}: the data of changing have changed since epoch 2; starting anew\n"
    )
    expected, found = stored(whole, config), stored(parts, config)
    for table in expected:
        assert without_times(found[table]) == without_times(expected[table])
    (row,) = found["trials"]
    assert (row["num_train"], len(row["data_fingerprint"]), row["attempts"]) == (719, 16, 2)


def test_asked_to_stop_a_trial_ends_after_its_epoch(
    tiny: Tiny, tmp_path: Path, without_times: Callable
) -> None:
    config, rows = tiny(), []
    whole, parts = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "parts")
    run(config, whole)
    row = run_trial(config, rows.append, store=parts, should_stop=lambda: len(rows) == 2)
    (kept,) = stored(parts, config)["trials"]
    assert (row["status"], row["epochs_done"]) == ("running", 2)
    assert (kept["status"], kept["epochs_done"]) == ("running", 2)
    assert parts.names(CHECKPOINTS, config.trial_id)[-1] == "epoch_000002.pt"
    run(config, parts)
    for table, expected in stored(whole, config).items():
        assert without_times(stored(parts, config)[table]) == without_times(expected)


@pytest.mark.parametrize(("lost_after", "saved"), [(0, []), (1, [1]), (3, [1, 2])])
def test_a_trial_whose_lock_is_lost_writes_no_more(
    tiny: Tiny,
    store: ResultStore,
    monkeypatch: pytest.MonkeyPatch,
    lost_after: int,
    saved: list[int],
) -> None:
    config, rows = tiny(), []

    def check() -> None:
        if len(rows) >= lost_after:
            raise LeaseLostError("another holds it")

    monkeypatch.setattr(store, "lock", lambda *parts, wait: contextlib.nullcontext(check))
    with pytest.raises(LeaseLostError):
        run_trial(config, rows.append, store=store)
    assert stored(store, config)["trials"][0]["status"] == "running"
    names = [f"epoch_{epoch:06d}.pt" for epoch in saved]
    assert store.names(CHECKPOINTS, config.trial_id) == names
    assert store.read_rows("epochs", config.trial_id) == []
    assert store.read_rows("scores", config.trial_id) == []


KILLED = """
import sys
import torch
from trainers.config import TrialConfig
from trainers.run.loop import run_trial
from analysis.store.results import ResultStore
torch.set_num_threads(1)  # as the tests have it: bits depend on it
config = TrialConfig.model_validate_json(sys.argv[1])
run_trial(config, lambda row: print("epoch", flush=True), store=ResultStore(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_inside_an_epoch_and_resumed(
    tiny: Tiny, tmp_path: Path, without_times: Callable
) -> None:
    config = tiny(samples_per_class=None, epochs=4)
    whole, parts = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "parts")
    run(config, whole)
    command = [sys.executable, "-c", KILLED, config.model_dump_json(), parts.root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.readline()
        time.sleep(0.05)  # into the third epoch
        os.kill(process.pid, signal.SIGKILL)
    assert stored(parts, config)["trials"][0]["status"] == "running"
    run(config, parts)
    for table, expected in stored(whole, config).items():
        assert without_times(stored(parts, config)[table]) == without_times(expected)


def test_the_store_after_a_trial(tiny: Tiny, store: ResultStore) -> None:
    config = tiny()
    run(config, store)
    tables = stored(store, config)
    trial = tables["trials"][0]
    assert (trial["status"], trial["reason"], trial["epochs_done"]) == ("finished", None, 3)
    assert (trial["num_train"], trial["num_test"], trial["num_features"]) == (60, 360, 8)
    assert trial["version_torch"] == torch.__version__
    assert [row["epoch"] for row in tables["epochs"]] == [1, 2, 3]
    last = tables["epochs"][-1]
    names = [f"{m.name}_train" for m in (*SPLIT_METRICS, *WEIGHT_METRICS)]
    names += [f"{m.name}_test" for m in SPLIT_METRICS]
    names += [m.name for m in (*BIAS_METRICS, ALPHA_BIAS)]
    assert [name for name in names if last[name] is None] == []
    counts = {"positive": 0, "negative": 0, "bias": 0}
    curve = [row["count"] for row in tables["scores"] if row["kind"] == "uniform"]
    assert 0 < max(curve) <= last["uniform_accuracy_test"] * 360
    for row in tables["scores"][: -len(curve)]:
        counts[row["kind"]] += row["count"]
    assert counts == {"positive": 60, "negative": 540, "bias": 10}
    assert store.names(CHECKPOINTS) == []
    assert tables["features"] == []  # on for the classification recipe alone


def test_features_of_a_classification_trial(tiny: Tiny, store: ResultStore) -> None:
    config = tiny(regularizer="global", epochs=1)
    run(config, store)
    rows = stored(store, config)["features"]
    assert [row["sample_index"] for row in rows] == list(range(360))
    assert len(rows[0]["features"]) == 8


def test_metrics_of_a_row_are_those_of_its_weights(tiny: Tiny) -> None:
    config = tiny()
    data = load_data(config, data_dir=Path(), download=False, device=torch.device("cpu"))
    trainer = Trainer(config, data, Ranks(torch.device("cpu")))
    trainer.train_epoch(1)
    trainer.evaluate()
    row = trainer.evaluate()  # the second time nc4 of the training set has these class means
    for split, suffix in ((data.train, "train"), (data.test, "test")):
        assert split
        trainer.model.eval()
        with torch.no_grad():
            features, logits = trainer.model(data.prepare(split.inputs))
        head = trainer.model.head
        expected = from_features(features, split.labels, head.weight.detach(), head.bias.detach())
        expected["loss"] = float(LOSSES["bce"](logits, split.labels))
        for key, value in expected.items():
            column = f"{key}_{suffix}"
            if column in row and not (key == "nc4" and suffix == "test"):
                assert row[column] == pytest.approx(value, rel=1e-5, abs=1e-7), column


def test_an_evaluated_epoch_has_every_column(tiny: Tiny, store: ResultStore) -> None:
    *_, last = run(tiny(), store)
    assert set(last) - {"nc4_test"} == set(EPOCHS.names) - {"nc4_test"}


def test_evaluation_is_dense_at_first_if_asked(tiny: Tiny, store: ResultStore) -> None:
    config = tiny(eval_every=4, eval_dense=2, epochs=6, samples_per_class=2)
    rows = run(config, store)
    assert [row["epoch"] for row in rows if "nc1_train" in row] == [1, 2, 4, 6]


def test_evaluation_cadence_includes_the_last_epoch(tiny: Tiny, store: ResultStore) -> None:
    config = tiny(eval_every=2, epochs=5, samples_per_class=2)
    rows = run(config, store)
    assert [row["epoch"] for row in rows if "nc1_train" in row] == [2, 4, 5]
    assert all(row["train_loss"] > 0 for row in rows)


def test_a_non_finite_loss_is_diverged_with_epoch_step_and_lr(
    tiny: Tiny, store: ResultStore
) -> None:
    config = tiny(lr=1e9, schedule="constant")
    assert run(config, store) == []
    trial = stored(store, config)["trials"][0]
    assert trial["status"] == "diverged"
    assert trial["reason"].startswith("the loss is not finite at epoch 1, step ")
    assert trial["reason"].endswith(", lr 1e+09")


def test_weights_that_the_last_step_spoils_are_diverged(tiny: Tiny, store: ResultStore) -> None:
    whole = {"batch_size": 2000, "epochs": 1}  # one step, whose loss is finite
    config = tiny(model="mlp", model_kwargs={}, regularizer="global", weight_decay=1e308, **whole)
    assert run(config, store) == []
    trial = stored(store, config)["trials"][0]
    assert trial["status"] == "diverged"
    assert trial["reason"] == "the weights are not finite after epoch 1, lr 8e-05"


def test_a_line_search_without_a_finite_objective_is_diverged(store: ResultStore) -> None:
    fields = {"dataset": "labels", "samples_per_class": 4, "num_classes": 3, "model": "ufm"}
    fields |= {"loss": "bce", "optimizer": "lbfgs", "bias_init_mean": 1e30, "epochs": 2}
    config = TrialConfig.parse(fields)
    run(config, store)
    assert stored(store, config)["trials"][0]["status"] == "diverged"


def test_a_batch_of_one_is_told(tiny: Tiny, store: ResultStore) -> None:
    config = tiny(image_size=8, samples_per_class=1, batch_size=9, epochs=1)
    run(config, store)
    reason = stored(store, config)["trials"][0]["reason"]
    assert reason.startswith("batch_size=9 leaves a batch of one sample, which BatchNorm can't")


def test_an_error_is_failed_with_its_reason(tiny: Tiny, store: ResultStore) -> None:
    config = tiny(model_kwargs={"width": 3})
    run(config, store)
    trial = stored(store, config)["trials"][0]
    assert (trial["status"], trial["epochs_done"]) == ("failed", 0)
    assert "model_kwargs={'width': 3} don't fit resnet18" in trial["reason"]
    assert trial["traceback"] is None  # the sentence is all there is to say of a user's mistake


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError("no more"),
    ],
)
def test_out_of_memory_is_failed_with_the_batch_size_and_a_hint(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def train_epoch(self: Trainer, epoch: int) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    run(tiny(), store)
    (trial,) = store.read_rows("trials", tiny().trial_id)
    assert trial["status"] == "failed"
    assert trial["reason"].startswith("out of memory at batch_size=16; use more workers")
    assert str(error) in trial["reason"]
    assert trial["traceback"].startswith("Traceback")
    assert ", in train_epoch\n    raise error\n" in trial["traceback"]


def test_16_bits_train_and_are_measured_in_32(tiny: Tiny) -> None:
    rows = {}
    for precision in ("fp32", "bf16"):
        config = tiny(precision=precision)
        data = load_data(config, data_dir=Path(), download=False, device=torch.device("cpu"))
        trainer = Trainer(config, data, Ranks(torch.device("cpu")))
        before = trainer.evaluate()
        rows[precision] = before, trainer.train_epoch(1)
    assert rows["bf16"][0] == pytest.approx(rows["fp32"][0], nan_ok=True)  # same weights
    losses = [row["train_loss"] for _, row in rows.values()]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_trials_resume_exactly_and_train_alike(
    tiny: Tiny, tmp_path: Path, without_times: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.run.trainer.COMPILE_FROM_STEPS", 0)
    # 60 samples in batches of 16: the last one, of 12, is not compiled for.
    config = tiny(model="mlp", model_kwargs={"hidden": [8]}, compile=True)
    whole, parts, eager = (ResultStore(tmp_path / name) for name in ("whole", "parts", "eager"))
    run(config, whole)
    run(config, parts, stop_after=1)
    run(config, parts)
    expected, found = stored(whole, config), stored(parts, config)
    for table in expected:
        assert without_times(found[table]) == without_times(expected[table])
    plain = tiny(model="mlp", model_kwargs={"hidden": [8]})
    run(plain, eager)
    for ours, theirs in zip(expected["epochs"], stored(eager, plain)["epochs"], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)


def test_a_short_trial_is_not_compiled(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it compiles")

    monkeypatch.setattr(torch, "compile", compile_)
    run(tiny(compile=True), store)
    assert stored(store, tiny(compile=True))["trials"][0]["status"] == "finished"


def test_a_finished_trial_is_not_trained_again(tiny: Tiny, store: ResultStore) -> None:
    config = tiny()
    first = run(config, store)
    before = stored(store, config)
    assert [row["nc1_train"] for row in run(config, store)] == [row["nc1_train"] for row in first]
    assert stored(store, config) == before
