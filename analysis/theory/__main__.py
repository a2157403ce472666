"""The predicted minimum of Eq. (3) beside what the trials reached.

    python -m analysis.theory --results results
    python -m analysis.theory --published

Exit codes: 0 fine; 1 no finished trial that theory is about; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.store.command_line import Parser, a_folder, run_main
from analysis.store.errors import ResultsError
from analysis.store.files import write_text
from analysis.tables.render import EXTENSIONS, Table, render_tables
from analysis.tables.theory import build_theory_table
from analysis.tables.theory_published import published_theory
from analysis.trials.load import load_results

_FORMATS = sorted(EXTENSIONS)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the comparison, or write it with --out; returns the exit code."""
    args = _parse_args(argv)
    try:
        if args.published:
            _emit(published_theory(), args.format, args.out)
            return 0
        table = build_theory_table(load_results(args.results, tables=("trials", "epochs")))
        if not table.rows:
            print(_empty_message(args.results), file=sys.stderr)
            return 1
        _emit(table, args.format, args.out)
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _empty_message(path: str) -> str:
    return (
        f"{path} has no finished CE or BCE trial with regularizer=features; "
        f"`python orchestrator/sweep.py --study neural_collapse --results {path}` runs them"
    )


def _emit(table: Table, fmt: str, out: Path | None) -> None:
    text = render_tables([table], fmt)
    if out is None:
        print(text, end="")
        return
    path = out / f"{table.name}.{EXTENSIONS[fmt]}"
    write_text(path, text)
    print(path)


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.theory",
        description="The minimum of Eq. (3) and Theorem 2's point beside measured values.",
    )
    parser.add_argument("--results", help="folder or URI (default: results)")
    parser.add_argument(
        "--published", action="store_true", help="instead: the paper's Table 1 beside the theory"
    )
    parser.add_argument("--format", choices=_FORMATS, default="markdown")
    parser.add_argument("--out", type=a_folder, help="folder to write to (default: print)")
    args = parser.parse_args(argv)
    if args.published and args.results is not None:
        parser.error("--published is of the paper's values alone; leave out --results")
    args.results = "results" if args.results is None else args.results
    return args


def entry() -> None:
    """The installed command `collapse-theory`."""
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
