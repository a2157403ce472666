"""Everything that a results folder tells, in one HTML file that works offline.

    python -m analysis.report --results results

Verdicts first, then tables, figures, coverage of the grid, failures and provenance. Exit codes: 0
fine; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.catalogue import needed_tables
from analysis.report.document import build_report
from analysis.store.command_line import Parser, run_main
from analysis.store.errors import ResultsError
from analysis.store.files import write_text
from analysis.trials.load import load_results


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report and print its path; returns the exit code."""
    args = _parse_args(argv)
    try:
        out = args.out or _default_path(args.results)
        out = out / "report.html" if out.is_dir() else out
        results = load_results(args.results, tables=needed_tables())
        write_text(out, build_report(results))
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def _default_path(results: str) -> Path:
    if "://" in results:
        raise ResultsError(f"results are at {results}; name a local file for the report with --out")
    return Path(results) / "report.html"


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m analysis.report", description="One HTML file with everything.")
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument(
        "--out", type=Path, help="file, or folder of it (default: report.html in local results)"
    )
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-report`."""
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
