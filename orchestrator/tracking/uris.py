"""Where MLflow writes: which addresses it takes, and how a person opens them."""

import re
import shlex
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from analysis.store.errors import InputError
from analysis.store.location import without_password
from analysis.store.results import ResultStore

SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def how_to_open(uri: str) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith(("http:", "https:")):
        return without_password(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"


def check_uri(uri: str) -> None:
    """Raises InputError unless MLflow can take this for a place to write to.

    A file of SQLite is looked into: one of another MLflow version would fail at every request.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme.partition("+")[0] not in SCHEMES:
        raise InputError(
            f"--tracking-uri {without_password(uri)!r} must begin with one of "
            f"{', '.join(each + ':' for each in SCHEMES)}"
        )
    if scheme == "sqlite" and "?" in rest:  # what follows it would be an option, not the path
        raise InputError(
            f"{uri} has a question mark in its path, which SQLite's address can't hold; use "
            "another --results, another --tracking-uri, or --no-mlflow"
        )
    if scheme == "sqlite":
        _check_file(rest, uri)
    elif not rest.startswith("//") or not rest.removeprefix("//"):
        raise InputError(f"--tracking-uri {without_password(uri)!r} names no server")


def _check_file(rest: str, uri: str) -> None:
    path = Path(rest.removeprefix("///"))
    if not rest.startswith("///") or not path.name:
        raise InputError(f"--tracking-uri {uri!r} names no file; write it as sqlite:///mlflow.db")
    if path.is_dir():
        raise InputError(f"--tracking-uri {uri!r} is a folder; name a file in it")
    if path.is_file() and path.stat().st_size:
        _check_database(path, uri)


def _check_database(path: Path, uri: str) -> None:
    instead = "or use --no-mlflow, or another --tracking-uri"
    try:
        # Not read-only: what a killed sweep had half written is first rolled back.
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
        try:
            found = {row[0] for row in database.execute("SELECT version_num FROM alembic_version")}
        finally:
            database.close()
    except sqlite3.Error as error:
        raise InputError(f"{path} is no database of MLflow ({error}); move it, {instead}") from None
    if found != _newest_revisions():
        raise InputError(
            f"{path} is of another version of MLflow; `mlflow db upgrade {uri}` brings an older "
            f"one up to date, {instead}"
        )


def _newest_revisions() -> set[str]:
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


def default_uri(store: ResultStore, folder: str) -> str:
    """A file beside the results; in `folder` where those are on an object store."""
    return f"sqlite:///{store.root if store.is_local else folder}/mlflow.db"
