"""Uniform accuracy as a function of its threshold, CE against BCE.

The highest point is the paper's uniform accuracy; how wide the hill is tells how carefully a
threshold must be chosen.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures.drawing import LOSS_STYLE, add_legend, new_figure, tidy
from analysis.paper import published
from analysis.tables.names import AUGMENT_NAMES, loss_name, optimizer_name
from analysis.trials.cells import Block, Cell, in_order
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED

CELL_FIELDS = ("optimizer", "augment", "loss")
Array = NDArray[np.float64]
KIND = "uniform"  # of the scores table
_LEAST = 0.001  # of the samples: below, the axis would be empty


def threshold_figure(block: Block, results: Results) -> Figure | None:
    """One panel for each optimizer and augmentation of `cells.classification_trials`.

    None where no finished trial has the curve: older versions did not store it.
    """
    scores = results.scores
    scores = scores[(scores["kind"] == KIND) & scores["trial_id"].isin(block.trials["trial_id"])]
    if scores.empty:
        return None
    optimizers = in_order(block.trials["optimizer"], published.OPTIMIZERS)
    augments = in_order(block.trials["augment"], published.AUGMENTS)
    losses = in_order(block.trials["loss"], published.LOSSES)
    columns = [(optimizer, augment) for optimizer in optimizers for augment in augments]
    width = max(5.0, 2.2 * len(columns) + 0.4)
    figure, axes = new_figure(1, len(columns), width=width, row_height=2.2, sharey="row")
    for ax, (optimizer, augment) in zip(axes[0], columns, strict=True):
        for loss in losses:
            cell = block.cell(optimizer=optimizer, augment=augment, loss=loss)
            for threshold_T, share_T in curves(cell, scores):
                _draw(ax, threshold_T, share_T, loss)
        augment_name = AUGMENT_NAMES.get(augment, augment)
        ax.set_title(f"{optimizer_name(optimizer)}, {augment_name}", fontsize=9)
        ax.set_xlabel("threshold t on the logits")
        tidy(ax)
    axes[0][0].set_ylabel("test samples that t separates, %")
    add_legend(figure, [_handle(loss) for loss in losses])
    figure.suptitle(
        f"{block.dataset}, {block.label}\neach seed a curve, {block.seeds_text(CELL_FIELDS)}",
        fontsize=9,
    )
    return figure


def curves(cell: Cell, scores: pd.DataFrame) -> list[tuple[Array, Array]]:
    """For each finished trial of a cell: thresholds, and the share of the test samples, (T,)."""
    found = []
    for _, trial in cell.trials[cell.trials["status"] == FINISHED].iterrows():
        rows = scores[scores["trial_id"] == trial["trial_id"]].sort_values("bin_left")
        if len(rows):
            share = rows["count"].to_numpy(np.float64) / float(trial["num_test"])
            found.append((rows["bin_left"].to_numpy(np.float64), share))
    return found


def _draw(ax: Axes, threshold_T: Array, share_T: Array, loss: str) -> None:
    color, _ = LOSS_STYLE.get(loss, LOSS_STYLE[""])
    visible_T = share_T >= _LEAST
    if not visible_T.any():
        return
    ax.plot(threshold_T[visible_T], 100 * share_T[visible_T], color=color, linewidth=1.1)
    best = share_T.argmax()
    ax.plot(threshold_T[best], 100 * share_T[best], "o", color=color, markersize=3.5)


def _handle(loss: str) -> Line2D:
    color, _ = LOSS_STYLE.get(loss, LOSS_STYLE[""])
    label = f"{loss_name(loss)}, dot: its best threshold"
    return Line2D([], [], color=color, marker="o", markersize=3.5, label=label)
