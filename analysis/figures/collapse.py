"""Fig. 2: neural collapse metrics by epoch, CE against BCE, a row of panels per optimizer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from analysis.figures.drawing import LOSS_STYLE, add_legend, new_figure, tidy
from analysis.paper import published
from analysis.tables.names import loss_name, optimizer_name
from analysis.theory.setting import setting_of
from analysis.trials.cells import Block, Cell, in_order, theory_trials
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED

CELL_FIELDS = ("optimizer", "loss")
_PANELS = {f"nc{i}_train": rf"$\mathcal{{NC}}_{i}$" for i in (1, 2, 3)}
_CENTERED = "nc2_centered_train"  # goes to zero with BCE where the paper's NC2 needn't
_MARKERS = 12  # on each curve


def collapse_figure(block: Block, results: Results) -> Figure:
    """NC1 to NC3 of one block of `cells.collapse_trials` over its epochs."""
    epochs = results.epochs
    epochs = epochs[epochs["trial_id"].isin(block.trials["trial_id"])]
    optimizers = in_order(block.trials["optimizer"], published.OPTIMIZERS)
    losses = in_order(block.trials["loss"], published.LOSSES)
    figure, axes = new_figure(
        len(optimizers), len(_PANELS), width=7.0, row_height=2.1, sharey="none"
    )
    for row, optimizer in zip(axes, optimizers, strict=True):
        for ax, (metric, name) in zip(row, _PANELS.items(), strict=True):
            for loss in losses:
                _draw_loss(ax, block.cell(optimizer=optimizer, loss=loss), epochs, metric, loss)
            _finish_panel(ax, f"{optimizer_name(optimizer)}: {name}")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    add_legend(figure, [*map(_loss_handle, losses), *_extra_handles(losses)])
    seeds = f"mean over {block.seeds_text(CELL_FIELDS)}, band from least to greatest"
    figure.suptitle(f"{block.dataset}, {block.label}\n{seeds}", fontsize=9)
    return figure


def _draw_loss(ax: Axes, cell: Cell, epochs: pd.DataFrame, metric: str, loss: str) -> None:
    if not cell.finished:
        return
    color, marker = LOSS_STYLE.get(loss, LOSS_STYLE[""])
    curves = _curves(cell, epochs, metric)
    _draw_band(ax, curves, color, marker=marker, dashed=False)
    if metric == "nc2_train" and loss == "bce":
        _draw_band(ax, _curves(cell, epochs, _CENTERED), color, marker="", dashed=True)
        _draw_limit(ax, cell, color)


def _curves(cell: Cell, epochs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Epochs that every finished seed has measured, as rows; a column per seed."""
    ids = cell.trials.loc[cell.trials["status"] == FINISHED, "trial_id"]
    rows = epochs[epochs["trial_id"].isin(ids)]
    values = rows.pivot_table(index="epoch", columns="trial_id", values=metric)
    drawable = (values > 0) & np.isfinite(values)  # a log axis has no place for zero
    return values.where(drawable).dropna()


def _draw_band(ax: Axes, curves: pd.DataFrame, color: str, *, marker: str, dashed: bool) -> None:
    if curves.empty:
        return
    epoch_E: NDArray[np.float64] = curves.index.to_numpy(np.float64)
    ax.plot(
        epoch_E,
        curves.mean(axis=1).to_numpy(),
        color=color,
        linestyle="--" if dashed else "-",
        linewidth=1.0 if dashed else 1.4,
        marker=marker,
        markersize=3.5,
        markevery=max(1, len(epoch_E) // _MARKERS),
    )
    if curves.shape[1] > 1:
        low, high = curves.min(axis=1).to_numpy(), curves.max(axis=1).to_numpy()
        ax.fill_between(epoch_E, low, high, color=color, alpha=0.2, linewidth=0)


def _draw_limit(ax: Axes, cell: Cell, color: str) -> None:
    """NC2 at the minimum of Eq. (3), which is not zero where W and the features share a mean."""
    if theory_trials(cell.trials).empty:
        return
    nc2 = setting_of(cell.trials.iloc[0]).minimum().nc2
    if nc2 > 0:
        ax.axhline(nc2, color=color, linestyle=":", linewidth=1.2)


def _finish_panel(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9)
    tidy(ax)
    if ax.has_data():
        ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _loss_handle(loss: str) -> Line2D:
    color, marker = LOSS_STYLE.get(loss, LOSS_STYLE[""])
    return Line2D([], [], color=color, marker=marker, markersize=4, label=loss_name(loss))


def _extra_handles(losses: Sequence[str]) -> list[Line2D]:
    if "bce" not in losses:
        return []
    color, _ = LOSS_STYLE["bce"]
    dashed = Line2D(
        [],
        [],
        color=color,
        linestyle="--",
        linewidth=1,
        label=r"BCE, $\mathcal{NC}_2$ of centred $W$",
    )
    dotted = Line2D(
        [], [], color=color, linestyle=":", label=r"BCE, $\mathcal{NC}_2$ at the minimum of Eq. (3)"
    )
    return [dashed, dotted]
