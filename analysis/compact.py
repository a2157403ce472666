"""Merges the many small files of a results folder into few, for folders of thousands of trials.

    python -m analysis.compact --results results

Tables, figures, sweeps and `load_results` read both forms, also while it runs, and a sweep goes on
in a merged folder; until the one ends, the other waits. Trials that have not ended are left alone.
Killed at any moment it loses nothing, and the next run completes it.

`pandas.read_parquet("results/epochs")` and its like, which don't know how files belong together,
never read a row twice because of it; while it runs they may miss rows that are just being moved.
A merged trial that is trained again has rows in both forms, of which ours read the new ones alone;
for the others, run this again: it leaves the new ones.

Exit codes: 0 fine; 2 bad input, or a sweep is running.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from analysis.store.command_line import Parser, outlive_listeners, run_main
from analysis.store.errors import ResultsError, one_line
from analysis.store.files import PART_SUFFIX
from analysis.store.listing import Listing, list_table
from analysis.store.locks import SWEEP_LOCK, lock
from analysis.store.merging import MergePlan, OwnedTable, find_problems, merge, new_run, plan_merge
from analysis.store.reading import read_folder
from analysis.store.schema import TABLES, TRIALS
from analysis.trials.load import Store, open_results


def compact(store: Store) -> list[str]:
    """Merge each table's files; a line for each that says what became of them.

    Raises: ResultsError, a line for each broken file, before any is touched; BlockingIOError if a
        sweep is running; OSError.
    """
    with lock(store.filesystem, f"{store.root}/{SWEEP_LOCK}", wait=False) as check:
        _remove_parts(store)
        ended = _ended(store)
        run = new_run(list_table(store.filesystem, store.folder(name)) for name in TABLES)
        plans: list[tuple[str, OwnedTable, MergePlan]] = []
        for name, schema in TABLES.items():
            table = OwnedTable(store.filesystem, store.folder(name), schema, check, run)
            plans.append((name, table, plan_merge(table, ended)))
        problems = [line for _, table, plan in plans if plan for line in find_problems(table, plan)]
        if problems:
            raise ResultsError("\n".join(problems))
        return [_merge(name, table, plan) for name, table, plan in plans]


def _ended(store: Store) -> set[str]:
    schema = pa.schema([TRIALS.field("trial_id"), TRIALS.field("status")])
    rows = read_folder(store.filesystem, store.folder("trials"), schema).to_pylist()
    return {row["trial_id"] for row in rows if row["status"] not in (None, "running")}


def _merge(name: str, table: OwnedTable, plan: MergePlan) -> str:
    before = list_table(table.filesystem, table.folder)
    merge(table, plan if plan else MergePlan({}, [], {}))
    if not plan:
        return f"{name}: {_count(before)} files, nothing to merge"
    after = list_table(table.filesystem, table.folder)
    return (
        f"{name}: {_count(before)} files became {_count(after)}, "
        f"{_size(before)} bytes became {_size(after)}"
    )


def _count(listing: Listing) -> str:
    return f"{len(listing.small) + len(listing.merged):,}"


def _size(listing: Listing) -> str:
    small = sum(info.size or 0 for info in listing.small.values())
    return f"{small + sum(file.size for file in listing.merged):,}"


def _remove_parts(store: Store) -> None:
    """Remove what a run that was killed has half written."""
    if not isinstance(store.filesystem, fs.LocalFileSystem):
        return  # whose puts are whole
    for name in TABLES:
        for pattern in (f"{name}/.*merged-*{PART_SUFFIX}", f"compacted/.{name}.*{PART_SUFFIX}"):
            for part in Path(store.root).glob(pattern):
                with suppress(OSError):  # no reader takes it for anything
                    part.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Merge and say so; returns the exit code."""
    args = _parse_args(argv)
    try:
        lines = compact(open_results(args.results))
    except BlockingIOError:
        reason = f"a sweep is running into {args.results}, or another merge; wait for its end"
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: can't merge {args.results} ({one_line(error)})", file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.compact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-compact`."""
    outlive_listeners()
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
