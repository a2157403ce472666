"""Accuracy, and uniform accuracy: the accuracy that one threshold for all samples can reach.

State + merge + compute. Two numbers a sample are kept, since the best threshold is a property of
all samples at once. Scores without bias are in `scores`.
"""

import math

import torch
from torch import Tensor


class Thresholds:
    """For each sample its positive logit and its largest negative logit; and who was right."""

    def __init__(self, device: torch.device) -> None:
        self.correct = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0
        self.positive: list[Tensor] = []
        self.max_negative: list[Tensor] = []

    def update(self, logits_BK: Tensor, labels_B: Tensor, of_class_BK: Tensor) -> None:
        """Add a batch: float64 logits, class ids, and where a logit is of the sample's class.

        A sample with a logit that is not finite is misclassified, whatever its other logits.
        """
        finite_B = logits_BK.isfinite().all(1)
        # argmax takes the first of equal maxima, as numpy's does.
        self.correct += ((logits_BK.argmax(1) == labels_B) & finite_B).sum()
        self.count += len(labels_B)
        positive_B = logits_BK.gather(1, labels_B[:, None])[:, 0]
        self.positive.append(torch.where(finite_B, positive_B, math.nan))
        self.max_negative.append(logits_BK.masked_fill(of_class_BK, -math.inf).amax(1))

    def merge(self, other: "Thresholds") -> None:
        """Add other samples."""
        self.correct += other.correct
        self.count += other.count
        self.positive += other.positive
        self.max_negative += other.max_negative

    def compute(self) -> dict[str, Tensor]:
        """Accuracy, uniform_accuracy and uniform_threshold as 0-d float64 tensors."""
        none = self.correct.new_zeros(0)
        covered, threshold = most_covered(
            torch.cat([none, *self.max_negative]), torch.cat([none, *self.positive])
        )
        return {
            "accuracy": self.correct / self.count,
            "uniform_accuracy": covered / self.count,
            "uniform_threshold": threshold,
        }


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
