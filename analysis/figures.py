"""The paper's Figs. 2, 3 and 4, and two more, from a results folder.

One file per dataset and network: neural collapse by epoch (2), scores and biases (3), features in
two dimensions (4), uniform accuracy by threshold (threshold); and one heat map of BCE - CE (delta).

    python -m analysis.figures --results results --figure 3 --format pdf

Exit codes: 0 fine; 1 a figure that was asked for has no trials; 2 bad input.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import collapse_figure, features_figure, score_figure, threshold_figure
from analysis.cells import (
    FINISHED,
    Block,
    blocks,
    classification_trials,
    collapse_trials,
    measured_trials,
    theory_trials,
)
from analysis.command_line import Parser, run_main
from analysis.delta_figure import delta_figure
from analysis.drawing import STYLES, save, style
from analysis.families import CELL_FIELDS
from analysis.load import Results, ResultsError, load_results
from analysis.tables import build_tables

NAMES = ("2", "3", "4", "threshold", "delta")
QUICK = ("2", "3", "threshold", "delta")  # t-SNE takes seconds a network
FORMATS = ("png", "svg", "pdf")
_HINT = {
    "2": "--study neural_collapse",
    "3": "--study bias_init --study bias_decay",
    **dict.fromkeys(("4", "threshold", "delta"), "--study classification"),
}
TABLES = ("trials", "epochs", "scores", "features")  # that all figures together need


def build_figures(results: Results, name: int | str) -> Iterator[tuple[str, Figure]]:
    """Each dataset's and network's figure with its file's stem, like `fig2_cifar10_resnet18`.

    Args: `name` as in NAMES; results with the tables in TABLES.
    Only finished trials are drawn; titles say how many planned ones are not.
    Raises: ValueError for an unknown name; ResultsError if a trial's rows are missing.
    """
    name = str(name)
    if name not in NAMES:
        raise ValueError(f"figure={name} is unknown; use one of {NAMES}")
    if name == "delta":
        tables = build_tables(results, ("2", "3"), compare=False, allow_partial=True)
        return _drawn((("delta", delta_figure(tables)),))
    trials = measured_trials(results)
    if name == "2":
        parts = _named(collapse_trials(trials), collapse_figure.CELL_FIELDS)
        return ((f"fig2_{n}", collapse_figure.collapse_figure(b, results.epochs)) for n, b in parts)
    if name == "3":
        parts = _named(theory_trials(trials), CELL_FIELDS)
        return _drawn((f"fig3_{n}", score_figure.score_figure(b, results.scores)) for n, b in parts)
    parts = _named(classification_trials(trials), features_figure.CELL_FIELDS)
    if name == "4":
        draw, data = features_figure.features_figure, results.features
        return _drawn((f"fig4_{n}", draw(b, data)) for n, b in parts)
    draw, data = threshold_figure.threshold_figure, results.scores
    return _drawn((f"threshold_{n}", draw(b, data)) for n, b in parts)


def _drawn(figures: Iterable[tuple[str, Figure | None]]) -> Iterator[tuple[str, Figure]]:
    return ((name, figure) for name, figure in figures if figure)


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
    names = args.figure or NAMES
    tables = TABLES if "4" in names else TABLES[:3]  # features are large
    try:
        out = args.out or _default_folder(args.results)
        results = load_results(args.results, tables=tables)
        with style(args.style):
            without = [name for name in names if not _write(results, name, out, args.format)]
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name in without:
        command = f"python orchestrator/sweep.py {_HINT[name]} --results {args.results}"
        print(f"Fig. {name} has no trials in {args.results}; run `{command}`", file=sys.stderr)
    return 1 if without and args.figure else 0


def _default_folder(results: str) -> Path:
    if "://" in results:
        raise ResultsError(f"results are at {results}; name a local folder for figures with --out")
    return Path(results) / "figures"


def _write(results: Results, name: str, out: Path, fmt: str) -> int:
    """Write all files of one figure; how many there are."""
    count = 0
    for stem, figure in build_figures(results, name):
        path = out / f"{stem}.{fmt}"
        save(figure, path)
        print(path)
        count += 1
    return count


def _parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m analysis.figures", description="The paper's figures from your results."
    )
    parser.add_argument("--results", default="results", help="folder or URI (default: results)")
    parser.add_argument("--figure", nargs="+", choices=NAMES, help="which figures (default: all)")
    parser.add_argument(
        "--style",
        choices=STYLES,
        default="screen",
        help="paper: serif letters and no titles, which a caption replaces",
    )
    parser.add_argument("--format", choices=FORMATS, default="png")
    parser.add_argument(
        "--out", type=Path, help="folder to write to (default: `figures` in local results)"
    )
    return parser.parse_args(argv)


def entry() -> None:
    """The installed command `collapse-figures`."""
    sys.exit(run_main(main))


if __name__ == "__main__":
    entry()
