"""A results folder -> pandas frames, checked on the way in.

Everything that `analysis` prints or draws starts here. An unreadable file is an error, never a
missing row.
"""

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from analysis.plan import ResultsError, Study, parse_study, plan_frame, wrong_version
from analysis.schema import SCHEMA_VERSION, TABLES

__all__ = ["Results", "ResultsError", "load_results"]

DEFAULT_TABLES = ("trials", "epochs", "scores")
_READERS = 8  # files in flight; more doesn't help on a disk, and an object store is latency


@dataclass(frozen=True, eq=False)
class Results:
    """What a results folder holds; a table that wasn't asked for is an empty frame.

    Columns, types and units are those of `analysis.schema.TABLES`; null metrics are NaN.
    """

    path: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    scores: pd.DataFrame
    features: pd.DataFrame
    studies: tuple[Study, ...]

    @cached_property
    def plan(self) -> pd.DataFrame:
        """One row per planned trial: trial_id, study, command, config; empty without studies."""
        return plan_frame(self.studies)


@dataclass(frozen=True)
class _Store:
    """Where a results folder is: `root` inside `filesystem`; `path` as the user wrote it."""

    path: str
    filesystem: pafs.FileSystem
    root: str

    def files(self, folder: str, suffix: str) -> list[str]:
        """Paths in a folder, sorted; hidden ones (`.x`, `_x`: parts of writes) left out."""
        selector = pafs.FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        return sorted(
            info.path
            for info in self.filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File
            and info.base_name.endswith(suffix)
            and not info.base_name.startswith((".", "_"))
        )


def load_results(
    path: str | os.PathLike[str], *, tables: Collection[str] = DEFAULT_TABLES
) -> Results:
    """Read a results folder.

    Args: a local path or a URI that `pyarrow.fs` opens; the tables to read, of
        `analysis.schema.TABLES` (`features` is large, so it is read on demand only).
    Raises: ResultsError, one line, if the folder is missing, empty or not a results folder, if a
        file is corrupt or written by another schema_version. ValueError for an unknown table.
    """
    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise ValueError(f"tables={unknown} are unknown; use some of {sorted(TABLES)}")
    store = _open(os.fspath(path))
    try:
        _check_is_results(store)
        frames = {name: _read_table(store, name, wanted=name in tables) for name in TABLES}
        return Results(path=store.path, **frames, studies=_read_studies(store))
    except OSError as error:
        raise ResultsError(f"can't read {store.path} ({_one_line(error)})") from error


def _open(path: str) -> _Store:
    if "://" not in path:
        return _Store(path, pafs.LocalFileSystem(), os.path.abspath(path))
    try:
        filesystem, root = pafs.FileSystem.from_uri(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(f"can't open results at {path} ({_one_line(error)})") from error
    return _Store(path, filesystem, root.rstrip("/"))


def _check_is_results(store: _Store) -> None:
    if store.files("trials", ".parquet") or store.files("studies", ".yaml"):
        return
    info = store.filesystem.get_file_info(store.root)
    what = "there is no folder" if info.type == pafs.FileType.NotFound else "no trials in"
    raise ResultsError(
        f"{what} {store.path}; fill it with `python orchestrator/sweep.py --results {store.path}` "
        "or name another one with --results"
    )


def _read_table(store: _Store, name: str, *, wanted: bool) -> pd.DataFrame:
    schema: pa.Schema = TABLES[name]
    files = store.files(name, ".parquet") if wanted else []
    # A pool of whole-file reads: 2,000 files in half the time of pyarrow.dataset, which also
    # neither looks at a file's schema_version nor always names the file that it can't read.
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda file: _read_file(store, file, schema), files))
    return pa.concat_tables([schema.empty_table(), *parts]).to_pandas()


def _read_file(store: _Store, file: str, schema: pa.Schema) -> pa.Table:
    """One file by our schema: columns in its order, those that the file lacks as nulls."""
    try:
        with store.filesystem.open_input_file(file) as source:
            parquet = pq.ParquetFile(source)
            _check_version(parquet.schema_arrow, file)
            table = parquet.read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(
            f"{file} is not a whole Parquet file ({_one_line(error)}); delete "
            f"trials/{file.rpartition('/')[2]}, then run the sweep again: it trains that one anew"
        ) from error
    return _conform(table, schema, file)


def _check_version(found: pa.Schema, file: str) -> None:
    version = (found.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ResultsError(wrong_version(file, version))


def _conform(table: pa.Table, schema: pa.Schema, file: str) -> pa.Table:
    if table.schema.equals(schema):  # almost always, and 50 casts of a file add up
        return table.replace_schema_metadata(schema.metadata)
    try:
        columns = [
            table[field.name].cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        ]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ResultsError(
            f"{file} has a column of another type ({_one_line(error)}); "
            "analysis.schema says which type each column has"
        ) from error
    return pa.table(columns, schema=schema)


def _read_studies(store: _Store) -> tuple[Study, ...]:
    studies = []
    for file in store.files("studies", ".yaml"):
        with store.filesystem.open_input_stream(file) as source:
            text = source.read().decode("utf-8", errors="replace")
        studies.append(parse_study(text, source=file))
    return tuple(studies)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
