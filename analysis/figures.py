"""The paper's Figs. 2 and 3 from a results folder, one file per dataset and network.

    python -m analysis.figures --results results --figure 3 --format pdf

Exit codes: 0 fine; 1 a figure that was asked for has no trials; 2 bad input.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import collapse_figure, score_figure
from analysis.cells import FINISHED, Block, blocks, collapse_trials, measured_trials, theory_trials
from analysis.command_line import Parser
from analysis.drawing import save
from analysis.load import Results, ResultsError, load_results

NUMBERS = (2, 3)
FORMATS = ("png", "svg", "pdf")
_HINT = {2: "--study neural_collapse", 3: "--study bias_init --study bias_decay"}


def build_figures(results: Results, number: int) -> Iterator[tuple[str, Figure]]:
    """Each dataset's and network's figure with its name, like `fig2_cifar10_resnet18`.

    Only finished trials are drawn; Fig. 2 says in its title how many planned ones are not.
    Raises: ValueError for an unknown number; ResultsError if a trial's rows are missing.
    """
    if number not in NUMBERS:
        raise ValueError(f"figure={number} is unknown; use one of {NUMBERS}")
    trials = measured_trials(results)
    if number == 2:
        for name, block in _named(collapse_trials(trials), collapse_figure.CELL_FIELDS):
            yield f"fig2_{name}", collapse_figure.collapse_figure(block, results.epochs)
        return
    for name, block in _named(theory_trials(trials), score_figure.CELL_FIELDS):
        figure = score_figure.score_figure(block, results.scores)
        if figure:
            yield f"fig3_{name}", figure


def _named(trials: pd.DataFrame, cell_fields: Sequence[str]) -> Iterator[tuple[str, Block]]:
    """Blocks with a finished trial, each with a file name as short as keeps it its own."""
    parts = [b for b in blocks(trials, cell_fields) if (b.trials["status"] == FINISHED).any()]
    networks = {(block.dataset, block.model): set[str]() for block in parts}
    for block in parts:
        networks[block.dataset, block.model].add(block.network)
    for block in parts:
        alone = len(networks[block.dataset, block.model]) == 1
        pieces = (block.dataset, block.model if alone else block.network, block.variant)
        yield "_".join(_slug(piece) for piece in pieces if piece), block


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures and print their paths; returns the exit code."""
    args = _parse_args(argv)
    numbers = args.figure or NUMBERS
    try:
        out = args.out or _default_folder(args.results)
        results = load_results(args.results)
        without = [n for n in numbers if not _write(results, n, out, args.format)]
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for number in without:
        command = f"python orchestrator/sweep.py {_HINT[number]} --results {args.results}"
        print(f"Fig. {number} has no trials in {args.results}; run `{command}`", file=sys.stderr)
    return 1 if without and args.figure else 0


def _default_folder(results: str) -> Path:
    if "://" in results:
        raise ResultsError(f"results are at {results}; name a local folder for figures with --out")
    return Path(results) / "figures"


def _write(results: Results, number: int, out: Path, fmt: str) -> int:
    """Write all files of one figure; how many there are."""
    count = 0
    for name, figure in build_figures(results, number):
        path = out / f"{name}.{fmt}"
        save(figure, path)
        print(path)
        count += 1
    return count


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.figures", description="The paper's figures from your results."
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument(
        "--figure", nargs="+", type=int, choices=NUMBERS, help="which figures (default: all)"
    )
    parser.add_argument("--format", choices=FORMATS, default="png")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: `figures` in local results)"
    )
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-figures`."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
