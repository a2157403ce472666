"""Several ranks: the objective, the metrics and the rows of one process."""

import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import DistBackendError

from analysis.store.results import ResultStore
from tests.trainers.ranks import run_ranks
from trainers.config import TrialConfig
from trainers.data.splits import load_data
from trainers.run.loop import run_trial
from trainers.run.ranks import Ranks, alone, lost_rank, talk_through
from trainers.run.trainer import TrainedEpoch, Trainer

Tiny = Callable[..., TrialConfig]
MLP = {"model": "mlp", "model_kwargs": {"hidden": [32, 16]}}
ALONE = Ranks(torch.device("cpu"))
# 50 samples in batches of 7: seven whole ones, which 2 and 3 do not divide, and one of 1 sample,
# of which two ranks of three get nothing.
UNEVEN = {**MLP, "samples_per_class": 5, "batch_size": 7, "lr": 0.05}
KINDS: list[dict[str, Any]] = [
    {"optimizer": "sgd"},
    {"optimizer": "adamw", "loss": "ce", "augment": "da1+da2", "rotation": 10},
    {"optimizer": "adamw", "regularizer": "global", "augment": "da1"},
    {"model": "ufm", "model_kwargs": {}, "optimizer": "sgd"},
    {"model": "ufm", "model_kwargs": {}, "optimizer": "lbfgs", "batch_size": 50, "lr": 0.5},
    {"precision": "bf16"},
]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_shares_hold_every_sample_once(world_size: int) -> None:
    for count in (0, 1, 2, 4, 7, 128):
        shares = [Ranks(torch.device("cpu"), r, world_size).share(count) for r in range(world_size)]
        assert [i for share in shares for i in range(count)[share]] == list(range(count))
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)  # the main rank is never the empty one


def losses_of_steps(ranks: Ranks, fields: list[dict[str, Any]]) -> list[list[float]]:
    """The global loss and objective of each of the first 24 steps, for each config."""
    found = []
    for each in fields:
        trainer = start(TrialConfig.parse(each), ranks)
        trainer.model.train()
        parts = [
            ranks.add_up(trainer._step(batch).double())
            for epoch in (1, 2, 3)
            for batch in trainer.batches.epoch(epoch)
        ]
        found.append(torch.stack(parts).flatten().tolist())
    return found


def start(config: TrialConfig, ranks: Ranks) -> Trainer:
    data = load_data(config, data_dir=Path("nowhere"), download=False, device=ranks.device)
    return Trainer(config, data, ranks)


