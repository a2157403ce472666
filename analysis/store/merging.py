"""How the files of a table become few: batch by batch, each as `store.listing` tells it."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from analysis.store.errors import ResultsError
from analysis.store.files import write_atomic
from analysis.store.listing import Listing, Merged, list_table, renew_generation
from analysis.store.reading import READERS, read_files, read_merged

# Of a merged file, in memory; what one costs while it is made is a few times that.
MOST_BYTES: Final = 128 * 2**20
# What has to be decoded for the rows of one trial.
GROUP_BYTES, GROUP_ROWS = 4 * 2**20, 64 * 2**10
_AT_ONCE: Final = 64  # small files in memory before they are counted; features have megabytes each


@dataclass(frozen=True)
class OwnedTable:
    """A table of a results folder that this process alone merges; `check` tells that it does."""

    filesystem: fs.FileSystem
    folder: str
    schema: pa.Schema
    check: Callable[[], None]
    run: "Run"


class Run(NamedTuple):
    """A merge of all tables: a number that is higher than any before, and a name of its own.

    Of a trial that is merged in two folders which were joined, all tables' rows are then of one.
    """

    number: int
    name: str

    def key(self, index: int) -> str:
        """Of a table's file with this index."""
        return f"{self.number:012x}-{self.name}{index:04x}"


def new_run(listings: Iterable[Listing]) -> Run:
    """The next merge of tables of which these are the listings."""
    numbers = (file.number for listing in listings for file in listing.merged)
    return Run(max(numbers, default=0) + 1, uuid4().hex[:8])


@dataclass(frozen=True)
class MergePlan:
    """Files to be merged. Of a merged one, rows of `stale` trials count no more."""

    small: Mapping[str, fs.FileInfo]
    merged: Sequence[Merged]
    stale: Mapping[str, Collection[str]]

    def __bool__(self) -> bool:
        """Whether there is anything to do: files that can get fewer, or a merge to complete."""
        unfinished = any(
            not file.is_visible or self.stale[file.key] or not file.has_own_name
            for file in self.merged
        )
        return unfinished or len(self.small) + len(self.merged) > 1


@dataclass
class _Batch:
    """Rows for one merged file, and the files that they are from."""

    rows: list[pa.Table] = field(default_factory=list)
    small: list[fs.FileInfo] = field(default_factory=list)
    merged: list[Merged] = field(default_factory=list)
    size: int = 0

    def add(self, part: "_Part") -> None:
        self.rows.append(part.rows)
        self.small += part.small
        self.merged += part.merged
        self.size += part.rows.nbytes


class _Part(NamedTuple):
    rows: pa.Table
    small: Sequence[fs.FileInfo] = ()
    merged: Sequence[Merged] = ()


def plan_merge(table: OwnedTable, ended: Collection[str]) -> MergePlan:
    """What to merge: small files of trials that ended, and merged ones with them.

    A merged file is taken in if it holds rows that count no more, if an earlier run was killed
    before others could see it, if another folder's may bear its name, or if it is no larger than
    the small files together: so each row is written a few times in all, however often a growing
    folder is merged.
    """
    listing = list_table(table.filesystem, table.folder)
    small = {trial_id: info for trial_id, info in listing.small.items() if trial_id in ended}
    stale = _stale(table, listing)
    size = sum(info.size or 0 for info in small.values())
    merged = [
        file
        for file in listing.merged
        if stale[file.key] or not (file.is_visible and file.has_own_name) or file.size <= size
    ]
    return MergePlan(small, merged, stale)


def _stale(table: OwnedTable, listing: Listing) -> dict[str, set[str]]:
    """Of each merged file, the trials that have a file of their own, or are in a later one."""
    only_id = pa.schema([table.schema.field("trial_id")])
    newer, stale = set(listing.small), {}
    for file in listing.merged:
        rows = read_merged(table.filesystem, [file], only_id)
        ids = set(rows["trial_id"].unique().to_pylist())
        stale[file.key] = ids & newer
        newer |= ids
    return stale


def find_problems(table: OwnedTable, plan: MergePlan) -> list[str]:
    """Lines on files to be merged that are broken or of another schema_version, if any is."""
    try:
        for _ in _parts(table, plan):
            pass
    except ResultsError as error:
        return str(error).splitlines()
    return []


def merge(table: OwnedTable, plan: MergePlan) -> None:
    """Merge what was planned. Killed at any moment, it loses nothing; the next run completes it."""
    for file in list_table(table.filesystem, table.folder).merged:
        if file.is_hidden and file.is_visible:  # an earlier run's last step
            _delete(table.filesystem, file.hidden)
    batch, index = _Batch(), 0
    for part in _parts(table, plan):
        batch.add(part)
        if batch.size >= MOST_BYTES:
            _replace(table, batch, index)
            batch, index = _Batch(), index + 1
    if batch.small or batch.merged:
        _replace(table, batch, index)


def _parts(table: OwnedTable, plan: MergePlan) -> Iterator[_Part]:
    """Rows to merge. Merged files come first: they go before, or with, the small ones that win."""
    for file in plan.merged:
        stale = pa.array(sorted(plan.stale[file.key]), pa.string())
        rows = read_merged(table.filesystem, [file], table.schema, without=stale)
        yield _Part(rows, merged=[file])
    small = iter(plan.small.values())
    while chunk := list(islice(small, _AT_ONCE)):
        paths = [info.path for info in chunk]
        rows = read_files(table.filesystem, paths, table.schema)
        yield _Part(rows.combine_chunks(), small=chunk)  # thousands of chunks slow all that follows


def _replace(table: OwnedTable, batch: _Batch, index: int) -> None:
    new = Merged(table.folder, table.run.key(index), is_hidden=True, is_visible=False, size=0)
    content = _parquet(pa.concat_tables(batch.rows))
    table.check()
    write_atomic(table.filesystem, new.hidden, content)
    renew_generation(table.filesystem, table.folder)
    table.check()
    _delete_taken(table, batch)
    write_atomic(table.filesystem, new.visible, content)
    renew_generation(table.filesystem, table.folder)
    _delete(table.filesystem, new.hidden)


def _delete_taken(table: OwnedTable, batch: _Batch) -> None:
    for file in batch.merged:  # before the small ones that win over them
        for is_there, path in (file.is_visible, file.visible), (file.is_hidden, file.hidden):
            if is_there:
                _delete(table.filesystem, path)
    # A trial that was started by itself, without a sweep, may have been written anew meanwhile.
    now = {info.path: info for info in list_table(table.filesystem, table.folder).small.values()}
    same = [info.path for info in batch.small if _is_same(info, now.get(info.path))]
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda path: _delete(table.filesystem, path), same))


def _is_same(before: fs.FileInfo, now: fs.FileInfo | None) -> bool:
    return now is not None and (now.mtime_ns, now.size) == (before.mtime_ns, before.size)


def _delete(filesystem: fs.FileSystem, path: str) -> None:
    with suppress(FileNotFoundError):  # a store that was asked again had done it the first time
        filesystem.delete_file(path)


def _parquet(rows: pa.Table) -> bytes:
    """By trial, so that the row groups' least and greatest trial_id tell where one is."""
    rows = rows.sort_by("trial_id")  # a stable sort: epochs stay in order
    fit = GROUP_BYTES * len(rows) // max(rows.nbytes, 1)
    sink = pa.BufferOutputStream()
    group = min(max(fit, 1), GROUP_ROWS)
    pq.write_table(rows, sink, compression="zstd", row_group_size=group, write_page_checksum=True)
    return sink.getvalue().to_pybytes()
