"""Accuracy, and uniform accuracy: the accuracy that one threshold for all samples can reach.

State + merge + compute. Two numbers a sample are kept, since the best threshold is a property of
all samples at once. Scores without bias are in `scores`.
"""

import math
from typing import Any

import torch
from torch import Tensor

from trainers.metrics.by_class import split_by_class


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
    some_N = right_N > left_N
    left_N, right_N = left_N[some_N].sort().values, right_N[some_N].sort().values
    if len(left_N) == 0:
        return torch.zeros_like(left_N.sum()), torch.full_like(left_N.sum(), math.nan)
    opened_N = torch.searchsorted(left_N, left_N, right=True)
    closed_N = torch.searchsorted(right_N, left_N, right=True)  # half-open: t = right is outside
    best = (opened_N - closed_N).argmax()  # the first of equals, as left is sorted: the smallest
    return (opened_N - closed_N)[best].double(), left_N[best]
