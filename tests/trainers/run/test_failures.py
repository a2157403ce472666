"""Of which kind the end of a trial is: by it, not by its sentence, is decided what runs again."""

from collections.abc import Callable

import pytest
import torch

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from analysis.store.schema import FAILURES
from trainers.config import TrialConfig
from trainers.run.failures import OwnCodeError, ending_of
from trainers.run.loop import run_trial

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail] CPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
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
