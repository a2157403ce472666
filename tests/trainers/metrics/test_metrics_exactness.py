"""Deep collapse at real sizes: 1e-6 relative to two passes in float64, in one pass and merged."""

import math
import pickle
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.metrics.accumulator import Accumulator
from trainers.metrics.features import from_features

K, N, DEEP = 10, 4000, 1e-8


class Sample(NamedTuple):
    """Features (N, D), labels (N,), weight (K, D), bias (K,)."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    weight: NDArray[Any]
    bias: NDArray[Any]


def two_passes(sample):
    """Float64 throughout: the means in one pass, everything about them in another."""
    h, y = sample.features.astype(np.float64), sample.labels
    W, b = sample.weight.astype(np.float64), sample.bias.astype(np.float64)
    means = class_means(sample)
    inner, M = h - means[y], means - h.mean(0)
    s_w, s_b = inner.T @ inner / len(h), M.T @ M / K
    variance = np.array([np.square(inner[y == k]).sum(1).mean() for k in range(K)])
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    centres = np.stack([unit[y == k].mean(0) for k in range(K)])
    directions = means / np.linalg.norm(means, axis=1, keepdims=True)
    pairs = np.triu_indices(K, 1)
    distance = np.square(means[pairs[0]] - means[pairs[1]]).sum(1)
    scores = h @ W.T
    own = y[:, None] == np.arange(K)
    logits = scores - b
    cos_within = np.square(centres).sum(1).mean()
    cos_between = (centres @ centres.T)[pairs].mean()
    positive = np.sort(logits[own])
    negative = np.sort(np.where(own, -np.inf, logits).max(1))
    covered = [np.sum(negative <= t) - np.sum(positive <= t) for t in negative]
    nearest = [np.square(x - means).sum(1).argmin() for x in h]
    return {
        "accuracy": np.mean(logits.argmax(1) == y),
        "uniform_accuracy": max(covered) / len(h),
        "uniform_threshold": negative[np.argmax(covered)],
        "nc1": np.trace(s_w @ np.linalg.pinv(s_b, rcond=1e-9, hermitian=True)) / K,
        "nc2": from_etf(W @ W.T),
        "nc3": from_etf(W @ M.T),
        "nc4": np.mean(np.array(nearest) == logits.argmax(1)),
        "nc2_centered": from_etf((W - W.mean(0)) @ (W - W.mean(0)).T),
        "nc2_means": from_etf((means - means.mean(0)) @ (means - means.mean(0)).T),
        "cdnv": np.mean((variance[pairs[0]] + variance[pairs[1]]) / (2 * distance)),
        "cos_within": cos_within,
        "cos_between": cos_between,
        "cos_to_mean": np.mean((unit * directions[y]).sum(1)),
        "cos_means": (directions @ directions.T)[pairs].mean(),
        "compactness": cos_within,
        "distinctiveness": (1 - cos_between) / 2,
        "s_pos_mean": scores[own].mean(),
        "s_pos_std": scores[own].std(),
        "s_neg_mean": scores[~own].mean(),
        "s_neg_std": scores[~own].std(),
        "bias_mean": b.mean(),
        "bias_std": b.std(),
    }


@cache
def expected(D, nc1=DEEP):
    return two_passes(deep(D, nc1))


def class_means(sample):
    return np.stack([sample.features[sample.labels == k].mean(0, dtype=float) for k in range(K)])


def from_etf(gram):
    etf = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    return np.linalg.norm(gram / np.linalg.norm(gram) - etf)


def second_moments(sample, dtype):
    """nc1 by the formula that loses digits: E[h hᵀ] - μ μᵀ for each class, in one precision."""
    h, y = sample.features.astype(dtype), sample.labels
    means = np.stack([h[y == k].mean(0, dtype=dtype) for k in range(K)])
    counts = np.bincount(y).astype(dtype)
    s_w = (h.T @ h - (means * counts[:, None]).T @ means) / dtype(len(h))
    M = means - h.mean(0, dtype=dtype)
    s_b = (M.T @ M / dtype(K)).astype(np.float64)
    return np.trace(s_w.astype(np.float64) @ np.linalg.pinv(s_b, rcond=1e-5, hermitian=True)) / K


@cache
def deep(D, nc1=DEEP):
    """A simplex ETF, moved off the origin to norm 10, with noise that gives it this nc1; float32.

    W lies along it, so that positive scores, negative ones and biases are nearly constant too.
    """
    rng = np.random.default_rng(D)
    frame = np.linalg.qr(rng.normal(size=(D, K + 1)))[0].T
    etf = (np.eye(K) - 1 / K) @ frame[:K]
    labels = np.concatenate([np.arange(K), rng.integers(K, size=N - K)])
    # S_W = σ²I and S_B = s²/K times a projection of rank K - 1, so nc1 = (K - 1)σ²/s².
    s, offset = 8.0, 6.0
    sigma = math.sqrt(nc1 * s**2 / (K - 1))
    features = s * etf[labels] + offset * frame[K] + sigma * rng.normal(size=(N, D))
    return Sample(
        features.astype(np.float32),
        labels,
        (0.7 * etf).astype(np.float32),
        (5 + 1e-4 * rng.normal(size=K)).astype(np.float32),
    )


def feed(sample, rows, chunk, class_means=None):
    features, labels = torch.tensor(sample.features[rows]), torch.tensor(sample.labels[rows])
    accumulator = Accumulator(*sample.weight.shape, class_means=class_means)
    for h, y in zip(features.split(chunk), labels.split(chunk), strict=True):
        accumulator.update(h, y, torch.tensor(sample.weight), torch.tensor(sample.bias))
    return accumulator


def uneven_parts(sample, layout):
    """Row numbers of each part; together all rows."""
    rows = np.arange(N)
    low = sample.labels < 4
    return {
        "one": [rows],
        "two": [rows[:700], rows[700:]],
        "three": [rows[:1], rows[1:2900], rows[2900:]],
        "an empty one": [rows[:0], rows[:1500], rows[1500:]],
        "an empty one last": [rows[:1500], rows[1500:], rows[:0]],
        "classes apart": [rows[low], rows[~low]],
        "classes apart and shared": [
            rows[low][:900],
            rows[~low][:10],
            rows[low][900:],
            rows[~low][10:],
        ],
    }[layout]


LAYOUTS = [
    *("one", "two", "three", "an empty one", "an empty one last"),
    *("classes apart", "classes apart and shared"),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("D", [64, 512])
def test_one_pass_and_merged_parts_equal_two_passes(D, layout):
    sample = deep(D)
    truth = expected(D)
    assert truth["nc1"] == pytest.approx(DEEP, rel=0.1)
    means = torch.tensor(class_means(sample))
    parts = [feed(sample, rows, 512, means) for rows in uneven_parts(sample, layout)]
    merged = pickle.loads(pickle.dumps(parts[0]))
    for part in parts[1:]:
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged.num_samples == N
    assert merged.compute() == pytest.approx(truth, rel=1e-6, abs=0)


@pytest.mark.parametrize("D", [64, 512])
def test_given_features_equal_two_passes(D):
    assert from_features(*deep(D)) == pytest.approx(expected(D), rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("dtype", "nc1", "error"), [(np.float32, 1e-8, 1.0), (np.float64, 1e-12, 1e-5)]
)
def test_plain_second_moments_miss_it(dtype, nc1, error):
    # In the features' own precision nothing is left of 1e-8; in float64 that is just enough, and
    # another four digits of collapse, which float32 features do reach, are too much for it.
    sample, truth = deep(64, nc1), expected(64, nc1)["nc1"]
    assert abs(second_moments(sample, dtype) / truth - 1) > error
    assert from_features(*sample)["nc1"] == pytest.approx(truth, rel=1e-9)
    assert feed(sample, np.arange(N), 512).compute()["nc1"] == pytest.approx(truth, rel=1e-9)


def test_an_outlier_that_comes_first_costs_no_digits():
    # It is its class's reference point, ten thousand times the others' spread away from them.
    sample = deep(64)
    features = sample.features.copy()
    features[0] += 3 * features[1]
    sample = sample._replace(features=features)
    truth = two_passes(sample)
    metrics = feed(sample, np.arange(N), 512, torch.tensor(class_means(sample))).compute()
    assert metrics["nc1"] == pytest.approx(truth["nc1"], rel=1e-9)
    # Not so close: nc2 is what is left of a difference of numbers 1e8 times larger.
    assert metrics == pytest.approx(truth, rel=1e-6, abs=0)


def test_a_pickled_accumulator_holds_sums_and_two_numbers_a_sample():
    sample, D = deep(512), 512
    state = len(pickle.dumps(feed(sample, np.arange(N), 512)))
    numbers = D * D + 4 * K * D + 2 * N  # references, sums, unit sums and the weight
    assert 8 * numbers < state < 8 * numbers + 32_000
