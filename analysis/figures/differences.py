"""A heat map of BCE - CE over the grid: a panel per metric, a field per cell of Tables 2 and 3."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.drawing import FONT_SIZE, new_figure
from analysis.paper import published
from analysis.tables.entries import DASH, OURS
from analysis.tables.names import AUGMENT_NAMES, optimizer_name
from analysis.tables.render import Record, Table
from analysis.trials.cells import in_order

_METRICS = {  # of Tables 2 and 3: title, factor, decimals
    "accuracy": (r"$\mathcal{A}$, percentage points", 100, 1),
    "uniform_accuracy": (r"$\mathcal{A}_\mathrm{Uni}$, percentage points", 100, 1),
    "compactness": (r"$\mathcal{E}_\mathrm{com}$", 1, 2),
    "distinctiveness": (r"$\mathcal{E}_\mathrm{dis}$", 1, 2),
}
_LEVEL = 0.05  # of the corrected p, from which on a field is printed bold


class _Place(NamedTuple):
    row: str
    column: tuple[str, str]


def delta_figure(tables: Iterable[Table]) -> Figure | None:
    """The differences in Tables 2 and 3 as colours; None where there are none."""
    found: dict[str, dict[_Place, Record]] = {name: {} for name in _METRICS}
    for record in (record for table in tables for record in table.records):
        if record.get("loss") == "delta" and record["source"] == OURS and "mean" in record:
            place = _Place(
                f"{record['dataset']} {record['model']}",
                (str(record["optimizer"]), str(record["augment"])),
            )
            found[str(record["metric"])][place] = record
    places = [place for fields in found.values() for place in fields]
    if not places:
        return None
    rows = list(dict.fromkeys(place.row for place in places))
    columns = _columns([place.column for place in places])
    height = max(1.1, 0.32 * len(rows) + 0.6)
    width = 2.0 + 1.1 * max(2, len(columns)) * 2
    figure, axes = new_figure(2, 2, width=width, row_height=height, sharey="row")
    for ax, (metric, (title, factor, decimals)) in zip(axes.flat, _METRICS.items(), strict=True):
        _draw(ax, found[metric], rows, columns, factor, decimals)
        ax.set_title(title, fontsize=9)
    figure.suptitle(
        "BCE − CE on the test set; bold: corrected p < 0.05\norange: BCE is higher, purple: CE is",
        fontsize=9,
    )
    return figure


def _columns(found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    optimizers = in_order([optimizer for optimizer, _ in found], published.OPTIMIZERS)
    augments = in_order([augment for _, augment in found], published.AUGMENTS)
    wanted = [(optimizer, augment) for optimizer in optimizers for augment in augments]
    return [column for column in wanted if column in set(found)]


def _draw(
    ax: Axes,
    fields: dict[_Place, Record],
    rows: Sequence[str],
    columns: Sequence[tuple[str, str]],
    factor: float,
    decimals: int,
) -> None:
    value_RC = np.full((len(rows), len(columns)), math.nan)
    for place, record in fields.items():
        mean: Any = record["mean"]
        value_RC[rows.index(place.row), columns.index(place.column)] = factor * mean
    largest = np.nanmax(np.abs(value_RC)) if np.isfinite(value_RC).any() else 1.0
    # Purple and orange: told apart by colour-blind readers, and white is exactly zero.
    ax.imshow(value_RC, cmap="PuOr_r", vmin=-largest or -1, vmax=largest or 1, aspect="auto")
    for place, record in fields.items():
        row, column = rows.index(place.row), columns.index(place.column)
        value = value_RC[row, column]
        p: Any = record.get("p_holm", math.nan)
        weight = "bold" if p < _LEVEL else "normal"
        color = "white" if abs(value) > 0.6 * largest else "black"
        text = DASH if math.isnan(value) else f"{value:+.{decimals}f}"
        ax.text(
            column, row, text, ha="center", va="center", fontsize=FONT_SIZE, color=color,
            weight=weight,
        )  # fmt: skip
    names = [f"{optimizer_name(o)}\n{AUGMENT_NAMES.get(a, a)}" for o, a in columns]
    ax.set_xticks(range(len(columns)), names, fontsize=FONT_SIZE)
    ax.set_yticks(range(len(rows)), rows, fontsize=FONT_SIZE)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
