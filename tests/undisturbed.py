"""Sweeps that no fault disturbs: what the disturbed ones have to equal. A plugin of pytest.

With several processes (`-n 2`) the first that needs one makes it, for all of them.
"""

import fcntl
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from analysis.store.results import ResultStore
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


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "sweeps"
    folder.mkdir(exist_ok=True)
    for name, text in (("study.yaml", STUDY), ("ddp.yaml", DDP_STUDY)):
        part = folder / f"{name}.{os.getpid()}"
        part.write_text(text)
        part.replace(folder / name)  # another worker may be reading it
    return folder


def _once(home: Path, name: str, *argv: str, study: str = "study.yaml") -> tuple[str, Rows]:
    """What the sweep into `home/name` says and leaves. It is run, unless it was."""
    kept = home / f"{name}.pickle"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            out = finish(start(home, name, *argv, study=study))
            kept.write_bytes(pickle.dumps((out, rows(home / name))))
    return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def undisturbed(home: Path) -> Rows:
    """Four trials, in `home/whole`."""
    out, left = _once(home, "whole")
    assert "4 trials, 0 done before, 4 to run" in out
    assert "Table 2" in out
    assert re.search(r"finished +4 of 4 trials", out)
    assert "mlflow ui --backend-store-uri sqlite:///" in out
    return left


@pytest.fixture(scope="session")
def two_ranks(home: Path) -> Rows:
    """One trial of two processes, in `home/two`."""
    return _once(home, "two", *TWO, study="ddp.yaml")[1]


@pytest.fixture(scope="session")
def longer(home: Path) -> Rows:
    """The four trials with more epochs, so that they are not over before something happens."""
    return _once(home, "longer", *LONG)[1]


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
