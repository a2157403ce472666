"""The paper's Tables 1, 2, 3, S-8 and S-9 from a results folder, published values beside ours.

    python -m analysis.tables --results results --table 2 --format latex
    python -m analysis.tables --by dataset model loss --metric accuracy_test nc1_train

Exit codes: 0 fine; 1 trials are missing, or a table that was asked for has none; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.store.command_line import Parser, a_folder, run_main
from analysis.store.errors import GapError, InputError
from analysis.store.files import write_text
from analysis.tables.by_axes import DEFAULT_METRICS, custom_table
from analysis.tables.catalogue import EPOCH_COLUMNS, NAMES, build_tables, with_notes
from analysis.tables.render import EXTENSIONS, Table, render_tables
from analysis.tables.trace import trace_table
from analysis.trials.gaps import refuse_gaps
from analysis.trials.load import Results, load_results
from analysis.trials.measured import LAST, SELECTIONS, left_out_trials, measured_trials


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
    except (InputError, OSError) as error:
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
    return [with_notes(table, trials, left_out_trials(results), args.select)]


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
    parser.add_argument("--out", type=a_folder, help="folder to write to (default: print)")
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
