"""The paper's figures, a record each, and how they are drawn from results."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import collapse, features, scores, thresholds
from analysis.figures.differences import delta_figure
from analysis.figures.drawing import SCREEN, style
from analysis.tables.catalogue import build_tables
from analysis.trials import bias_families
from analysis.trials.cells import (
    Block,
    blocks,
    classification_trials,
    collapse_trials,
    theory_trials,
)
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED, measured_trials

Named = tuple[str, Figure | None]  # the stem of a file, and what is in it, if anything is


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """One of the paper's figures, or one of ours."""

    name: str  # as on the command line, like `2` or `delta`
    shows: str
    studies: tuple[str, ...]  # that run its trials
    tables: tuple[str, ...]  # of the results, that it needs
    draw: Callable[[Results], Iterator[Named]]
    is_slow: bool = False  # seconds a network: not drawn at the end of a sweep


def _each_network(
    stem: str,
    select: Callable[[pd.DataFrame], pd.DataFrame],
    cell_fields: Sequence[str],
    draw: Callable[[Block, Results], Figure | None],
) -> Callable[[Results], Iterator[Named]]:
    """A figure for each dataset and network of the trials that `select` takes."""

    def drawn(results: Results) -> Iterator[Named]:
        for name, block in _named(select(measured_trials(results)), cell_fields):
            yield f"{stem}_{name}", draw(block, results)

    return drawn


def _differences(results: Results) -> Iterator[Named]:
    tables = build_tables(results, ("2", "3"), compare=False, allow_partial=True)
    yield "delta", delta_figure(tables)


FIGURES: Final = (
    PaperFigure(
        name="2",
        shows="neural collapse by epoch",
        studies=("neural_collapse",),
        tables=("trials", "epochs"),
        draw=_each_network("fig2", collapse_trials, collapse.CELL_FIELDS, collapse.collapse_figure),
    ),
    PaperFigure(
        name="3",
        shows="scores and biases by initial bias and by bias decay",
        studies=("bias_init", "bias_decay"),
        tables=("trials", "epochs", "scores"),
        draw=_each_network("fig3", theory_trials, bias_families.CELL_FIELDS, scores.score_figure),
    ),
    PaperFigure(
        name="4",
        shows="features of the test set in two dimensions",
        studies=("classification",),
        tables=("trials", "epochs", "features"),
        draw=_each_network(
            "fig4", classification_trials, features.CELL_FIELDS, features.features_figure
        ),
        is_slow=True,
    ),
    PaperFigure(
        name="threshold",
        shows="uniform accuracy by its threshold",
        studies=("classification",),
        tables=("trials", "epochs", "scores"),
        draw=_each_network(
            "threshold", classification_trials, thresholds.CELL_FIELDS, thresholds.threshold_figure
        ),
    ),
    PaperFigure(
        name="delta",
        shows="BCE − CE over the grid",
        studies=("classification",),
        tables=("trials", "epochs"),
        draw=_differences,
    ),
)
BY_NAME: Final = {figure.name: figure for figure in FIGURES}
NAMES: Final = tuple(BY_NAME)
QUICK: Final = tuple(figure.name for figure in FIGURES if not figure.is_slow)


def needed_tables(names: Sequence[str] = NAMES) -> tuple[str, ...]:
    """The tables of the results that these figures together need; `features` are large."""
    return tuple(dict.fromkeys(table for name in names for table in BY_NAME[name].tables))


def build_figures(
    results: Results, name: int | str, *, style_name: str = SCREEN
) -> Iterator[tuple[str, Figure]]:
    """Each dataset's and network's figure with its file's stem, like `fig2_cifar10_resnet18`.

    Args: `name` as in NAMES; results with the figure's `needed_tables`; one of `drawing.STYLES`.
    Only finished trials are drawn; titles say how many planned ones are not.
    Raises: ValueError for an unknown name; ResultsError if a trial's rows are missing.
    """
    if str(name) not in BY_NAME:
        raise ValueError(f"figure={name} is unknown; use one of {NAMES}")
    return _built(BY_NAME[str(name)].draw(results), style_name)


def _built(drawn: Iterator[Named], style_name: str) -> Iterator[tuple[str, Figure]]:
    while True:
        with style(style_name):  # not around the yield: it is global, and the caller's code its own
            found = next(drawn, None)
        if found is None:
            return
        stem, figure = found
        if figure is not None:
            yield stem, figure


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
