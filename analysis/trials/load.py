"""A results folder -> pandas frames, checked on the way in.

Everything that `analysis` prints or draws starts here. An unreadable file is an error, never a
missing row.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.fs as pafs

from analysis.store.errors import ResultsError, one_line
from analysis.store.listing import list_table
from analysis.store.location import open_location
from analysis.store.reading import read_folder
from analysis.store.schema import CONFIG_FIELDS, TABLES
from analysis.store.studies import RecordedStudy, parse_recorded

__all__ = ["Results", "ResultsError", "load_results"]

DEFAULT_TABLES = ("trials", "epochs", "scores")


@dataclass(frozen=True, eq=False)
class Results:
    """What a results folder holds; a table that wasn't asked for is an empty frame.

    Columns, types and units are those of `store.schema.TABLES`; null metrics are NaN.
    """

    path: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    scores: pd.DataFrame
    features: pd.DataFrame
    studies: tuple[RecordedStudy, ...]

    @cached_property
    def plan(self) -> pd.DataFrame:
        """One row per planned trial: trial_id, study, command, config; empty without studies."""
        return plan_frame(self.studies)


@dataclass(frozen=True)
class Store:
    """Where a results folder is: `root` inside `filesystem`; `path` as the user wrote it."""

    path: str
    filesystem: pafs.FileSystem
    root: str

    def folder(self, table: str) -> str:
        """Where a table's files are."""
        return f"{self.root}/{table}"

    def studies(self) -> list[str]:
        """Paths of the studies, sorted; hidden ones (`.x`, `_x`: parts of writes) left out."""
        selector = pafs.FileSelector(f"{self.root}/studies", allow_not_found=True)
        return sorted(
            info.path
            for info in self.filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File
            and info.base_name.endswith(".yaml")
            and not info.base_name.startswith((".", "_"))
        )


def load_results(
    path: str | os.PathLike[str],
    *,
    tables: Collection[str] = DEFAULT_TABLES,
    epoch_columns: Collection[str] | None = None,
) -> Results:
    """Read a results folder.

    Args: a local path or a URI that `pyarrow.fs` opens; the tables to read, of
        `store.schema.TABLES` (`features` is large, so it is read on demand only); of `epochs`,
        the columns to read besides `trial_id` and `epoch`, where not all of them are needed.
    Raises: ResultsError, one line, if the folder is missing, empty or not a results folder; a line
        for each file that is corrupt or written by another schema_version. ValueError for an
        unknown table.
    """
    unknown = sorted(set(tables) - set(TABLES))
    if unknown:
        raise ValueError(f"tables={unknown} are unknown; use some of {sorted(TABLES)}")
    store = open_results(path)
    try:
        schemas = {**TABLES, "epochs": _narrowed(TABLES["epochs"], epoch_columns)}
        frames, problems = {}, []
        for name, schema in schemas.items():
            try:
                frames[name] = _read_table(store, name, schema, wanted=name in tables)
            except ResultsError as error:
                problems.append(str(error))
        if problems:
            raise ResultsError("\n".join(problems))
        return Results(path=store.path, **frames, studies=_read_studies(store))
    except OSError as error:
        raise ResultsError(f"can't read {store.path} ({one_line(error)})") from error


def open_results(path: str | os.PathLike[str]) -> Store:
    """Where a results folder is. Raises ResultsError, one line, if there is none."""
    path = os.fspath(path)
    try:
        store = Store(path, *open_location(path))
        _check_is_results(store)
    except ResultsError:
        raise
    except (ValueError, OSError) as error:
        raise ResultsError(f"can't open results at {path} ({one_line(error)})") from error
    return store


def _check_is_results(store: Store) -> None:
    if list_table(store.filesystem, store.folder("trials")) or store.studies():
        return
    info = store.filesystem.get_file_info(store.root)
    what = "there is no folder" if info.type == pafs.FileType.NotFound else "no trials in"
    raise ResultsError(
        f"{what} {store.path}; fill it with `python orchestrator/sweep.py --results {store.path}` "
        "or name another one with --results"
    )


def _narrowed(schema: pa.Schema, columns: Collection[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    wanted = {"trial_id", "epoch", *columns}
    return pa.schema([f for f in schema if f.name in wanted], metadata=schema.metadata)


def _read_table(store: Store, name: str, schema: pa.Schema, *, wanted: bool) -> pd.DataFrame:
    if not wanted:
        return schema.empty_table().to_pandas()
    table = read_folder(store.filesystem, store.folder(name), schema)
    return table.to_pandas(self_destruct=True)


def _read_studies(store: Store) -> tuple[RecordedStudy, ...]:
    studies = []
    for file in store.studies():
        with store.filesystem.open_input_stream(file) as source:
            text = source.read().decode("utf-8", errors="replace")
        studies.append(parse_recorded(text, source=file))
    return tuple(studies)


_PLAN_FIELDS = (
    pa.field("trial_id", pa.string()),
    pa.field("study", pa.string()),
    pa.field("command", pa.string()),
    *CONFIG_FIELDS,
)


def plan_frame(studies: Iterable[RecordedStudy]) -> pd.DataFrame:
    """One row per planned trial of each study: trial_id, study, command, config columns.

    Raises: ResultsError if a value doesn't fit its column's type.
    """
    rows = [
        {"trial_id": trial_id, "study": study.name, "command": study.command, **config}
        for study in studies
        for trial_id, config in study.trials.items()
    ]
    return pa.table({field.name: _column(rows, field) for field in _PLAN_FIELDS}).to_pandas()


def _column(rows: list[dict[str, Any]], field: pa.Field) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    try:
        if pa.types.is_floating(field.type):  # YAML 1.1 reads `5e-4`, without a dot, as text
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, type=field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise ResultsError(
            f"a study file has a value for {field.name!r} that is no {field.type} ({error}); "
            "run the study again to write it anew"
        ) from error
