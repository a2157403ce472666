"""Sweeps that no fault disturbs: what the disturbed ones have to equal."""

import re
from pathlib import Path

import pytest

from tests.orchestrator.sweeps import DDP_STUDY, STUDY, TWO, Rows, finish, rows, start


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
