"""Fig. 4: test features in two dimensions, by t-SNE and by PCA, CE beside BCE."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from analysis.figures.drawing import add_note, new_figure
from analysis.paper import published
from analysis.tables.names import AUGMENT_NAMES, loss_name, optimizer_name
from analysis.trials.cells import Block, in_order
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED

CELL_FIELDS = ("optimizer", "augment", "loss")
Array = NDArray[np.float64]
# Okabe and Ito's eight and two greys; beyond ten classes a colour map, where none is told apart.
_COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7",
    "#56B4E9", "#F0E442", "#000000", "#999999", "#5B3A8C",
)  # fmt: skip
_PERPLEXITY = 30.0  # scikit-learn's own; less where there are few samples
_PCA_FIRST = 50  # dimensions that t-SNE gets, as its authors advise
_LEAST_SAMPLES = 3
_ROUNDING = 8 * np.finfo(np.float32).eps  # of the largest feature; they are stored in float32
_USUAL_SIZE = (1e-6, 1e6)


class _Panel(NamedTuple):
    title: str
    features: Array  # (N, D)
    labels: NDArray[np.int64]  # (N,)


def features_figure(block: Block, results: Results) -> Figure | None:
    """Fig. 4 of one block of `cells.classification_trials`; None where no features are stored.

    Of each cell the first finished seed is drawn: maps of two trainings can't be averaged.
    """
    panels = list(_panels(block, results.features))
    if not panels:
        return None
    methods: Mapping[str, Callable[[Array], Array]] = {"t-SNE": tsne, "PCA": pca}
    width = max(5.0, 1.75 * len(panels) + 0.4)
    figure, axes = new_figure(len(methods), len(panels), width=width, row_height=1.8, sharey="none")
    for row, (name, project) in zip(axes, methods.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for ax, panel in zip(row, panels, strict=True):
            _draw(ax, panel, project)
    for ax, panel in zip(axes[0], panels, strict=True):
        ax.set_title(panel.title, fontsize=9)
    count = len(panels[0].labels)
    figure.suptitle(
        f"{block.dataset}, {block.label}\nfeatures of {count} test samples, a colour per class",
        fontsize=9,
    )
    return figure


def _panels(block: Block, features: pd.DataFrame) -> Iterator[_Panel]:
    optimizers = in_order(block.trials["optimizer"], published.OPTIMIZERS)
    augments = in_order(block.trials["augment"], published.AUGMENTS)
    losses = in_order(block.trials["loss"], published.LOSSES)
    for optimizer in optimizers:
        for augment in augments:
            for loss in losses:
                cell = block.cell(optimizer=optimizer, augment=augment, loss=loss)
                ids = cell.trials.loc[cell.trials["status"] == FINISHED, "trial_id"]
                rows = features[features["trial_id"] == ids.iloc[0]] if len(ids) else features[:0]
                if len(rows):
                    names = optimizer_name(optimizer), AUGMENT_NAMES.get(augment, augment)
                    title = f"{', '.join(names)}\n{loss_name(loss)}"
                    matrix = np.stack(rows["features"].to_list()).astype(np.float64)
                    yield _Panel(title, matrix, rows["label"].to_numpy(np.int64))


def shapeless(features_ND: Array) -> str | None:
    """Why features (N, D) have no shape in two dimensions; None if they have one."""
    count, dimensions = features_ND.shape
    if not np.isfinite(features_ND).all():
        return "features are not finite"
    if count < _LEAST_SAMPLES or dimensions < 2:
        return f"{count} samples of {dimensions} features:\ntoo few for a map"
    if np.ptp(features_ND, axis=0).max() <= _ROUNDING * np.abs(features_ND).max():
        return "all features alike"
    return None


def tsne(features_ND: Array) -> Array:
    """t-SNE of features (N, D) that aren't `shapeless`, seeded: (N, 2)."""
    count, dimensions = features_ND.shape
    features_ND = _of_usual_size(features_ND)
    if dimensions > _PCA_FIRST and count > _PCA_FIRST:
        features_ND = PCA(_PCA_FIRST, svd_solver="full").fit_transform(features_ND)
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    settings: dict[str, Any] = {"perplexity": perplexity, "init": "pca", "random_state": 0}
    with warnings.catch_warnings():  # collapsed features have no variance left in most directions
        warnings.simplefilter("ignore", RuntimeWarning)
        return TSNE(**settings).fit_transform(features_ND)


def _of_usual_size(features_ND: Array) -> Array:
    """The same but for a factor, which t-SNE doesn't depend on.

    scikit-learn divides its start by a deviation taken in float32: where the squares vanish it
    crashes, and where they overflow all points fall on one.
    """
    low, high = _USUAL_SIZE
    centred_ND = features_ND - features_ND.mean(axis=0)
    size = np.abs(centred_ND).max()
    return features_ND if low < size < high else centred_ND / size


def pca(features_ND: Array) -> Array:
    """Features (N, D) that aren't `shapeless` in their two directions of most variance: (N, 2)."""
    return PCA(2, svd_solver="full").fit_transform(features_ND)


def _draw(ax: Axes, panel: _Panel, project: Callable[[Array], Array]) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    reason = shapeless(panel.features)
    if reason:
        add_note(ax, reason)
        return
    points_N2, classes = project(panel.features), np.unique(panel.labels)
    index_N = np.searchsorted(classes, panel.labels)
    if len(classes) <= len(_COLORS):
        colors = np.array(_COLORS)[index_N]
    else:
        colors = colormaps["turbo"](index_N / (len(classes) - 1))
    ax.scatter(points_N2[:, 0], points_N2[:, 1], s=4, c=colors, linewidths=0, rasterized=True)
    ax.set_aspect("equal", adjustable="datalim")
