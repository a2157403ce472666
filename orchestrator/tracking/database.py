"""The SQLite file that MLflow writes: made whole or not at all, and looked into before it is used.

MLflow makes its tables in some fifty steps, and a file that a kill left between two of them is of
no use to it, ever.
"""

import os
import re
import sqlite3
import tempfile
from contextlib import closing
from enum import Enum
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pyarrow import fs

from analysis.store.files import write_bytes
from analysis.store.locks import lock

PREFIX: Final = "sqlite:///"
COMPANIONS: Final = ("-journal", "-wal", "-shm")  # what SQLite keeps beside a file
BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Fault(Enum):
    """What keeps MLflow from writing into a file."""

    UNREADABLE = "is no database, or a damaged one"
    FOREIGN = "is a database of something else than MLflow"
    HALF_MADE = "is a database of MLflow without a run that was left half made"
    OTHER_VERSION = "is of another version of MLflow"


# What may become of a sweep's own file after a kill or on a bad disk, or be put in its place: all
# that MLflow would have in it is in the results.
MENDED: Final = (Fault.UNREADABLE, Fault.FOREIGN, Fault.HALF_MADE)


def uri_of(path: str | Path) -> str:
    """The address of a file, as SQLAlchemy reads it.

    A question mark it reads as the path's end, unless it can be quoted: `check_uri` refuses it.
    """
    text = str(path)
    if set("%?") & set(text) and _are_decoded():
        text = text.replace("%", "%25").replace("?", "%3F")
    return PREFIX + text


def file_of(uri: str) -> Path | None:
    """The file at an address; None if that is a server's."""
    if not uri.startswith(PREFIX):
        return None
    text = uri.removeprefix(PREFIX)
    return Path(unquote(text) if "%" in text and _are_decoded() else text)


@lru_cache(maxsize=1)
def _are_decoded() -> bool:
    """Whether SQLAlchemy takes %25 in a path for a per cent sign: 2.1 does, and 2.0 as it is."""
    from sqlalchemy.engine import make_url  # here: it takes a while, and few paths need it

    return make_url(f"{PREFIX}%25").database == "%"


def fault_of(path: Path, *, thoroughly: bool = False) -> Fault | None:
    """What is wrong with a file; None if nothing is, or it isn't there yet.

    `thoroughly` reads all of it. A file that can't be looked into now, since it is locked or the
    disk doesn't answer, has no fault: MLflow will tell.
    """
    if not _is_filled(path):
        return None
    try:
        # Not read-only: what a killed sweep had half written is first rolled back.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as database:
            return _fault_of(database, thoroughly)
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        return Fault.UNREADABLE if code & 0xFF in BROKEN else None  # the rest is a finer cause


def _fault_of(database: sqlite3.Connection, thoroughly: bool) -> Fault | None:
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if tables and not tables & {"alembic_version", "experiments"}:
        return Fault.FOREIGN
    found = set[str]()
    if "alembic_version" in tables:
        found = {row[0] for row in database.execute("SELECT version_num FROM alembic_version")}
    if found != newest_revisions():
        runs = "runs" in tables and database.execute("SELECT 1 FROM runs LIMIT 1").fetchone()
        return Fault.OTHER_VERSION if runs else Fault.HALF_MADE
    if thoroughly and database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        return Fault.UNREADABLE
    return None


def newest_revisions() -> set[str]:
    """The database revisions of the installed MLflow that no other builds on.

    Read from its migrations as text, since importing MLflow takes seconds.
    """
    spec = find_spec("mlflow")
    assert spec is not None  # it is a dependency
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0], "store", "db_migrations", "versions")
    text = "\n".join(file.read_text("utf-8") for file in folder.glob("*.py"))
    built_on = set(re.findall(r'(?m)^down_revision = "(\w+)"', text))
    return set(re.findall(r'(?m)^revision = "(\w+)"', text)) - built_on


def make(uri: str) -> None:
    """Put a database without runs where there is no file yet; at a server's address do nothing.

    MLflow makes it elsewhere: however this ends, the file is whole or not there. Raises OSError,
    and whatever MLflow does.
    """
    path = file_of(uri)
    if path is None or _is_filled(path):
        return
    path = path.resolve()
    with lock(fs.LocalFileSystem(), str(path.with_name(f".{path.name}.lock")), wait=True):
        if _is_filled(path):  # by whom this one waited for
            return
        content = _new_database()
        for companion in _companions(path):  # of a file that was removed: not this one's
            companion.unlink()
        write_bytes(path, content)


def _new_database() -> bytes:
    from mlflow import MlflowClient  # takes seconds

    with tempfile.TemporaryDirectory(prefix="mlflow_") as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(uri_of(path)).search_experiments()
        return path.read_bytes()


def set_aside(path: Path, fault: Fault) -> str:
    """Rename a file, and what SQLite has beside it, to the next free `<name>.broken-<number>`.

    Returns a line that says so.
    """
    taken = {each.name for each in path.parent.iterdir()}
    names = (f"{path.name}.broken-{number}" for number in count(1))
    new = path.with_name(next(name for name in names if name not in taken))
    for companion in _companions(path):
        os.replace(companion, f"{new}{companion.name.removeprefix(path.name)}")
    os.replace(path, new)
    return f"{path} {fault.value}; it is {new.name} now, and is made anew from the results"


def _companions(path: Path) -> list[Path]:
    named = (path.with_name(path.name + suffix) for suffix in COMPANIONS)
    return [companion for companion in named if companion.exists()]


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
