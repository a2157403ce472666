"""scores.py against numpy over all scores at once, and histograms made by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import FUZZ
from trainers.metrics.scores import Moments, ScoreHistogram


def reference(sample):
    h, W, b = (a.astype(np.float64) for a in (sample.features, sample.weight, sample.bias))
    positive, negative = [], []
    for x, y in zip(h, sample.labels, strict=True):
        for j, w in enumerate(W):
            (positive if j == y else negative).append(w @ x)
    return {
        "s_pos_mean": np.mean(positive),
        "s_pos_std": np.std(positive),
        "s_neg_mean": np.mean(negative),
        "s_neg_std": np.std(negative),
        "bias_mean": np.mean(b),
        "bias_std": np.std(b),
    }


@pytest.mark.parametrize(("K", "D"), [(2, 1), (3, 7), (10, 4), (10, 16)])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_equals_all_scores_at_once(draw, accumulate, K, D, chunk):
    sample = draw(K, D, imbalanced=True)
    truth = reference(sample)
    metrics = accumulate(sample, chunk).compute()
    assert {name: metrics[name] for name in truth} == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("spread", [1e-4, 1e-6])
def test_deep_collapse_keeps_the_digits_of_the_spread(draw, accumulate, chunk, spread):
    # W and H at one simplex ETF, so that all positive scores agree up to the spread.
    K = 4
    frame = np.eye(K) - 1 / K
    sample = draw(K, K, N=200)
    noise = np.random.default_rng(2).normal(size=(200, K))
    features = (3 * frame[sample.labels] + spread * noise).astype(np.float32)
    sample = sample._replace(features=features, weight=(2 * frame).astype(np.float32))
    truth, metrics = reference(sample), accumulate(sample, chunk).compute()
    assert truth["s_pos_std"] < 3 * spread
    for name in ("s_pos_mean", "s_pos_std", "s_neg_mean", "s_neg_std"):
        assert metrics[name] == pytest.approx(truth[name], rel=1e-8)


NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=20)


@FUZZ
@given(NUMBERS, NUMBERS)
def test_merged_moments_equal_those_of_all_numbers(left, right):
    parts = []
    for numbers in (left, right):
        moments = Moments(torch.device("cpu"))
        values = torch.tensor(numbers, dtype=torch.float64)
        for value in values:
            moments.update(value)
        parts.append(moments)
    parts[0].merge(parts[1])
    both = np.array(left + right)
    if len(both) == 0:
        assert math.isnan(parts[0].mean())
        assert math.isnan(parts[0].std())
        return
    size = np.abs(both).max()
    assert float(parts[0].mean()) == pytest.approx(both.mean(), rel=1e-12, abs=1e-14 * size)
    assert float(parts[0].std()) == pytest.approx(both.std(), rel=1e-9, abs=1e-7 * size)


def expected_bins(scores, labels):
    counts = Counter()
    for row, label in zip(scores, labels, strict=True):
        for j, s in enumerate(row):
            if math.isfinite(s) and -64 <= s < 64:
                kind = "positive" if j == label else "negative"
                counts[kind, math.floor(s * 32) / 32] += 1
    return counts


@pytest.mark.parametrize("chunk", [1, 7, 40])
def test_histogram_equals_a_loop(chunk):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(40, 5)) * 3, rng.integers(5, size=40)
    scores[0] = [-64, 63.999, 0, 1 / 32, -1e-9]
    histogram = ScoreHistogram()
    for i in range(0, 40, chunk):
        histogram.update(torch.tensor(scores[i : i + chunk]), torch.tensor(labels[i : i + chunk]))
    rows = histogram.rows()
    got = {(row["kind"], row["bin_left"]): row["count"] for row in rows}
    assert got == expected_bins(scores, labels)
    assert all(row["bin_right"] - row["bin_left"] == 1 / 32 for row in rows)
    order = [(row["kind"] == "negative", row["bin_left"]) for row in rows]
    assert order == sorted(order)


def test_outer_bins_reach_to_the_outermost_score():
    scores = torch.tensor([[64.0, -100.0], [200.0, -65.0], [1.0, math.nan], [math.inf, -math.inf]])
    histogram = ScoreHistogram()
    histogram.update(scores, torch.tensor([0, 0, 0, 0]))
    assert histogram.rows() == [
        {"kind": "positive", "bin_left": 1.0, "bin_right": 1.03125, "count": 1},
        {"kind": "positive", "bin_left": 64.0, "bin_right": 200.0, "count": 2},
        {"kind": "negative", "bin_left": -100.0, "bin_right": -64.0, "count": 2},
    ]


def test_merged_histograms_equal_one():
    rng = np.random.default_rng(1)
    scores, labels = (
        torch.tensor(rng.normal(size=(30, 3)) * 50),
        torch.tensor(rng.integers(3, size=30)),
    )
    whole, left, right = ScoreHistogram(), ScoreHistogram(), ScoreHistogram()
    whole.update(scores, labels)
    left.update(scores[:11], labels[:11])
    right.update(scores[11:], labels[11:])
    right.update(scores[:0], labels[:0])
    left.merge(right)
    assert left.rows() == whole.rows()
    assert sum(row["count"] for row in whole.rows()) == 90


def test_empty_histogram_has_no_rows():
    assert ScoreHistogram().rows() == []


def test_histogram_refuses_shapes_that_do_not_go_together():
    with pytest.raises(
        ValueError, match=r"scores \(2, 3\) and labels \(3,\).*give scores of shape"
    ):
        ScoreHistogram().update(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_histogram_built_in_a_mode_can_be_used_outside(mode):
    scores, labels = torch.ones(2, 3), torch.tensor([0, 1])
    with mode():
        histogram = ScoreHistogram()
        histogram.update(scores.clone(), labels.clone())
    histogram.update(scores, labels)
    assert [row["count"] for row in histogram.rows()] == [4, 8]
