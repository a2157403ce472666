"""Sweeps that no fault disturbs: what the disturbed ones have to equal. A plugin of pytest."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from tests.orchestrator.sweeps import (
    DDP_STUDY,
    LONG,
    STUDY,
    TABLES,
    TWO,
    Rows,
    Same,
    finish,
    rows,
    start,
)
from trainers.results import ResultStore


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "ddp.yaml").write_text(DDP_STUDY)
    return folder


@pytest.fixture(scope="session")
def undisturbed(home: Path) -> Rows:
    """Four trials, in `home/whole`."""
    out = finish(start(home, "whole"))
    assert "4 trials, 0 done before, 4 to run" in out
    assert "Table 2" in out
    assert re.search(r"finished +4 of 4 trials", out)
    assert "mlflow ui --backend-store-uri sqlite:///" in out
    return rows(home / "whole")


@pytest.fixture(scope="session")
def two_ranks(home: Path) -> Rows:
    """One trial of two processes, in `home/two`."""
    finish(start(home, "two", *TWO, study="ddp.yaml"))
    return rows(home / "two")


@pytest.fixture(scope="session")
def longer(home: Path) -> Rows:
    """The four trials with more epochs, so that they are not over before something happens."""
    finish(start(home, "longer", *LONG))
    return rows(home / "longer")


@pytest.fixture
def same(without_times: Callable) -> Same:
    """A check that results equal expected rows, and that nothing else is left there."""

    def check(results: Path | str, expected: Rows) -> None:
        found = rows(results)
        for table in TABLES:
            assert without_times(found[table]) == without_times(expected[table]), table
        store = ResultStore(results)
        selector = fs.FileSelector(store.root, recursive=True)
        files = [i for i in store.filesystem.get_file_info(selector) if i.is_file and i.base_name]
        assert [i.path for i in files if i.base_name.startswith(".")] == []
        assert [i.path for i in files if "/checkpoints/" in i.path] == []

    return check
