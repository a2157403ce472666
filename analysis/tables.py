"""The paper's Tables 1, 2 and 3 from a results folder, published values beside ours.

    python -m analysis.tables --results results --table 2 --format latex

Exit codes: 0 fine; 1 trials are missing, or a table that was asked for has none; 2 bad input.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.cells import (
    classification_trials,
    collapse_trials,
    left_out_trials,
    measured_trials,
)
from analysis.command_line import Parser
from analysis.gaps import GapError, refuse_gaps
from analysis.generalization_table import TITLES, generalization_table
from analysis.load import Results, ResultsError, load_results
from analysis.render import EXTENSIONS, Table, render_tables
from analysis.score_table import TITLE, score_table

NUMBERS = (1, 2, 3)
_SELECT: Mapping[int, Callable[[pd.DataFrame], pd.DataFrame]] = {
    1: collapse_trials,
    2: classification_trials,
    3: classification_trials,
}
_STUDY = {1: "neural_collapse", 2: "classification", 3: "classification"}


def build_table(
    results: Results, number: int, *, compare: bool = True, allow_partial: bool = False
) -> Table:
    """One of the paper's tables; without rows, and with a note, where no trial is of its kind.

    Args: `compare` sets the published values beside ours; `allow_partial` prints a dash in a cell
        that lacks trials, instead of refusing.
    Raises: GapError listing the trials that are missing; ValueError for an unknown number.
    """
    return build_tables(results, [number], compare=compare, allow_partial=allow_partial)[0]


def build_tables(
    results: Results, numbers: Sequence[int], *, compare: bool = True, allow_partial: bool = False
) -> list[Table]:
    """Several tables; a gap in any of them is a gap in all, so that none is printed half."""
    unknown = sorted(set(numbers) - set(NUMBERS))
    if unknown:
        raise ValueError(f"table={unknown} is unknown; the paper's tables are {list(NUMBERS)}")
    measured = measured_trials(results)
    selected = {number: _SELECT[number](measured) for number in numbers}
    if not allow_partial and selected:
        wanted = pd.concat(list(selected.values())).drop_duplicates("trial_id")
        names = ", ".join(map(str, selected))
        refuse_gaps(wanted, f"Table {names}" if len(selected) == 1 else f"Tables {names}")
    return [_build(results, selected[number], number, compare=compare) for number in numbers]


def render(
    results: Results,
    numbers: Sequence[int] = NUMBERS,
    fmt: str = "markdown",
    *,
    compare: bool = True,
    allow_partial: bool = False,
) -> str:
    """Some tables as one text; `fmt` is markdown, latex, csv or json. Raises: as `build_table`."""
    tables = build_tables(results, numbers, compare=compare, allow_partial=allow_partial)
    return render_tables(tables, fmt)


def _build(results: Results, trials: pd.DataFrame, number: int, *, compare: bool) -> Table:
    if trials.empty:
        return _empty(results, number)
    if number == 1:
        table = score_table(trials, compare=compare)
    else:
        table = generalization_table(trials, number, compare=compare)
    return _with_left_out(table, _SELECT[number](left_out_trials(results)))


def _empty(results: Results, number: int) -> Table:
    title = TITLE if number == 1 else TITLES[number]
    command = f"python orchestrator/sweep.py --study {_STUDY[number]} --results {results.path}"
    note = f"Table {number} has no trials in {results.path}; `{command}` runs them"
    return Table(f"table{number}", title, (), (), (note,), ())


def _with_left_out(table: Table, lost: pd.DataFrame) -> Table:
    if lost.empty:
        return table
    ids = ", ".join(sorted(lost["trial_id"]))
    note = f"{len(lost)} unfinished trials that are in no study are left out: {ids}"
    return replace(table, notes=(*table.notes, note))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write them with --out; returns the exit code."""
    args = _parse_args(argv)
    try:
        results = load_results(args.results, tables=("trials", "epochs"))
        tables = build_tables(
            results,
            args.table or NUMBERS,
            compare=args.compare,
            allow_partial=args.allow_partial,
        )
        _emit(tables, args.format, args.out)
    except GapError as error:
        print(error, file=sys.stderr)
        return 1
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    empty = [table for table in tables if not table.rows] if args.table else []
    for table in empty:
        print(table.notes[0], file=sys.stderr)
    return 1 if empty else 0


def _emit(tables: Sequence[Table], fmt: str, out: Path | None) -> None:
    if out is None:
        print(render_tables(tables, fmt), end="")
        return
    out.mkdir(parents=True, exist_ok=True)
    for table in tables:
        path = out / f"{table.name}.{EXTENSIONS[fmt]}"
        path.write_text(render_tables([table], fmt), encoding="utf-8")
        print(path)


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.tables", description="The paper's tables from your results."
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument(
        "--table", nargs="+", type=int, choices=NUMBERS, help="which tables (default: all)"
    )
    parser.add_argument("--format", choices=sorted(EXTENSIONS), default="markdown")
    parser.add_argument("--out", type=Path, help="folder to write to (default: print)")
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="set the published values beside ours (default: on)",
    )
    parser.add_argument(
        "--allow-partial", action="store_true", help="print a dash where trials are missing"
    )
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-tables`."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
