"""A table's files -> one pyarrow table, each file checked on the way in."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from analysis.store.errors import BusyError, ResultsError, VersionError, one_line
from analysis.store.listing import TRIES, Listing, Merged, check_is_own, list_table
from analysis.store.schema import SCHEMA_VERSION

READERS: Final = 8  # files in flight at an object store, which is latency
DISK_READERS: Final = 4  # more wait for Python's lock and not for the disk: 8 take a fifth longer
_MOST_PROBLEMS = 20  # told one by one
_MERGED_BEFORE = (
    "of a trial that ran again after its files were merged, delete */TRIAL_ID.parquet instead: "
    "then what was merged counts again"
)


def read_folder(filesystem: pafs.FileSystem, folder: str, schema: pa.Schema) -> pa.Table:
    """Rows of a table, whether its trials' files were merged or not; sorted by trial.

    `schema` names the columns, `trial_id` among them. Raises: as `read_files`, and OSError.
    """
    for _ in range(TRIES):
        try:
            return read_listing(filesystem, list_table(filesystem, folder), schema)
        except FileNotFoundError:
            continue  # merged between the listing and the reading: list again
    raise BusyError(f"{folder} is being merged too fast to be read; try again")


def read_listing(filesystem: pafs.FileSystem, listing: Listing, schema: pa.Schema) -> pa.Table:
    """Rows of the files in a listing, each trial's from the file that counts.

    Raises: as `read_files`; FileNotFoundError if rows have been merged into a file not listed.
    """
    try:
        small = _read_all(filesystem, [info.path for info in listing.small.values()], schema)
    except VersionError:
        raise
    except ResultsError as error:
        if not listing.merged:
            raise
        raise ResultsError(f"{error}\n{_MERGED_BEFORE}") from error
    own = [trial for trial, part in zip(listing.small, small, strict=True) if part is not None]
    merged = read_merged(filesystem, listing.merged, schema, without=own)
    gone = set(listing.small) - set(own)
    if gone and not gone <= set(merged["trial_id"].unique().to_pylist()):
        raise FileNotFoundError(f"{listing.small[min(gone)].path} was merged meanwhile")
    parts = [part for part in small if part is not None]
    return _sorted(pa.concat_tables([schema.empty_table(), *parts, merged]), listing)


def read_merged(
    filesystem: pafs.FileSystem,
    files: Iterable[Merged],
    schema: pa.Schema,
    *,
    without: Iterable[str] = (),
) -> pa.Table:
    """Rows of merged files, from new to old, `without` those of some trials."""
    parts, taken = [schema.empty_table()], pa.array(without, pa.string())
    for file in files:
        part = _read_merged_file(filesystem, file, schema)
        part = part.filter(~pc.field("trial_id").isin(taken)) if len(taken) else part
        parts.append(part)
        new = part["trial_id"].unique()
        taken = pa.concat_arrays([taken, new])
    return pa.concat_tables(parts)


def read_files(filesystem: pafs.FileSystem, files: Sequence[str], schema: pa.Schema) -> pa.Table:
    """Rows of all files by `schema`: its columns alone, those that a file lacks as nulls.

    Raises: ResultsError, a line for each file that is broken; VersionError; FileNotFoundError.
    """
    parts = _read_all(filesystem, files, schema)
    for file, part in zip(files, parts, strict=True):
        if part is None:
            raise FileNotFoundError(file)
    return pa.concat_tables([schema.empty_table(), *(part for part in parts if part is not None)])


def _read_all(
    filesystem: pafs.FileSystem, files: Sequence[str], schema: pa.Schema
) -> list[pa.Table | None]:
    """Each file's rows; None for one that is gone. Raises: as `read_files`."""
    # A pool of whole-file reads: 2,000 files in half the time of pyarrow.dataset, which also
    # neither looks at a file's schema_version nor always names the file that it can't read.
    on_disk = isinstance(filesystem, pafs.LocalFileSystem)
    with ThreadPoolExecutor(DISK_READERS if on_disk else READERS) as pool:
        parts = list(pool.map(lambda file: _table_or_problem(filesystem, file, schema), files))
    problems = [part for part in parts if isinstance(part, ResultsError)]
    for problem in problems:
        if isinstance(problem, VersionError):  # all files are, as a rule, and it isn't theirs
            others = sum(isinstance(other, VersionError) for other in problems) - 1
            raise VersionError(problem.source, problem.found, more=others)
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        rest = [f"and {more} more such files"] if more > 0 else []
        raise ResultsError("\n".join([*map(str, problems[:_MOST_PROBLEMS]), *rest]))
    return [part for part in parts if not isinstance(part, ResultsError)]


def _table_or_problem(
    filesystem: pafs.FileSystem, file: str, schema: pa.Schema
) -> pa.Table | ResultsError | None:
    try:
        return _read_file(filesystem, file, schema)
    except FileNotFoundError:
        return None
    except ResultsError as error:
        return error


def _read_file(filesystem: pafs.FileSystem, file: str, schema: pa.Schema) -> pa.Table:
    try:
        # Whole and first: what fails here is the disk or the store, and no reason to delete a file.
        with filesystem.open_input_stream(file) as source:
            content = source.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResultsError(f"{file} can't be read now ({one_line(error)}); try again") from error
    try:
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        _check_version(parquet, file)
        table = parquet.read(columns=schema.names, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(
            f"{file} is not a whole Parquet file ({one_line(error)}); delete "
            f"trials/{file.rpartition('/')[2]}, then run the sweep again: it trains that one anew"
        ) from error
    table = _conform(table, schema, file)
    check_is_own(table, file)
    return table


def _read_merged_file(filesystem: pafs.FileSystem, file: Merged, schema: pa.Schema) -> pa.Table:
    try:
        with file.open(filesystem) as source:
            parquet = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
            _check_version(parquet, file.visible)
            table = parquet.read(columns=schema.names)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ResultsError(
            f"{file.visible}, which holds many trials, can't be read ({one_line(error)}); if that "
            "stays so, delete it and each trials/merged-*.parquet, then run the sweep again: it "
            "trains those anew"
        ) from error
    return _conform(table, schema, file.visible)


def _sorted(table: pa.Table, listing: Listing) -> pa.Table:
    """By trial, as small files are read, so that merging them moves no sum's last bits."""
    ids = table["trial_id"]
    if not listing.merged or len(ids) < 2:
        return table
    in_order = pc.call_function("less_equal", [ids[:-1], ids[1:]])
    if pc.call_function("all", [in_order]).as_py():
        return table
    return table.sort_by("trial_id")  # a stable sort: epochs stay in order


def _check_version(parquet: pq.ParquetFile, file: str) -> None:
    # Not from `schema_arrow`: to build that takes as long as to read a tenth of a small file.
    version = (parquet.metadata.metadata or {}).get(b"schema_version", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise VersionError(file, version)


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
            "analysis.store.schema says which type each column has"
        ) from error
    return pa.table(columns, schema=schema)
