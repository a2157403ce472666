from pathlib import Path

import pytest

from analysis.store import merging
from analysis.store.schema import CONFIG_FIELDS
from tests.analysis.recorded_store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty results folder."""
    return Store(tmp_path / "results")


@pytest.fixture(scope="session")
def config_names() -> frozenset[str]:
    """The names of a trial's configuration columns."""
    return frozenset(field.name for field in CONFIG_FIELDS)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several merged files of several row groups from a few trials."""
    monkeypatch.setattr(merging, "MOST_BYTES", 8000)
    monkeypatch.setattr(merging, "GROUP_BYTES", 2000)
    monkeypatch.setattr(merging, "_AT_ONCE", 3)
