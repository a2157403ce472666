"""What tests of several packages share: tiny trials, and rows without their times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.store.results import ResultStore
from analysis.store.schema import TIME_COLUMNS
from trainers.config import TrialConfig

pytest_plugins = ["tests.undisturbed"]
TINY: dict[str, Any] = {
    "dataset": "digits",
    "samples_per_class": 6,
    "model": "resnet18",
    "model_kwargs": {"channels": [4, 4, 8, 8]},
    "loss": "bce",
    "optimizer": "sgd",
    "batch_size": 16,
    "epochs": 3,
}


@pytest.fixture
def tiny() -> Callable[..., TrialConfig]:
    """A trial of a second or so on real digits; keyword arguments change its fields."""
    return lambda **fields: TrialConfig.parse({**TINY, **fields})


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What two runs of one trial must agree in. One may be of a commit, one of what became it."""
    ignored = {*TIME_COLUMNS, "attempts", "git_commit"}
    return [{k: v for k, v in row.items() if k not in ignored} for row in rows]


@pytest.fixture(name="without_times")
def _without_times() -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return without_times


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As in a sweep. Also for speed: what tests train is too small to share between cores."""
    import torch

    torch.set_num_threads(1)
