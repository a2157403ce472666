"""The paper's Tables 1, 2, 3, S-8 and S-9 from a results folder, published values beside ours.

    python -m analysis.tables --results results --table 2 --format latex
    python -m analysis.tables --by dataset model loss --metric accuracy_test nc1_train

Exit codes: 0 fine; 1 trials are missing, or a table that was asked for has none; 2 bad input.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.bias_table import QUANTITIES as BIAS_QUANTITIES
from analysis.bias_table import TITLES as BIAS_TITLES
from analysis.bias_table import bias_table, family_trials
from analysis.cells import (
    BEST,
    FINISHED,
    LAST,
    SELECTIONS,
    classification_trials,
    collapse_trials,
    left_out_trials,
    measured_trials,
    network_trials,
    theory_trials,
)
from analysis.command_line import Parser, run_main
from analysis.custom_table import DEFAULT_METRICS, custom_table
from analysis.files import write_text
from analysis.gaps import GapError, refuse_gaps
from analysis.generalization_table import QUANTITIES, TITLES, generalization_table
from analysis.load import Results, ResultsError, load_results
from analysis.render import EXTENSIONS, Table, render_tables
from analysis.score_table import QUANTITIES as SCORE_QUANTITIES
from analysis.score_table import TITLE, score_table
from analysis.trace import trace_table

NAMES = ("1", "2", "3", "s8", "s9")
_TITLES = {"1": TITLE, "2": TITLES[2], "3": TITLES[3], **BIAS_TITLES}
_STUDY = {
    "1": "neural_collapse",
    "2": "classification",
    "3": "classification",
    "s8": "bias_init",
    "s9": "bias_decay",
}
_QUANTITIES = (*SCORE_QUANTITIES, *QUANTITIES[2], *QUANTITIES[3], *BIAS_QUANTITIES)
# What the paper's tables take from the epochs; `accuracy_test` chooses the best epoch.
EPOCH_COLUMNS = frozenset(
    name for q in _QUANTITIES for name in (q.column, q.spread_column, "accuracy_test") if name
)
_BEST_NOTE = (
    "--select best: each trial at the epoch of its highest accuracy on the test set; chosen there, "
    "so too high for every loss"
)


def build_table(
    results: Results,
    name: int | str,
    *,
    compare: bool = True,
    allow_partial: bool = False,
    select: str = LAST,
) -> Table:
    """One of the paper's tables; without rows, and with a note, where no trial is of its kind.

    Args: `name` as in NAMES; `compare` sets the published values (or the theory's) beside ours;
        `allow_partial` prints a dash in a cell that lacks trials, instead of refusing; `select` as
        for `cells.measured_trials`.
    Raises: GapError listing the trials that are missing; ValueError for an unknown table.
    """
    return build_tables(
        results, [name], compare=compare, allow_partial=allow_partial, select=select
    )[0]


def build_tables(
    results: Results,
    names: Sequence[int | str] = NAMES,
    *,
    compare: bool = True,
    allow_partial: bool = False,
    select: str = LAST,
) -> list[Table]:
    """Several tables; a gap in any of them is a gap in all, so that none is printed half."""
    wanted = [str(name) for name in names]
    unknown = sorted(set(wanted) - set(NAMES))
    if unknown:
        raise ValueError(f"table={unknown} is unknown; the paper's tables are {list(NAMES)}")
    measured = measured_trials(results, select=select)
    selected = {name: _select(measured, name) for name in wanted}
    if not allow_partial and selected:
        _refuse_gaps(selected)
    left_out = left_out_trials(results)
    return [
        _build(results, trials, _select(left_out, name), name, compare=compare, select=select)
        for name, trials in selected.items()
    ]


def label(name: str) -> str:
    """A table's number as it is printed: `S-8` for `s8`."""
    return name.upper().replace("S", "S-")


def _refuse_gaps(selected: Mapping[str, pd.DataFrame]) -> None:
    gaps = {name: t for name, t in selected.items() if (t["status"] != FINISHED).any()}
    if gaps:
        trials = pd.concat(list(gaps.values())).drop_duplicates("trial_id")
        listed = ", ".join(map(label, gaps))
        refuse_gaps(trials, f"Table {listed}" if len(gaps) == 1 else f"Tables {listed}")


def _select(trials: pd.DataFrame, name: str) -> pd.DataFrame:
    if name == "1":
        return collapse_trials(trials)
    if name in BIAS_TITLES:
        return family_trials(network_trials(theory_trials(trials)), name)
    return classification_trials(trials)


def _build(
    results: Results,
    trials: pd.DataFrame,
    left_out: pd.DataFrame,
    name: str,
    *,
    compare: bool,
    select: str,
) -> Table:
    if trials.empty:
        return _empty(results, name)
    if name == "1":
        table = score_table(trials, compare=compare)
    elif name in BIAS_TITLES:
        table = bias_table(trials, name, compare=compare)
    else:
        table = generalization_table(trials, int(name), compare=compare)
    return _with_notes(table, left_out, select)


def _empty(results: Results, name: str) -> Table:
    command = f"python orchestrator/sweep.py --study {_STUDY[name]} --results {results.path}"
    note = f"Table {label(name)} has no trials in {results.path}; `{command}` runs them"
    return Table(f"table{name}", _TITLES[name], (), (), (note,), ())


def _with_notes(table: Table, lost: pd.DataFrame, select: str) -> Table:
    notes = [_BEST_NOTE] if select == BEST else []
    if not lost.empty:
        ids = ", ".join(sorted(lost["trial_id"]))
        notes += [f"{len(lost)} unfinished trials that are in no study are left out: {ids}"]
    return replace(table, notes=(*table.notes, *notes))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables, or write them with --out; returns the exit code."""
    args = _parse_args(argv)
    try:
        columns = EPOCH_COLUMNS | set(args.metric or DEFAULT_METRICS)
        results = load_results(args.results, tables=("trials", "epochs"), epoch_columns=columns)
        tables = _wanted(results, args)
        traces = [trace_table(results, table) for table in tables if table.rows and args.trace]
        _emit([*tables, *traces], args.format, args.out)
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


def _wanted(results: Results, args: argparse.Namespace) -> list[Table]:
    if not args.by:
        return build_tables(
            results,
            args.table or NAMES,
            compare=args.compare,
            allow_partial=args.allow_partial,
            select=args.select,
        )
    trials = measured_trials(results, select=args.select)
    if not args.allow_partial:
        refuse_gaps(trials, f"the table by {', '.join(args.by)}")
    table = custom_table(trials, args.by, args.metric or DEFAULT_METRICS)
    return [_with_notes(table, left_out_trials(results), args.select)]


def _emit(tables: Sequence[Table], fmt: str, out: Path | None) -> None:
    if out is None:
        print(render_tables(tables, fmt), end="")
        return
    for table in tables:
        path = out / f"{table.name}.{EXTENSIONS[fmt]}"
        write_text(path, render_tables([table], fmt))
        print(path)


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.tables", description="The paper's tables from your results."
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument(
        "--table", nargs="+", type=str.lower, choices=NAMES, help="which tables (default: all)"
    )
    parser.add_argument(
        "--by", nargs="+", metavar="FIELD", help="instead: a table over these fields of the trials"
    )
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        help=f"its columns, of the epochs table (default: {' '.join(DEFAULT_METRICS)})",
    )
    parser.add_argument(
        "--select",
        choices=SELECTIONS,
        default=LAST,
        help="which epoch of a trial counts; best is chosen on the test set (default: last)",
    )
    parser.add_argument(
        "--trace", action="store_true", help="also the trials, versions and files behind each cell"
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
    args = parser.parse_args(argv)
    if args.by and args.table:
        parser.error("--by and --table are two ways to choose a table; give one of them")
    for option, names in (("--by", args.by), ("--metric", args.metric)):
        if len(set(names or ())) < len(names or ()):
            parser.error(f"{option} {' '.join(names)} names a column twice; give each once")
    if args.metric and not args.by:
        parser.error("--metric goes with --by: the paper's tables have their own")
    return args


def entry() -> None:
    """The installed command `collapse-tables`."""
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
