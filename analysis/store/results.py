"""A results folder: the one owner of its file names, and the writer of its Parquet files."""

import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from analysis.store.errors import InputError, WriteError
from analysis.store.files import remove_parts, write_atomic
from analysis.store.listing import read_trial
from analysis.store.location import IMPATIENT, open_location
from analysis.store.locks import check_locks, lock, remove_expired
from analysis.store.rows import EpochRow, TrialRow
from analysis.store.schema import TABLES

CHECKPOINTS: Final = "checkpoints"  # a folder for each trial that has not ended
KEPT: Final = 2  # of a running trial, should the newest be unreadable


class ResultStore:
    """Files of a sweep under a local path or a URI that `pyarrow.fs` opens."""

    def __init__(self, location: str | Path) -> None:
        """Writes nothing. Raises InputError if the location can't be understood."""
        self.location = str(location)
        if not self.location or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)", self.location):
            raise InputError(
                f"--results {self.location!r} is neither a folder nor a URI like s3://bucket/prefix"
            )
        try:
            self.filesystem, self.root = open_location(self.location)
            os.fsencode(self.root).decode()  # Arrow takes no other names
        except (ValueError, OSError, pa.ArrowInvalid) as error:
            raise InputError(f"--results {self.location!r}: {error}") from error

    @property
    def is_local(self) -> bool:
        """Whether files are on a disk that this process can lock."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def nearest_folder(self) -> Path:
        """The folder of a local store, or the one above in which it would be made."""
        nearest = Path(self.root)
        while not nearest.exists():
            nearest = nearest.parent
        return nearest

    def check_writable(self) -> None:
        """Raises InputError if nothing can be written or locked here. Leaves nothing behind."""
        try:
            if self.is_local:
                with tempfile.TemporaryFile(dir=self.nearest_folder()) as file:
                    check_locks(file, self.nearest_folder())
            else:
                # A typing error is no outage.
                impatient, _ = open_location(self.location, IMPATIENT)
                impatient.get_file_info(self.root)
        except WriteError as error:
            raise InputError(f"--results {self.location}: {error}") from error
        except OSError as error:
            reason = shorten(error.strerror or str(error), 200)
            raise InputError(
                f"--results {self.location} can't be written ({reason}); choose another place"
            ) from error

    def path(self, *parts: str) -> str:
        """A path inside the store, for its `filesystem`."""
        return "/".join((self.root, *parts))

    def write_rows(self, table: str, trial_id: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Replace a trial's file of a table (a key of `analysis.store.schema.TABLES`).

        NaN and infinity become null: no number of a table is one.
        """
        schema = TABLES[table]
        strange = {key for row in rows for key in row} - set(schema.names)
        assert not strange, f"columns {sorted(strange)} are not in the schema of {table}"
        data = pa.Table.from_pylist([_nullable(row) for row in rows], schema=schema)
        path = self.path(table, f"{trial_id}.parquet")
        write_atomic(self.filesystem, path, to_parquet(data))

    def read_rows(self, table: str, trial_id: str) -> list[dict[str, Any]]:
        """A trial's rows of a table, from its file or a merged one; none if it is in neither."""
        return read_trial(self.filesystem, self.path(table), trial_id)

    def trial(self, trial_id: str) -> TrialRow | None:
        """A trial's row; None if it never began."""
        rows = self.read_rows("trials", trial_id)
        return cast(TrialRow, rows[0]) if rows else None

    def epochs(self, trial_id: str) -> list[EpochRow]:
        """A trial's rows of `epochs`; none before it has ended."""
        return cast(list[EpochRow], self.read_rows("epochs", trial_id))

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Replace a file of any kind, whole."""
        write_atomic(self.filesystem, self.path(*parts), data)

    def read_bytes(self, *parts: str) -> bytes:
        """The content of a file."""
        with self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return stream.read()

    def names(self, *parts: str) -> list[str]:
        """Names in a folder, sorted, hidden ones left out; none if there is no such folder."""
        selector = fs.FileSelector(self.path(*parts), allow_not_found=True)
        found = (info.base_name for info in self.filesystem.get_file_info(selector))
        return sorted(name for name in found if not name.startswith("."))

    def remove_folder(self, *parts: str) -> None:
        """Remove a folder and what is in it, if it is there.

        What stays is at most hidden: NFS keeps a file that is open elsewhere as `.nfs…`.
        """
        path = self.path(*parts)
        if self.filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return
        try:
            self.filesystem.delete_dir(path)
        except OSError:
            if self.names(*parts):
                raise

    def remove_leftovers(self) -> None:
        """Remove parts of files and locks of killed processes."""
        if self.is_local:
            remove_parts(Path(self.root))
        else:
            remove_expired(self.filesystem, self.path(CHECKPOINTS))

    def lock(self, *parts: str, wait: bool) -> AbstractContextManager[Callable[[], None]]:
        """Hold the lock of that name: see `analysis.store.locks.lock`."""
        return lock(self.filesystem, self.path(*parts), wait=wait)


def to_parquet(data: pa.Table) -> bytes:
    """The file of a trial, to be read with thousands of its like.

    Without dictionaries and statistics, by which so few rows gain nothing, and by snappy, since
    zstd sets itself up anew for each of fifty columns: read in less than half the time.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(
        data,
        sink,
        compression="snappy",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()


def _nullable(row: Mapping[str, object]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
