"""Decision scores s = W h, without bias: their mean and spread, their histogram, and the biases'.

State + merge + compute. Positive scores are the N scores s_{i,y_i}, negative ones the other
N(K - 1). Logits, which have the bias, are in `uniform`.
"""

import math
from typing import Literal, TypedDict

import torch
from torch import Tensor

from trainers.metrics.by_class import split_by_class

BINS_PER_UNIT = 32  # a power of two, so that edges and the bin of a score are exact
LIMIT = 64  # regular bins cover [-LIMIT, LIMIT)
_BELOW, _ABOVE = 0, 2 * LIMIT * BINS_PER_UNIT + 1
_DROPPED = _ABOVE + 1
KINDS: tuple[Literal["positive", "negative"], ...] = ("positive", "negative")


class Moments:
    """Mean and population standard deviation of a stream of numbers, from those of its batches.

    Each batch in two passes about its own mean, then joined: nothing large cancels.
    Source: the pairwise algorithm, Chan, Golub and LeVeque 1983.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.centre = torch.zeros_like(self.count)
        self.squares = torch.zeros_like(self.count)  # Σ (x - centre)²

    def update(self, values: Tensor) -> None:
        """Add at least one value, of any shape."""
        centre = values.mean()
        self._join(values.numel(), centre, (values - centre).square().sum())

    def merge(self, other: "Moments") -> None:
        """Add other numbers."""
        self._join(other.count, other.centre, other.squares)

    def _join(self, count: Tensor | int, centre: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share = torch.where(total > 0, count / total, 0.0)
        delta = centre - self.centre
        self.squares = self.squares + squares + self.count * share * delta.square()
        self.centre = self.centre + share * delta
        self.count = total

    def mean(self) -> Tensor:
        """The mean; NaN without values."""
        return torch.where(self.count > 0, self.centre, math.nan)

    def std(self) -> Tensor:
        """The population standard deviation (divides by the count); NaN without values."""
        return (self.squares / self.count).sqrt()


class ScoreMoments:
    """Moments of the positive and of the negative scores."""

    def __init__(self, device: torch.device) -> None:
        self.positive = Moments(device)
        self.negative = Moments(device)

    def update(self, scores_BK: Tensor, labels_B: Tensor) -> None:
        """Add a batch: float64 scores and class ids."""
        positive_B1, negative_BK = split_by_class(scores_BK, labels_B)
        self.positive.update(positive_B1)
        self.negative.update(negative_BK)

    def merge(self, other: "ScoreMoments") -> None:
        """Add other samples."""
        self.positive.merge(other.positive)
        self.negative.merge(other.negative)

    def compute(self) -> dict[str, Tensor]:
        """Means and population standard deviations as 0-d float64 tensors. Source: Table 1."""
        return {
            "s_pos_mean": self.positive.mean(),
            "s_pos_std": self.positive.std(),
            "s_neg_mean": self.negative.mean(),
            "s_neg_std": self.negative.std(),
        }


def of_biases(bias_K: Tensor) -> dict[str, Tensor]:
    """Mean and population standard deviation of the K biases. Source: Table 1, Fig. 3."""
    return {"bias_mean": bias_K.mean(), "bias_std": bias_K.std(correction=0)}


class ScoreBin(TypedDict):
    """One bin [bin_left, bin_right) of the scores of one kind."""

    kind: Literal["positive", "negative"]
    bin_left: float
    bin_right: float
    count: int


class ScoreHistogram:
    """Counts of positive and negative scores in bins of 1/32 over [-64, 64), for Fig. 3's violins.

    What lies outside falls into one bin below and one above, which reach to the outermost score
    seen (that one included). Scores that are not finite are left out.
    """

    @torch.inference_mode(False)  # its tensors could not be updated outside of it later
    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(2, _DROPPED + 1, dtype=torch.int64, device=device)
        self.lowest = torch.full((2,), math.inf, dtype=torch.float64, device=device)
        self.highest = torch.full((2,), -math.inf, dtype=torch.float64, device=device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def update(self, scores_BK: Tensor, labels_B: Tensor) -> None:
        """Add a batch of scores Wh, (B, K), with class ids, (B,)."""
        if scores_BK.ndim != 2 or labels_B.shape != scores_BK.shape[:1]:
            raise ValueError(
                f"scores {tuple(scores_BK.shape)} and labels {tuple(labels_B.shape)} do not go "
                "together; give scores of shape (B, K) and labels of shape (B,)"
            )
        if scores_BK.numel() == 0:
            return
        scores_BK = scores_BK.detach().to(self.counts.device, torch.float64)
        labels_B = labels_B.to(self.counts.device)
        classes_K = torch.arange(scores_BK.shape[1], device=self.counts.device)
        negative_BK = (labels_B[:, None] != classes_K).long()
        finite_BK = scores_BK.isfinite()
        bins_BK = _bin(torch.where(finite_BK, scores_BK, 0.0))
        bins_BK = torch.where(finite_BK, bins_BK, _DROPPED) + (_DROPPED + 1) * negative_BK
        # Integers: their sum does not depend on the order in which a GPU adds them.
        bins = bins_BK.flatten()
        self.counts.view(-1).scatter_add_(0, bins, torch.ones_like(bins))
        for kind in range(2):
            seen_BK = finite_BK & (negative_BK == kind)
            lowest = torch.where(seen_BK, scores_BK, math.inf).amin()
            highest = torch.where(seen_BK, scores_BK, -math.inf).amax()
            self.lowest[kind] = torch.minimum(self.lowest[kind], lowest)
            self.highest[kind] = torch.maximum(self.highest[kind], highest)

    @torch.inference_mode(False)
    @torch.no_grad()
    def merge(self, other: "ScoreHistogram") -> None:
        """Add the counts of other samples."""
        device = self.counts.device
        self.counts += other.counts.to(device)
        self.lowest = torch.minimum(self.lowest, other.lowest.to(device))
        self.highest = torch.maximum(self.highest, other.highest.to(device))

    def rows(self) -> list[ScoreBin]:
        """The bins that are not empty, in order, positive scores first."""
        lowest, highest = self.lowest.tolist(), self.highest.tolist()
        rows: list[ScoreBin] = []
        for kind, name in enumerate(KINDS):
            for index, count in enumerate(self.counts[kind, :_DROPPED].tolist()):
                if count:
                    left, right = _edges(index, lowest[kind], highest[kind])
                    rows.append(
                        {"kind": name, "bin_left": left, "bin_right": right, "count": count}
                    )
        return rows


def _bin(scores: Tensor) -> Tensor:
    index = (scores * BINS_PER_UNIT).floor() + (LIMIT * BINS_PER_UNIT + 1)
    return index.clamp(_BELOW, _ABOVE).long()


def _edges(index: int, lowest: float, highest: float) -> tuple[float, float]:
    if index == _BELOW:
        return lowest, float(-LIMIT)
    if index == _ABOVE:
        return float(LIMIT), highest
    return (index - 1) / BINS_PER_UNIT - LIMIT, index / BINS_PER_UNIT - LIMIT
