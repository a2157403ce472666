"""Accuracy, and uniform accuracy: the accuracy that one threshold for all samples can reach.

State + merge + compute. Two numbers a sample are kept, since the best threshold is a property of
all samples at once. Scores without bias are in `scores`.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor

from trainers.metrics.by_class import split_by_class

STEPS_PER_UNIT: Final = 16  # thresholds of the curve are at multiples of 1/16
LIMIT: Final = 64  # and from -LIMIT to LIMIT at most


class Thresholds:
    """For each sample its positive logit and its largest negative logit; and who was right."""

    def __init__(self, device: torch.device) -> None:
        self.correct = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0
        self.ends_2N = torch.zeros(2, 0, dtype=torch.float64, device=device)  # with room to grow

    def update(self, logits_BK: Tensor, labels_B: Tensor, predicted_B: Tensor) -> None:
        """Add a batch: float64 logits, class ids, and the classes that `predict` gives."""
        self.correct += (predicted_B == labels_B).sum()
        positive_B1, negative_BK = split_by_class(logits_BK, labels_B)
        room_2B = self._room(len(labels_B))
        room_2B[0] = negative_BK.amax(1)
        room_2B[1] = torch.where(predicted_B >= 0, positive_B1[:, 0], math.nan)

    def merge(self, other: "Thresholds") -> None:
        """Add other samples."""
        self.correct += other.correct
        self._room(other.count).copy_(other.ends_2N[:, : other.count])

    def compute(self) -> dict[str, Tensor]:
        """Accuracy, uniform_accuracy and uniform_threshold as 0-d float64 tensors."""
        covered, threshold = most_covered(*self.ends_2N[:, : self.count])
        return {
            "accuracy": self.correct / self.count,
            "uniform_accuracy": covered / self.count,
            "uniform_threshold": threshold,
        }

    def curve(self) -> list[tuple[float, int]]:
        """Thresholds, at multiples of 1/16, and how many samples each separates.

        Those of no sample are left out at both ends. Uniform accuracy is the maximum between them
        too, so a little more than the curve's highest point.
        """
        left_N, right_N = intervals(*self.ends_2N[:, : self.count])
        if len(left_N) == 0:
            return []
        steps = LIMIT * STEPS_PER_UNIT
        first, last = (
            int((end * STEPS_PER_UNIT).floor().clamp(-steps, steps))
            for end in (left_N[0], right_N[-1])
        )
        threshold_T = torch.arange(first, last + 1, device=left_N.device) / STEPS_PER_UNIT
        threshold_T = threshold_T.to(left_N.dtype)
        cover_T = cover(left_N, right_N, threshold_T)
        return list(zip(threshold_T.tolist(), cover_T.tolist(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"ends_2N": self.ends_2N[:, : self.count].clone()}

    def _room(self, count: int) -> Tensor:
        """The next `count` columns. Doubled when full: a piece a batch would fragment memory."""
        begin, self.count = self.count, self.count + count
        if self.count > self.ends_2N.shape[1]:
            grown_2N = self.ends_2N.new_zeros(2, 2 * self.count)
            grown_2N[:, :begin] = self.ends_2N[:, :begin]
            self.ends_2N = grown_2N
        return self.ends_2N[:, begin : self.count]


def predict(logits_BK: Tensor) -> Tensor:
    """The class of the largest logit, the first of equals; -1 where a logit is not finite.

    So such a sample is misclassified, whatever its other logits.
    """
    least_B, (most_B, predicted_B) = logits_BK.amin(1), logits_BK.max(1)  # both pass NaN on
    return torch.where(least_B.isfinite() & most_B.isfinite(), predicted_B, -1)


def most_covered(left_N: Tensor, right_N: Tensor) -> tuple[Tensor, Tensor]:
    """The largest number of intervals [left, right) over one point, and the smallest such point.

    A sample is classified by threshold t iff z_pos > t >= every z_neg, so it is the interval
    [max z_neg, z_pos), empty when misclassified or NaN. The cover grows at left ends only, so one
    of them attains the maximum: exact in O(N log N). Without intervals: 0 and NaN.
    Source: Eq. (17).
    """
    left_N, right_N = intervals(left_N, right_N)
    if len(left_N) == 0:
        return torch.zeros_like(left_N.sum()), torch.full_like(left_N.sum(), math.nan)
    cover_N = cover(left_N, right_N, left_N)
    best = cover_N.argmax()  # the first of equals, as left is sorted: the smallest
    return cover_N[best].double(), left_N[best]


def intervals(left_N: Tensor, right_N: Tensor) -> tuple[Tensor, Tensor]:
    """The left and the right ends of those that aren't empty, each sorted by itself."""
    some_N = right_N > left_N
    return left_N[some_N].sort().values, right_N[some_N].sort().values


def cover(left_N: Tensor, right_N: Tensor, point_T: Tensor) -> Tensor:
    """How many of the half-open `intervals` each point is in, (T,)."""
    opened_T = torch.searchsorted(left_N, point_T, right=True)
    return opened_T - torch.searchsorted(right_N, point_T, right=True)