@pytest.mark.parametrize(
    ("gpus", "device"), [(None, "cuda"), (1.0, "cuda"), (0.25, "cuda"), (0.0, "cpu"), (0, "cpu")]
)
def test_a_slot_without_gpus_trains_on_none(
    monkeypatch: pytest.MonkeyPatch, gpus: float | None, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert alone(gpus).device == torch.device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert alone(gpus).device == torch.device("cpu")


# As PyTorch's ProcessGroupNCCL words them.
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, {}, NCCL version 2.27.5\n{}"


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (DistBackendError(NCCL.format("remote process exited or there was a network error",
                                      "ncclRemoteError: A call failed possibly due to")), True),
        (DistBackendError("NCCL communicator was aborted on rank 0"), True),
        (DistBackendError(NCCL.format("invalid usage (run with NCCL_DEBUG=WARN for details)",
                                      "ncclInvalidUsage: This usually reflects invalid usage of "
                                      "NCCL library.\nLast error:\nDuplicate GPU detected : rank 0 "
                                      "and rank 1 both on CUDA device 1b000")), False),
        (DistBackendError(NCCL.format("unhandled cuda error", "ncclUnhandledCudaError: Call to "
                                      "CUDA function failed.\nLast error:\nCuda failure 2 'out "
                                      "of memory'")), False),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by "
                      "peer"), True),
        (RuntimeError("CUDA error: invalid device ordinal"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)  # fmt: skip
def test_what_is_a_lost_rank(error: Exception, is_lost: bool) -> None:
    assert lost_rank(error) == is_lost


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_objective_is_that_of_one_process(tiny: Tiny, world_size: int) -> None:
    fields = [tiny(**{**UNEVEN, **kind}).model_dump(exclude_unset=True) for kind in KINDS]
    expected = losses_of_steps(ALONE, fields)
    for found in run_ranks(losses_of_steps, world_size, fields):
        for kind, ours, theirs in zip(KINDS, found, expected, strict=True):
            # 16 bits round, and a line search may turn on the last bit.
            loose = "precision" in kind or kind["optimizer"] == "lbfgs"
            tolerance = 0.1 if loose else 1e-5
            assert ours[0] == pytest.approx(theirs[0], rel=tolerance / 10), kind
            assert ours == pytest.approx(theirs, rel=tolerance), kind


def evaluation(ranks: Ranks, fields: dict[str, Any], collapsed: bool) -> dict[str, float]:
    """Metrics at fixed weights, twice: the second time nc4 has class means."""
    trainer = start(TrialConfig.parse(fields), ranks)
    if collapsed:  # features of a class within 1e-4 of their mean
        labels = trainer.data.train.labels
        features = trainer.model.get_parameter("backbone.features")
        with torch.no_grad():
            features.mul_(1e-4).add_(10 * torch.eye(10, features.shape[1])[labels])
    trainer.evaluate()
    row = trainer.evaluate(with_scores=True)
    counts: dict[str, int] = dict.fromkeys(("positive", "negative", "bias", "uniform"), 0)
    for score in trainer.score_rows():
        counts[score["kind"]] += score["count"]
    return {**row, **counts}


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("collapsed", [False, True])
def test_metrics_of_fixed_weights_are_those_of_one_process(
    tiny: Tiny, world_size: int, collapsed: bool
) -> None:
    fields: dict[str, Any] = {**UNEVEN, "samples_per_class": 77}
    if collapsed:
        fields |= {"model": "ufm", "model_kwargs": {"num_features": 16}}
    fields = tiny(**fields).model_dump(exclude_unset=True)
    expected = evaluation(ALONE, fields, collapsed)
    if collapsed:
        assert expected["nc1_train"] < 1e-8
    main, *others = run_ranks(evaluation, world_size, fields, collapsed)
    assert main.keys() == expected.keys()
    for key, value in expected.items():
        if not math.isnan(value):
            assert main[key] == pytest.approx(value, rel=1e-6), key
    assert main["positive"] == 770
    assert all("nc1_train" not in row for row in others)


def trial(ranks: Ranks, fields: dict[str, Any], results: str, stop_after: int | None) -> str:
    """A whole trial, or one whose ranks all end after an epoch."""

    class Stop(BaseException):
        pass

    store, config = ResultStore(results), TrialConfig.parse(fields)
    original = Trainer.train_epoch

    def train_epoch(self: Trainer, epoch: int) -> TrainedEpoch:
        if stop_after is not None and epoch > stop_after:
            raise Stop
        return original(self, epoch)

    Trainer.train_epoch = train_epoch
    try:
        return run_trial(config, lambda row: None, store=store, ranks=ranks).get("status", "")
    except Stop:
        return "stopped"
    finally:
        Trainer.train_epoch = original


@pytest.mark.slow
def test_resumed_ranks_change_no_bit(tiny: Tiny, tmp_path: Path, without_times: Callable) -> None:
    config = tiny(**{**UNEVEN, "optimizer": "adamw", "augment": "da1+da2", "epochs": 4})
    fields = config.model_dump(exclude_unset=True)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert run_ranks(trial, 3, fields, whole, None)[0] == "finished"
    assert run_ranks(trial, 3, fields, parts, 2) == ["stopped"] * 3
    assert run_ranks(trial, 3, fields, parts, None)[0] == "finished"
    for table in ("trials", "epochs", "scores"):
        expected, found = (
            without_times(ResultStore(place).read_rows(table, config.trial_id))
            for place in (whole, parts)
        )
        assert found == expected
    assert found
    (row,) = ResultStore(parts).read_rows("trials", config.trial_id)
    assert (row["world_size"], row["batch_norm"], row["attempts"]) == (3, None, 2)


def failing(ranks: Ranks, fields: dict[str, Any], results: str) -> str:
    """Rank 1 runs out of memory in the second epoch."""
    original = Trainer.train_epoch

    def train_epoch(self: Trainer, epoch: int) -> TrainedEpoch:
        if epoch == 2 and self.ranks.rank == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, epoch)

    Trainer.train_epoch = train_epoch
    try:
        run_trial(
            TrialConfig.parse(fields), lambda row: None, store=ResultStore(results), ranks=ranks
        )
    except OSError as error:
        return str(error)
    return "no error"


@pytest.mark.slow
def test_a_rank_that_fails_by_itself_says_why(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(**UNEVEN)
    fields = config.model_dump(exclude_unset=True)
    main, other = run_ranks(failing, 2, fields, str(tmp_path))
    assert "is gone" in main
    assert "rank 1 failed: out of memory at batch_size=7; use more workers" in other
    (row,) = ResultStore(tmp_path).read_rows("trials", config.trial_id)
    assert row["status"] == "failed"
    assert row["epochs_done"] <= 1  # what the main rank had saved by then
    assert "CUDA out of memory" in row["reason"]


def diverging(ranks: Ranks, fields: dict[str, Any], results: str) -> str | None:
    config = TrialConfig.parse(fields)
    return run_trial(config, lambda row: None, store=ResultStore(results), ranks=ranks).get(
        "reason"
    )


@pytest.mark.slow
def test_ranks_diverge_together(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny(**{**UNEVEN, "lr": 1e30})
    main, _ = run_ranks(diverging, 2, config.model_dump(exclude_unset=True), str(tmp_path))
    assert main is not None
    assert main.startswith("the loss is not finite at epoch 1, step ")


def with_batch_norm(ranks: Ranks, fields: dict[str, Any]) -> tuple[str | None, list[float]]:
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = start(TrialConfig.parse(fields), ranks)
    said = any("no SyncBatchNorm on CPUs" in str(warning.message) for warning in caught)
    assert said == ranks.is_main
    trainer.train_epoch(1)
    trainer.evaluate()
    buffers = [b.double().sum().item() for b in trainer.model.buffers()]
    return trainer.batch_norm, buffers


@pytest.mark.slow
def test_batch_norm_on_cpus_is_per_rank_and_says_so(tiny: Tiny) -> None:
    fields = tiny(samples_per_class=5, batch_size=7, image_size=16).model_dump(exclude_unset=True)
    found = run_ranks(with_batch_norm, 3, fields)
    assert [said for said, _ in found] == ["per rank"] * 3
    first = found[0][1]
    assert all(map(math.isfinite, first))
    assert all(buffers == first for _, buffers in found)  # all evaluate the same model


def test_ranks_talk_through_the_interface_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "chosen")
    talk_through("192.0.2.255")  # nobody's
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    talk_through("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]
    assert os.environ["NCCL_SOCKET_IFNAME"] == "chosen"
