from pathlib import Path

import pytest

from analysis.schema import CONFIG_FIELDS
from tests.analysis.recorded_store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty results folder."""
    return Store(tmp_path / "results")


@pytest.fixture(scope="session")
def config_names() -> frozenset[str]:
    """The names of a trial's configuration columns."""
    return frozenset(field.name for field in CONFIG_FIELDS)
