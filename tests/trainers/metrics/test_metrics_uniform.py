"""uniform.py against a scan of all thresholds, and intervals made by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import FUZZ
from trainers.metrics.uniform import Thresholds, most_covered, predict


def scan(logits, labels):
    """Eq. (17) as it stands: every logit as threshold, O(N²); the smallest that is best."""
    negatives = [np.delete(z, k).max() for z, k in zip(logits, labels, strict=True)]
    best, threshold = 0, math.nan
    for t in sorted(set(negatives)):
        hits = sum(
            z[k] > t and all(z[j] <= t for j in range(len(z)) if j != k)
            for z, k in zip(logits, labels, strict=True)
        )
        if hits > best:
            best, threshold = hits, t
    return best / len(labels), threshold


def thresholds_of(logits, labels, chunk=None):
    logits, labels = torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)
    state = Thresholds(torch.device("cpu"))
    chunk = chunk or len(labels)
    for i in range(0, len(labels), chunk):
        z, y = logits[i : i + chunk], labels[i : i + chunk]
        state.update(z, y, predict(z))
    return state


def measured(logits, labels, chunk=None):
    return {name: float(v) for name, v in thresholds_of(logits, labels, chunk).compute().items()}


@pytest.mark.parametrize("K", [2, 3, 10])
@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_equals_a_scan_of_all_thresholds(K, chunk, whole_numbers):
    rng = np.random.default_rng(K)
    labels = rng.integers(K, size=80)
    logits = rng.normal(size=(80, K)) * 2
    logits[np.arange(80), labels] += 2
    logits = logits.round() if whole_numbers else logits
    metrics = measured(logits, labels, chunk)
    best, threshold = scan(logits, labels)
    assert metrics["uniform_accuracy"] == best
    assert metrics["uniform_threshold"] == threshold
    assert metrics["accuracy"] == np.mean(logits.argmax(1) == labels)


# Small whole numbers, so that ties of every sort occur.
TIED = st.integers(2, 4).flatmap(
    lambda K: st.lists(
        st.tuples(st.lists(st.integers(-3, 3), min_size=K, max_size=K), st.integers(0, K - 1)),
        min_size=1,
        max_size=12,
    )
)


@FUZZ
@given(TIED)
def test_ties_of_every_sort_and_never_above_accuracy(rows):
    logits, labels = np.array([z for z, _ in rows], dtype=float), np.array([k for _, k in rows])
    metrics = measured(logits, labels)
    best, threshold = scan(logits, labels)
    assert metrics["uniform_accuracy"] == best
    assert metrics["uniform_threshold"] == pytest.approx(threshold, nan_ok=True)
    assert metrics["uniform_accuracy"] <= metrics["accuracy"] <= 1


@FUZZ
@given(
    st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32), st.floats(width=32)),
        min_size=1,
        max_size=8,
    )
)
def test_any_float_stays_in_range(rows):
    metrics = measured(np.array(rows), np.arange(len(rows)) % 3)
    assert 0 <= metrics["uniform_accuracy"] <= metrics["accuracy"] <= 1
    assert math.isnan(metrics["uniform_threshold"]) == (metrics["uniform_accuracy"] == 0)


@pytest.mark.parametrize(
    ("intervals", "covered", "threshold"),
    [
        ([(0, 1)], 1, 0),
        ([(0, 1), (1, 2)], 1, 0),  # half-open: 1 is not in the first
        ([(0, 2), (1, 3), (2, 4)], 2, 1),  # at 2 the first has ended
        ([(0, 4), (1, 3), (1, 2), (3, 5)], 3, 1),
        ([(1, 1), (2, 1)], 0, math.nan),  # pos == max_neg is empty, as is a misclassified sample
        ([(1, 1), (0, 2)], 1, 0),
        ([(math.nan, 1), (0, math.nan), (5, 6)], 1, 5),
        ([(-0.0, 1), (0.0, 1)], 2, 0),
        ([], 0, math.nan),
    ],
)
def test_intervals_made_by_hand(intervals, covered, threshold):
    ends = torch.tensor(intervals, dtype=torch.float64).reshape(-1, 2)
    count, best = most_covered(ends[:, 0], ends[:, 1])
    assert float(count) == covered
    assert float(best) == pytest.approx(threshold, nan_ok=True)


def test_all_logits_tied():
    metrics = measured(np.ones((4, 3)), np.array([0, 0, 1, 2]))
    assert metrics["accuracy"] == 0.5  # argmax takes the first, like numpy's
    assert metrics["uniform_accuracy"] == 0
    assert math.isnan(metrics["uniform_threshold"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_a_logit_that_is_not_finite_misclassifies_its_sample_alone(bad, column):
    logits = np.array([[2.0, 0.0], [3.0, 0.0]])
    logits[0, column] = bad
    metrics = measured(logits, np.array([0, 0]))
    assert metrics == {"accuracy": 0.5, "uniform_accuracy": 0.5, "uniform_threshold": 0.0}


def test_merging_equals_at_once():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(50, 3)), rng.integers(3, size=50)
    left = thresholds_of(logits[:20], labels[:20], 7)
    left.merge(thresholds_of(logits[20:], labels[20:]))
    assert {n: float(v) for n, v in left.compute().items()} == measured(logits, labels)


@pytest.mark.parametrize("count", [1, 7, 50])
def test_curve_is_the_cover_at_each_threshold(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = 3 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (count,), generator=generator)
    logits[torch.arange(count), labels] += 2  # some are right
    thresholds = Thresholds(torch.device("cpu"))
    thresholds.update(logits, labels, predict(logits))
    curve = thresholds.curve()
    for t, found in curve:
        expected = 0
        for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
            expected += z[y] > t and all(z[j] <= t for j in range(4) if j != y)
        assert found == expected
    steps = [t for t, _ in curve]
    assert all(b - a == 1 / 16 for a, b in pairwise(steps))
    separated = sum(found for _, found in curve)
    assert separated > 0
    best = float(thresholds.compute()["uniform_accuracy"]) * count
    assert max(found for _, found in curve) <= best


def test_curve_of_nobody_right_is_empty_and_of_huge_logits_is_cut() -> None:
    thresholds = Thresholds(torch.device("cpu"))
    wrong = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    thresholds.update(wrong, torch.tensor([0]), predict(wrong))
    assert thresholds.curve() == []
    huge = torch.tensor([[1e9, -1e9]], dtype=torch.float64)
    thresholds.update(huge, torch.tensor([0]), predict(huge))
    curve = thresholds.curve()
    assert (curve[0], curve[-1]) == ((-64.0, 1), (64.0, 1))
