"""Where MLflow writes: which addresses it takes, and how a person opens them."""

import shlex
from typing import Final

from analysis.store.errors import InputError
from analysis.store.location import without_password
from analysis.store.results import ResultStore
from orchestrator.tracking.database import Fault, fault_of, file_of, uri_of

SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
INSTEAD: Final = "another --tracking-uri, or --no-mlflow"


def how_to_open(uri: str) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith(("http:", "https:")):
        return without_password(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(without_password(uri))}"


def check_uri(uri: str, *, default: str) -> None:
    """Raises InputError unless MLflow can take this for a place to write to.

    `default` is the address of the file that is the sweep's own: what is wrong with that one is
    mended later. A file that the user names must be MLflow's, if it is there.
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
            f"another --results, {INSTEAD}"
        )
    if scheme == "sqlite":
        _check_file(uri, default)
    elif not rest.startswith("//") or not rest.removeprefix("//"):
        raise InputError(f"--tracking-uri {without_password(uri)!r} names no server")


def _check_file(uri: str, default: str) -> None:
    path, own = file_of(uri), file_of(default)
    assert own is not None
    if path is None or not path.name:
        raise InputError(f"--tracking-uri {uri!r} names no file; write it as sqlite:///mlflow.db")
    if path.is_dir():
        raise InputError(f"--tracking-uri {uri!r} is a folder; name a file in it")
    if not path.parent.is_dir() and path.parent.absolute() != own.parent.absolute():
        raise InputError(f"--tracking-uri {uri!r}: there is no folder {path.parent}; make it first")
    fault = fault_of(path)
    if fault in (Fault.UNREADABLE, Fault.FOREIGN) and not is_own(uri, default):
        raise InputError(f"{path} {fault.value}; move it, use {INSTEAD}")


def is_own(uri: str, default: str) -> bool:
    """Whether an address is that of the sweep's own file."""
    path, own = file_of(uri), file_of(default)
    return path is not None and own is not None and path.absolute() == own.absolute()


def why_without(uri: str, *, default: str) -> str | None:
    """Why nothing can be written to an address that `check_uri` passed, and what would help.

    None if it can be, as far as is known. The sweep's own file, if it is damaged or half made, can:
    it is made anew from the results.
    """
    path = file_of(uri)
    fault = fault_of(path) if path else None
    if fault == Fault.OTHER_VERSION:
        return (
            f"{path} {fault.value}: `mlflow db upgrade {uri}` brings an older one up to date, or "
            "move it, and it is made again from the results"
        )
    if fault == Fault.HALF_MADE and not is_own(uri, default):
        return f"{path} {fault.value}: move it"
    return None


def default_uri(store: ResultStore, folder: str) -> str:
    """A file beside the results; in `folder` where those are on an object store."""
    return uri_of(f"{store.root if store.is_local else folder}/mlflow.db")
