"""Of which kind the end of a trial is: by it, not by its sentence, is decided what runs again."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from analysis.store.schema import FAILURES
from trainers import ray_worker
from trainers.config import TrialConfig
from trainers.run.device import take_share
from trainers.run.failures import DeviceLostError, Diverged, OwnCodeError, ending_of
from trainers.run.loop import run_trial
from trainers.run.trainer import Trainer

Tiny = Callable[..., TrialConfig]


FAULTS = (
    torch.AcceleratorError("CUDA error: device-side assert triggered", 710),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail] CPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory", 2), "out_of_memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "out_of_memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "out_of_memory"),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            "out_of_memory",
        ),
        (RuntimeError("NCCL error: Cuda failure 2 'out of memory'"), "out_of_memory"),
        *((error, "device") for error in FAULTS),
        (RuntimeError("CUDA error: invalid argument"), "own_code"),
        (KeyError("CUDA error: device-side assert triggered"), "own_code"),
        (InputError("no such class"), "input"),
        (OwnCodeError("FileNotFoundError: weights.pt"), "own_code"),
        (KeyError("out of memory, says the user's loss"), "own_code"),
        (ValueError("Expected more than 1 value per channel when training"), "own_code"),
    ],
)
def test_kinds(error: Exception, failure: str, tiny: Tiny) -> None:
    assert ending_of(error, tiny(), gpu_share=None).failure == failure
    assert failure in FAILURES


def test_a_whole_gpu_is_the_largest_share(tiny: Tiny) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    part, whole = (ending_of(error, tiny(), gpu_share=share).reason for share in (0.5, 1.0))
    assert part.startswith("out of memory at batch_size=16; use more workers")
    assert whole.startswith("out of memory with the largest share of a GPU that it gets, at batch")


def test_a_row_tells_its_kind_and_share(tiny: Tiny, store: ResultStore) -> None:
    ends = {
        run_trial(tiny(**fields), lambda _: None, store=store, gpu_share=0.25)["trial_id"]: failure
        for fields, failure in (
            ({}, None),
            ({"loss": "mse", "lr": 1e30}, "diverged"),
            ({"batch_size": 59, "model_kwargs": {"channels": [4, 4, 8, 8]}}, "own_code"),
        )
    }
    for trial_id, failure in ends.items():
        row = store.trial(trial_id)
        assert row
        assert (row["failure"], row.get("gpu_share")) == (failure, 0.25)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault)[:30])
def test_a_lost_gpu_is_not_the_trials_fault_until_it_is_lost_twice(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    config, epochs = tiny(), iter((2, 3))

    def train_epoch(trainer: Trainer, epoch: int) -> Any:
        if epoch == fails_at:
            raise fault
        return trained(trainer, epoch)

    trained = Trainer.train_epoch
    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    fails_at = next(epochs)
    with pytest.raises(DeviceLostError, match=rf"{re.escape(str(fault))} \(on .+\)"):
        run_trial(config, lambda _: None, store=store)
    row = store.trial(config.trial_id)
    assert row
    assert (row["status"], row["failure"], row["epochs_done"]) == ("running", "device", 1)
    fails_at = next(epochs)
    row = run_trial(config, lambda _: None, store=store)
    assert (row["status"], row["failure"], row["epochs_done"]) == ("failed", "device", 2)
    assert row["reason"]
    assert row["reason"].startswith("a GPU failed under it twice: most likely the trial itself")


def test_a_lost_gpu_that_another_process_has_is_no_failure(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:

        def fail(*_: object) -> None:
            raise FAULTS[0]

        patched.setattr(Trainer, "train_epoch", fail)
        with pytest.raises(OSError, match="device-side assert"):
            run_trial(tiny(), lambda _: None, store=store)
    row = run_trial(tiny(), lambda _: None, store=store)
    assert (row["status"], row["failure"], row["reason"]) == ("finished", None, None)


def test_a_process_without_its_gpu_takes_no_other_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "_lost_device", [])
    monkeypatch.setattr(ray_worker, "_stop_is_asked", lambda: False)
    monkeypatch.setattr(ray_worker.tune, "report", lambda _: None)
    ends = iter(
        ({"status": "finished", "failure": None}, {"status": "failed", "failure": "device"})
    )
    monkeypatch.setattr(ray_worker, "_run", lambda *_: next(ends))
    job: Any = {"job": {"trial_id": "a", "workers": 1}}
    ray_worker.train(job)
    ray_worker.train(job)
    with pytest.raises(RuntimeError, match="has lost its GPU"):
        ray_worker.train(job)


def test_a_share_of_a_gpu_is_all_that_a_trial_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *words: asked.append(words)
    )
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    gpu = torch.device("cuda", 0)
    for device, share in ((gpu, 0.25), (gpu, None), (gpu, 1.0), (torch.device("cpu"), None)):
        take_share(device, share)
    assert asked == [(0.25, gpu), (1.0, gpu), (1.0, gpu)]


@pytest.mark.parametrize(
    ("error", "share", "keep", "stays"),
    [
        (KeyError("mine"), None, False, False),
        (KeyError("mine"), None, True, True),
        (Diverged("nan"), 0.5, False, False),
        (torch.OutOfMemoryError("CUDA out of memory."), 0.5, False, True),
        (torch.OutOfMemoryError("CUDA out of memory."), 1.0, False, False),
        (torch.OutOfMemoryError("CUDA out of memory."), None, False, False),
    ],
)
def test_checkpoints_of_a_failed_trial_stay_for_who_takes_it_up(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch,
    error: Exception, share: float | None, keep: bool, stays: bool,
) -> None:  # fmt: skip
    trained = Trainer.train_epoch

    def train_epoch(trainer: Trainer, epoch: int) -> Any:
        if epoch == 3:
            raise error
        return trained(trainer, epoch)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    row = run_trial(tiny(), lambda _: None, store=store, gpu_share=share, keep_checkpoints=keep)
    assert row["status"] in ("failed", "diverged")
    left = store.names("checkpoints", row["trial_id"])
    assert left == (["epoch_000001.pt", "epoch_000002.pt"] if stays else [])
