"""A table's files -> one pyarrow table, each file checked on the way in."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from analysis.plan import ResultsError, wrong_version
from analysis.schema import SCHEMA_VERSION

_READERS = 8  # files in flight; more doesn't help on a disk, and an object store is latency
_MOST_PROBLEMS = 20  # told one by one


def read_files(filesystem: pafs.FileSystem, files: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Rows of all files by `schema`: its columns alone, those that a file lacks as nulls.

    Raises: ResultsError, a line for each file that is broken or of another schema_version.
    """
    # A pool of whole-file reads: 2,000 files in half the time of pyarrow.dataset, which also
    # neither looks at a file's schema_version nor always names the file that it can't read.
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda file: _table_or_problem(filesystem, file, schema), files))
    problems = [part for part in parts if isinstance(part, str)]
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        rest = [f"and {more} more such files"] if more > 0 else []
        raise ResultsError("\n".join([*problems[:_MOST_PROBLEMS], *rest]))
    return pa.concat_tables([schema.empty_table(), *parts])


def _table_or_problem(filesystem: pafs.FileSystem, file: str, schema: pa.Schema) -> pa.Table | str:
    try:
        return _read_file(filesystem, file, schema)
    except ResultsError as error:
        return str(error)


def _read_file(filesystem: pafs.FileSystem, file: str, schema: pa.Schema) -> pa.Table:
    try:
        # Whole and first: what fails here is the disk or the store, and no reason to delete a file.
        with filesystem.open_input_stream(file) as source:
            content = source.read()
    except OSError as error:
        raise ResultsError(f"{file} can't be read now ({one_line(error)}); try again") from error
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content))
        _check_version(parquet.schema_arrow, file)
        table = parquet.read(columns=schema.names, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(
            f"{file} is not a whole Parquet file ({one_line(error)}); delete "
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
            f"{file} has a column of another type ({one_line(error)}); "
            "analysis.schema says which type each column has"
        ) from error
    return pa.table(columns, schema=schema)


def one_line(error: Exception) -> str:
    """An error's message without its line breaks, not too long for a line."""
    return " ".join(str(error).split())[:200]
