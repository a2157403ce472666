"""The paper's Figs. 2, 3 and 4, and two more, from a results folder.

One file per dataset and network: neural collapse by epoch (2), scores and biases (3), features in
two dimensions (4), uniform accuracy by threshold (threshold); and one heat map of BCE - CE (delta).

    python -m analysis.figures --results results --figure 3 --format pdf

Exit codes: 0 fine; 1 a figure that was asked for has no trials; 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.catalogue import BY_NAME, FIGURES, NAMES, build_figures, needed_tables
from analysis.figures.drawing import SCREEN, STYLES, save
from analysis.store.command_line import Parser, a_folder, run_main
from analysis.store.errors import ResultsError
from analysis.trials.load import Results, load_results

FORMATS = ("png", "svg", "pdf")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures and print their paths; returns the exit code."""
    args = _parse_args(argv)
    names = args.figure or NAMES
    try:
        out = args.out or _default_folder(args.results)
        results = load_results(args.results, tables=needed_tables(names))
        without = [
            name
            for name in names
            if not _write(results, name, out, fmt=args.format, style_name=args.style)
        ]
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in without:
        studies = " ".join(f"--study {study}" for study in BY_NAME[name].studies)
        command = f"python orchestrator/sweep.py {studies} --results {args.results}"
        print(f"Fig. {name} has no trials in {args.results}; run `{command}`", file=sys.stderr)
    return 1 if without and args.figure else 0


def _default_folder(results: str) -> Path:
    if "://" in results:
        raise ResultsError(f"results are at {results}; name a local folder for figures with --out")
    return Path(results) / "figures"


def _write(results: Results, name: str, out: Path, *, fmt: str, style_name: str) -> int:
    """Write all files of one figure; how many there are."""
    count = 0
    for stem, figure in build_figures(results, name, style_name=style_name):
        path = out / f"{stem}.{fmt}"
        save(figure, path, style_name=style_name)
        print(path)
        count += 1
    return count


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.figures", description="The paper's figures from your results."
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument(
        "--figure",
        nargs="+",
        choices=NAMES,
        help="which figures (default: all): "
        + "; ".join(f"{figure.name}, {figure.shows}" for figure in FIGURES),
    )
    parser.add_argument(
        "--style",
        choices=STYLES,
        default=SCREEN,
        help="paper: serif letters and no titles, which a caption replaces",
    )
    parser.add_argument("--format", choices=FORMATS, default="png")
    parser.add_argument(
        "--out", type=a_folder, help="folder to write to (default: `figures` in local results)"
    )
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-figures`."""
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
