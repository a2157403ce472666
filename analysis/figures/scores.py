"""Fig. 3: where scores and biases end, by initial bias and by bias decay, theory drawn in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.figures.drawing import FONT_SIZE, GREEN, ORANGE, PURPLE, add_legend, new_figure, tidy
from analysis.paper import published
from analysis.store.errors import ResultsError
from analysis.tables.names import loss_name, optimizer_name
from analysis.theory.minima import Minimum, theorem2_holds
from analysis.theory.setting import Setting, setting_of
from analysis.trials.bias_families import CELL_FIELDS, Family, axis_text, families
from analysis.trials.cells import Block, Cell, in_order
from analysis.trials.histograms import Histogram, pooled
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED

_KINDS = {"positive": GREEN, "negative": PURPLE, "bias": ORANGE}
_LABELS = {
    "positive": "positive scores",
    "negative": "negative scores",
    "bias": "biases: mean, range",
}
_HALF_WIDTH = 0.42  # of a violin, in units of the distance between two
_SPIKE = 0.02  # of the panel's height: a narrower distribution is drawn as a marker
_BINS = 60
_DASHED = (0, (2, 1))
_TAIL = 0.001  # at either end, beyond which a violin is cut


def score_figure(block: Block, results: Results) -> Figure | None:
    """Fig. 3 of one block of `cells.theory_trials`; None if nothing varies in it.

    Raises: ResultsError if a finished trial has no scores.
    """
    rows = families(block)
    scores = results.scores[results.scores["trial_id"].isin(block.trials["trial_id"])]
    if not rows:
        return None
    drawn = pd.concat([family.trials for family in rows]).drop_duplicates("trial_id")
    optimizers = in_order(drawn["optimizer"], published.OPTIMIZERS)
    losses = in_order(drawn["loss"], published.LOSSES)
    columns = [(optimizer, loss) for optimizer in optimizers for loss in losses]
    width = max(5.0, 1.75 * len(columns) + 0.4)
    figure, axes = new_figure(len(rows), len(columns), width=width, row_height=2.3, sharey="row")
    for axes_row, family in zip(axes, rows, strict=True):
        _draw_family(axes_row, replace(block, trials=family.trials), family, columns, scores)
    add_legend(figure, _handles())
    seeds = f"distributions pooled over {replace(block, trials=drawn).seeds_text(CELL_FIELDS)}"
    figure.suptitle(f"{block.dataset}, {block.label}\n{seeds}", fontsize=9)
    return figure


@dataclass(frozen=True, eq=False)
class _Slot:
    """What stands at one place of the x-axis."""

    position: int
    setting: Setting
    initial_bias: float
    histograms: dict[str, Histogram]


def _draw_family(
    axes: Sequence[Axes],
    block: Block,
    family: Family,
    columns: Sequence[tuple[str, str]],
    scores: pd.DataFrame,
) -> None:
    panels = [list(_slots(block, family, column, scores)) for column in columns]
    low, high = _limits([slot for panel in panels for slot in panel])
    for ax, (optimizer, loss), slots in zip(axes, columns, panels, strict=True):
        ax.set_title(f"{optimizer_name(optimizer)}, {loss_name(loss)}", fontsize=9)
        ax.set_xticks(range(len(family.places)), [axis_text(value) for value in family.places])
        if not family.varies_bias:
            ax.tick_params(axis="x", labelrotation=45)
        ax.set_xlim(-0.6, len(family.places) - 0.4)
        ax.set_ylim(low, high)
        for slot in slots:  # after the limits: what lies beyond them gets an arrow
            _draw_slot(ax, slot, height=high - low)
        ax.set_xlabel("initial bias (mean)" if family.varies_bias else r"$\lambda_b$")
        tidy(ax)
    fixed = r"$\lambda_b$ =" if family.varies_bias else "initial bias"
    axes[0].set_ylabel(f"{fixed} {axis_text(family.fixed)}\nscore, bias")


def _slots(
    block: Block, family: Family, column: tuple[str, str], scores: pd.DataFrame
) -> Iterator[_Slot]:
    optimizer, loss = column
    for position, value in enumerate(family.places):
        cell = block.cell(optimizer=optimizer, loss=loss, **{family.varying: value})
        if cell.finished:
            trial = cell.trials.iloc[0]
            histograms = _histograms(cell, scores)
            yield _Slot(position, setting_of(trial), float(trial["bias_init_mean"]), histograms)


def _histograms(cell: Cell, scores: pd.DataFrame) -> dict[str, Histogram]:
    """The distributions of each kind, pooled over the finished seeds."""
    ids = cell.trials.loc[cell.trials["status"] == FINISHED, "trial_id"]
    rows = scores[scores["trial_id"].isin(ids)]
    lost = sorted(set(ids) - set(rows["trial_id"]))
    if lost:
        raise ResultsError(
            f"trial {lost[0]} is finished but has no file in scores/; "
            f"delete trials/{lost[0]}.parquet (each trials/merged-*.parquet, if it was merged) and "
            "run the sweep again"
        )
    found = {kind: pooled(rows, kind) for kind in _KINDS}
    return {kind: histogram for kind, histogram in found.items() if histogram}


def _limits(slots: Sequence[_Slot]) -> tuple[float, float]:
    """Limits of the y-axis, the same for all panels of a row.

    Theorem 2's point doesn't count: for large lambda_b it lies so far out that all else would be
    squeezed flat.
    """
    if not slots:
        return 0.0, 1.0
    ends = [h.quantile(q) for s in slots for h in s.histograms.values() for q in (_TAIL, 1 - _TAIL)]
    for slot in slots:
        lowest = slot.setting.minimum()
        ends += [lowest.s_pos, lowest.s_neg, slot.initial_bias]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _draw_slot(ax: Axes, slot: _Slot, *, height: float) -> None:
    ax.plot(slot.position, slot.initial_bias, "x", color="0.35", markersize=4, zorder=3)
    for kind, histogram in slot.histograms.items():
        _draw_distribution(ax, slot.position, histogram, _KINDS[kind], height=height)
    _draw_point(ax, slot.position, slot.setting.minimum(), linestyle="-")
    other = _other_point(slot)
    if other:
        _draw_point(ax, slot.position, other, linestyle=_DASHED)
        _mark_outside(ax, slot.position, other)


def _draw_distribution(
    ax: Axes, position: int, histogram: Histogram, color: str, *, height: float
) -> None:
    low, high = histogram.quantile(_TAIL), histogram.quantile(1 - _TAIL)
    if high - low < _SPIKE * height:
        ax.plot(position, histogram.mean, "o", color=color, markersize=4.5, zorder=2)
        return
    if histogram.is_points:  # a few values, of which a smooth shape would say too much
        ax.vlines(position, low, high, color=color, linewidth=3, alpha=0.75)
        ax.plot(position, histogram.mean, "o", color=color, markersize=4.5, zorder=2)
        return
    middle_B, share_B = histogram.density(low, high, _BINS)
    half_B = _HALF_WIDTH * share_B / share_B.max()
    ax.fill_betweenx(
        middle_B, position - half_B, position + half_B, color=color, alpha=0.75, linewidth=0.4
    )


def _draw_point(ax: Axes, position: int, point: Minimum, *, linestyle: object) -> None:
    values = [v for v in (point.s_pos, point.s_neg, point.bias) if not np.isnan(v)]
    ends = (position - _HALF_WIDTH, position + _HALF_WIDTH)
    ax.hlines(values, *ends, color="black", linestyle=linestyle, linewidth=0.9, zorder=4)


def _mark_outside(ax: Axes, position: int, point: Minimum) -> None:
    """An arrow and the value at the panel's edge, for scores of Theorem 2 beyond it."""
    low, high = ax.get_ylim()
    for value in (point.s_pos, point.s_neg):
        if not low <= value <= high:
            edge, marker, below = (high, "^", "top") if value > high else (low, "v", "bottom")
            style = {"markerfacecolor": "none", "color": "black", "clip_on": False}
            ax.plot(position, edge, marker, markersize=4, zorder=4, **style)
            offset = (0, -4 if below == "top" else 4)
            text = {"fontsize": FONT_SIZE, "ha": "center", "va": below}
            ax.annotate(
                f"{value:.0f}", (position, edge), offset, textcoords="offset points", **text
            )


def _other_point(slot: _Slot) -> Minimum | None:
    """Theorem 2's point, where it isn't the minimum."""
    s = slot.setting
    point = s.theorem2_point()
    if not point or theorem2_holds(point.bias, s.n, s.lambda_w, s.lambda_h, s.lambda_b):
        return None
    return point


def _handles() -> list[Artist]:
    patches = [Patch(color=color, alpha=0.75, label=_LABELS[k]) for k, color in _KINDS.items()]
    lines = [
        Line2D([], [], color="0.35", marker="x", linestyle="", markersize=4, label="initial bias"),
        Line2D([], [], color="black", linewidth=0.9, label="minimum of Eq. (3)"),
        Line2D(
            [],
            [],
            color="black",
            linewidth=0.9,
            linestyle=_DASHED,
            label="Theorem 2, where it differs",
        ),
    ]
    return [*patches, *lines]
