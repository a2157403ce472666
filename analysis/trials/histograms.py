"""Distributions kept as histograms: pooled over seeds, with mean, quantiles and density.

A bin of no width is a point mass: that is how the K biases are stored.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Histogram:
    """Bins, each array of shape (B,), sorted by left edge; those of several trials may overlap."""

    left: Array
    right: Array
    count: Array

    @property
    def is_points(self) -> bool:
        """Whether these are single values, kept in full."""
        return bool((self.left == self.right).all())

    @property
    def mean(self) -> float:
        """Mean of the values, each taken at the middle of its bin."""
        return float(np.average((self.left + self.right) / 2, weights=self.count))

    def below(self, edges_E: Array) -> Array:
        """Share of the values below each edge, shape (E,); uniform inside a bin."""
        width_B = self.right - self.left
        into_EB = edges_E[:, None] - self.left
        inside_EB = np.clip(into_EB / np.where(width_B > 0, width_B, 1.0), 0.0, 1.0)
        share_EB = np.where(width_B > 0, inside_EB, into_EB > 0)
        return share_EB @ self.count / self.count.sum()

    def quantile(self, share: float) -> float:
        """The value below which this share of the values lies."""
        edges_E = np.unique(np.concatenate([self.left, self.right]))
        below_E = self.below(np.nextafter(edges_E, np.inf))  # past a point, it counts as below
        return float(np.interp(share, below_E, edges_E))

    def density(self, low: float, high: float, bins: int) -> tuple[Array, Array]:
        """Middles of equal bins from low to high and the share of values in each, both (bins,)."""
        edges_E = np.linspace(low, high, bins + 1)
        return (edges_E[1:] + edges_E[:-1]) / 2, np.diff(self.below(edges_E))


def pooled(scores: pd.DataFrame, kind: str) -> Histogram | None:
    """The values of one kind in some rows of the scores table; None where there are none."""
    rows = scores[(scores["kind"] == kind) & (scores["count"] > 0)].sort_values("bin_left")
    if rows.empty:
        return None
    left, right, count = (
        rows[name].to_numpy(np.float64) for name in ("bin_left", "bin_right", "count")
    )
    return Histogram(left, right, count)
