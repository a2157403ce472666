"""What a table's folder holds: a small file for each trial, and merged files of many trials.

A trial's own small file wins over its rows in merged files, and of two merged files the later one.
So a trial that runs again just writes its small file. `analysis.compact` merges, in this order:

1. the merged file, under a hidden name that only we know;
2. a new generation (`compacted/<table>`, a file beside the tables);
3. what it took its rows from is deleted;
4. the merged file under its visible name;
5. a new generation; then the hidden name is deleted.

Rows are therefore in at least one file at any moment, for all who know the hidden name. A listing
is no snapshot: it may miss a file that came after it began, and one that went before it ended. But
between two reads of the same generation none of the files that count has come and gone.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from analysis.store.errors import BusyError, ResultsError
from analysis.store.files import write_atomic

TRIES: Final = 10  # each is overtaken only by another step of a merge that runs meanwhile
# Not .parquet while it is hidden: a pattern such as *.parquet may match names with a leading dot.
# By the number of the merge that made it, and by what no other file bears: folders can be joined.
_NAME: Final = re.compile(r"\.?merged-(?P<key>[0-9a-f]{12}(?:-[0-9a-f]{12})?)(\.parquet)?")


@dataclass(frozen=True)
class Merged:
    """A merged file, by its key: a later one's is higher."""

    folder: str
    key: str
    is_hidden: bool  # there under its hidden name
    is_visible: bool
    size: int

    @property
    def visible(self) -> str:
        """Its path for everybody."""
        return f"{self.folder}/merged-{self.key}.parquet"

    @property
    def hidden(self) -> str:
        """Its path until what it was made of is deleted."""
        return f"{self.folder}/.merged-{self.key}"

    @property
    def has_own_name(self) -> bool:
        """Whether no other folder's file bears its name; those of 0.1.0 could."""
        return "-" in self.key

    @property
    def number(self) -> int:
        """Of the merge that made it."""
        return int(self.key.partition("-")[0], 16)

    def open(self, filesystem: fs.FileSystem) -> pa.NativeFile:
        """Open it under the name that it has by now. Raises FileNotFoundError."""
        try:
            return filesystem.open_input_file(self.hidden)
        except FileNotFoundError:
            return filesystem.open_input_file(self.visible)


@dataclass(frozen=True)
class Listing:
    """Files of a table at one moment: small ones by trial id, merged ones from new to old."""

    small: Mapping[str, fs.FileInfo]
    merged: tuple[Merged, ...]

    def __bool__(self) -> bool:
        return bool(self.small or self.merged)


def list_table(filesystem: fs.FileSystem, folder: str) -> Listing:
    """What is in a table's folder; nothing if there is none. Raises BusyError."""
    for _ in range(TRIES):
        before = _generation(filesystem, folder)
        listing = _list(filesystem, folder)
        if _generation(filesystem, folder) == before:
            return listing
    raise BusyError(f"{folder} is being merged too fast to be listed; try again")


def read_trial(filesystem: fs.FileSystem, folder: str, trial_id: str) -> list[dict[str, Any]]:
    """A trial's rows of a table; none if it has no file and is in no merged one."""
    for _ in range(TRIES):
        try:
            path = f"{folder}/{trial_id}.parquet"
            table = pq.read_table(path, filesystem=filesystem, page_checksum_verification=True)
            check_is_own(table, path)
            return table.to_pylist()
        except FileNotFoundError:
            pass  # merged, or never there
        if not _generation(filesystem, folder):  # spares listing 10,000 files
            return []
        listing = list_table(filesystem, folder)
        try:
            if trial_id not in listing.small:
                return _rows(filesystem, listing, trial_id)
        except FileNotFoundError:
            continue  # merged again meanwhile
    raise BusyError(f"{folder} is being merged too fast to be read; try again")


def check_is_own(table: pa.Table, file: str) -> None:
    """Raises ResultsError if a small file holds rows of another trial than it is named for."""
    own = file.rpartition("/")[2].removesuffix(".parquet")
    ids = table["trial_id"].unique().to_pylist() if "trial_id" in table.column_names else ["?"]
    others = [trial_id for trial_id in ids if trial_id != own]
    if others:
        raise ResultsError(
            f"{file} holds trial {others[0]}, which it is not named for: a copy, most likely; "
            "delete it, or move it out of the results"
        )


def renew_generation(filesystem: fs.FileSystem, folder: str) -> None:
    """Tell readers that files which count are about to come or to go."""
    write_atomic(filesystem, _generation_path(folder), uuid4().hex.encode())


def _generation_path(folder: str) -> str:
    root, _, table = folder.rpartition("/")
    return f"{root}/compacted/{table}"  # not in the table's folder, where all is Parquet


def _generation(filesystem: fs.FileSystem, folder: str) -> bytes:
    """Empty if the table was never merged."""
    try:
        with filesystem.open_input_stream(_generation_path(folder)) as stream:
            return stream.read()
    except FileNotFoundError:
        return b""


def _list(filesystem: fs.FileSystem, folder: str) -> Listing:
    small: dict[str, fs.FileInfo] = {}
    merged: dict[str, dict[str, fs.FileInfo]] = {}
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        name = info.base_name
        if info.type != fs.FileType.File:
            continue
        if (match := _NAME.fullmatch(name)) and name.startswith(".") != name.endswith(".parquet"):
            merged.setdefault(match["key"], {})[name] = info
        elif name.endswith(".parquet") and not name.startswith((".", "_")):  # parts of writes
            small[name.removesuffix(".parquet")] = info
    newest_first = sorted(merged.items(), reverse=True)
    return Listing(
        dict(sorted(small.items())),
        tuple(_merged(folder, key, found) for key, found in newest_first),
    )


def _merged(folder: str, key: str, found: Mapping[str, fs.FileInfo]) -> Merged:
    hidden = [name.startswith(".") for name in found]
    size = max(info.size or 0 for info in found.values())
    return Merged(folder, key, any(hidden), not all(hidden), size)


def _rows(filesystem: fs.FileSystem, listing: Listing, trial_id: str) -> list[dict[str, Any]]:
    for merged in listing.merged:
        with merged.open(filesystem) as source:
            file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
            groups = [i for i in range(file.num_row_groups) if _may_hold(file, i, trial_id)]
            table = file.read_row_groups(groups) if groups else file.schema_arrow.empty_table()
            rows = table.filter(pc.field("trial_id") == trial_id).to_pylist()
        if rows:
            return rows
    return []


def _may_hold(file: pq.ParquetFile, group: int, trial_id: str) -> bool:
    """Whether a row group's least and greatest trial_id enclose this one."""
    column = file.schema_arrow.get_field_index("trial_id")
    found = file.metadata.row_group(group).column(column).statistics
    return found is None or not found.has_min_max or found.min <= trial_id <= found.max
