"""collapse.py against loops over samples in numpy, closed forms, and deep collapse."""

from itertools import combinations

import numpy as np
import pytest
import torch

from trainers.metrics.collapse import ClassMoments, NearestMean, etf_distance, nc1
from trainers.metrics.features import from_features
from trainers.metrics.uniform import predict

SHAPES = [(2, 1), (2, 5), (3, 2), (3, 7), (10, 4), (10, 9), (10, 16)]


def etf(K):
    return np.eye(K) - 1 / K


def ref_nc2(gram):
    K = len(gram)
    return np.linalg.norm(gram / np.linalg.norm(gram) - etf(K) / np.sqrt(K - 1))


def reference(sample):
    """Two passes, a loop over samples, pinv of the D x D matrix; all in float64."""
    h, y = sample.features.astype(np.float64), sample.labels
    W, K = sample.weight.astype(np.float64), len(sample.weight)
    means = np.stack([h[y == k].mean(0) for k in range(K)])
    M = means - h.mean(0)
    s_w = sum(np.outer(a - means[k], a - means[k]) for a, k in zip(h, y, strict=True)) / len(h)
    s_b = sum(np.outer(m, m) for m in M) / K
    var = [np.mean([np.sum((a - means[k]) ** 2) for a in h[y == k]]) for k in range(K)]
    pairs = list(combinations(range(K), 2))
    centred = means - means.mean(0)
    logits = h @ W.T - sample.bias.astype(np.float64)
    nearest = [np.argmin([np.sum((a - m) ** 2) for m in means]) for a in h]
    return {
        # Of rank at most K - 1; what is left of the others is rounding, at 1e-16.
        "nc1": np.trace(s_w @ np.linalg.pinv(s_b, rcond=1e-11, hermitian=True)) / K,
        "nc2": ref_nc2(W @ W.T),
        "nc3": ref_nc2(W @ M.T),
        "nc4": np.mean(np.array(nearest) == logits.argmax(1)),
        "nc2_centered": ref_nc2((W - W.mean(0)) @ (W - W.mean(0)).T),
        "nc2_means": ref_nc2(centred @ centred.T),
        "cdnv": np.mean(
            [(var[k] + var[m]) / 2 / np.sum((means[k] - means[m]) ** 2) for k, m in pairs]
        ),
    }


@pytest.mark.parametrize("imbalanced", [False, True])
@pytest.mark.parametrize(("K", "D"), SHAPES)
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_equals_brute_force(draw, accumulate, K, D, chunk, imbalanced):
    sample = draw(K, D, imbalanced=imbalanced)
    truth = reference(sample)
    means = accumulate(sample).class_means
    metrics = accumulate(sample, chunk, class_means=means).compute()
    assert {name: metrics[name] for name in truth} == pytest.approx(truth, rel=1e-9, abs=1e-12)


def test_balanced_classes_leave_out_the_empty_direction(draw):
    # sum_k (mu_k - mu_G) = 0: in that direction S_B is rounding, and 1 over it would be 1e30.
    for seed in range(20):
        sample = draw(3, 3, seed=seed, N=3)
        labels = np.repeat(np.arange(3), 20)
        noise = np.random.default_rng(seed).normal(size=(60, 3))
        sample = sample._replace(
            features=(1000 + sample.features[np.argsort(sample.labels)][labels] + noise),
            labels=labels,
        )
        assert from_features(*sample)["nc1"] == pytest.approx(reference(sample)["nc1"], rel=1e-6)


def test_rounding_in_the_empty_direction_does_not_count():
    # Means on a line, noise across it; a centred mean that rounding has moved off the line by 1e-9
    # must not divide the noise by 1e-18: two classes have one direction.
    features = torch.tensor([[1, 0.5], [1, -0.5], [-1, 0.5], [-1, -0.5]], dtype=torch.float64)
    moments = ClassMoments(2, 2, torch.device("cpu"))
    moments.update(features, features, torch.tensor([0, 0, 1, 1]))
    means = torch.tensor([[1.0, 1e-9], [-1.0, 1e-9]], dtype=torch.float64)
    assert float(nc1(moments, means, means)) == pytest.approx(0, abs=1e-15)


def test_nc1_of_two_crosses_matches_closed_form():
    # Crosses of radius r at (+a, 0) and (-a, 0):
    # S_W = diag(r^2, r^2) / 2 and S_B = diag(a^2, 0), so nc1 = r^2 / (4 a^2);
    # sigma_k^2 = r^2 and the means are 2a apart, so cdnv = r^2 / (4 a^2) too.
    a, r = 3.0, 0.5
    cross = r * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    features = np.concatenate([cross + np.array([a, 0]), cross - np.array([a, 0])])
    metrics = from_features(
        features, np.repeat([0, 1], 4), np.array([[1, 0], [-1, 0]]), np.zeros(2)
    )
    assert metrics["nc1"] == pytest.approx(r**2 / (4 * a**2), rel=1e-12)
    assert metrics["cdnv"] == pytest.approx(r**2 / (4 * a**2), rel=1e-12)
    assert metrics["nc4"] == 1.0


@pytest.mark.parametrize("K", [2, 3, 10])
@pytest.mark.parametrize("extra", [0, 3])
def test_a_simplex_etf_is_at_zero(K, extra):
    rotation = np.linalg.qr(np.random.default_rng(K).normal(size=(K + extra, K + extra)))[0]
    frame = np.hstack([etf(K), np.zeros((K, extra))]) @ rotation
    labels = np.repeat(np.arange(K), 3)
    metrics = from_features(4 * frame[labels] + 1, labels, 2 * frame, np.ones(K))
    for name in ("nc1", "nc2", "nc3", "nc2_centered", "nc2_means", "cdnv"):
        assert metrics[name] == pytest.approx(0, abs=1e-14)
    assert metrics["nc4"] == 1.0


@pytest.mark.parametrize("c", [0.1, 2.0])
def test_nc2_of_an_etf_with_a_common_mean(c):
    # G = a (I - 11'/K) + c 11': the distance is that of two unit matrices at angle t,
    # cos t = a sqrt(K-1) / sqrt(a^2 (K-1) + c^2 K^2), so nc2^2 = 2 - 2 cos t.
    K, a = 10, 1.5
    gram = torch.tensor(a * etf(K) + c)
    cos = a * np.sqrt(K - 1) / np.hypot(a * np.sqrt(K - 1), c * K)
    assert float(etf_distance(gram)) == pytest.approx(np.sqrt(2 - 2 * cos), rel=1e-12)


def collapsed(spread, K=4, D=6, n=40, seed=1):
    """Float32 features whose spread is `spread` of the means, in shuffled order."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(K), n)
    rng.shuffle(labels)
    features = rng.normal(size=(K, D))[labels] + 1 + spread * rng.normal(size=(K * n, D))
    return features.astype(np.float32), labels


@pytest.mark.parametrize("chunk", [1, 7, 64, None])
@pytest.mark.parametrize(("spread", "below"), [(1e-4, 1e-7), (1e-6, 1e-11)])
def test_deep_collapse_keeps_its_digits(draw, accumulate, spread, below, chunk):
    features, labels = collapsed(spread)
    sample = draw(4, 6)._replace(features=features, labels=labels)
    truth, metrics = reference(sample), accumulate(sample, chunk).compute()
    assert 0 < truth["nc1"] < below
    for name in ("nc1", "cdnv"):
        assert metrics[name] == pytest.approx(truth[name], rel=1e-9)
    assert from_features(*sample)["nc1"] == pytest.approx(truth["nc1"], rel=1e-9)


def test_float32_second_moments_lose_deep_collapse(draw):
    # Why the accumulator shifts: E[h h'] - mu mu' in float32 is off by more than its value here.
    features, labels = collapsed(1e-5)
    sample = draw(4, 6)._replace(features=features, labels=labels)
    inner = [features[labels == k] for k in range(4)]
    naive = sum(
        np.trace(h.T @ h / np.float32(len(h)) - np.outer(h.mean(0), h.mean(0))) for h in inner
    )
    true = sum(np.trace(np.cov(h.astype(np.float64), rowvar=False, bias=True)) for h in inner)
    assert abs(naive - true) > 10 * true
    assert from_features(*sample)["nc1"] == pytest.approx(reference(sample)["nc1"], rel=1e-9)


@pytest.mark.parametrize("spread", [1.0, 1e-5])
def test_merging_different_reference_points_is_exact(draw, accumulate, spread):
    # The first batches of the three parts differ, and so do their reference points.
    sample = draw(5, 8, N=90, spread=spread)
    truth = reference(sample)
    parts = [
        accumulate(type(sample)(*(p[i::3] for p in sample[:2]), *sample[2:]), 4) for i in range(3)
    ]
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    metrics = parts[2].compute()
    for name in ("nc1", "nc3", "cdnv", "nc2_means"):
        assert metrics[name] == pytest.approx(truth[name], rel=1e-9)


def test_merging_when_each_side_has_its_own_classes(draw, accumulate):
    sample = draw(6, 5)
    whole = accumulate(sample).compute()
    low = sample.labels < 3
    parts = [
        accumulate(sample._replace(features=sample.features[m], labels=sample.labels[m]), 7)
        for m in (low, ~low)
    ]
    assert np.isnan(parts[0].compute()["nc1"])
    parts[0].merge(parts[1])
    assert parts[0].compute() == pytest.approx(whole, rel=1e-12, abs=1e-13, nan_ok=True)


def test_nc4_counts_against_the_means_given(draw, accumulate):
    sample = draw(3, 4)
    h = sample.features.astype(np.float64)
    means = np.random.default_rng(5).normal(size=(3, 4))
    logits = h @ sample.weight.T.astype(np.float64) - sample.bias
    nearest = ((h[:, None] - means) ** 2).sum(2).argmin(1)
    given = accumulate(sample, 7, class_means=torch.tensor(means)).compute()["nc4"]
    assert given == pytest.approx((nearest == logits.argmax(1)).mean())
    assert 0 < given < 1


def test_nc4_is_nan_without_means_and_with_incomplete_ones(draw, accumulate):
    sample = draw(3, 4)
    assert np.isnan(accumulate(sample).compute()["nc4"])
    means = torch.ones(3, 4)
    means[1] = torch.nan
    assert np.isnan(accumulate(sample, class_means=means).compute()["nc4"])


def test_nc4_counts_a_sample_without_finite_logits_as_disagreeing():
    nearest = NearestMean(torch.eye(2, dtype=torch.float64), torch.device("cpu"))
    features = torch.eye(2, dtype=torch.float64)
    # Both argmaxes name the nearest class, but the first of them by an infinite logit.
    nearest.update(features, predict(torch.tensor([[torch.inf, 0], [0, 1]])))
    assert float(nearest.compute()["nc4"]) == 0.5


def test_equal_means_are_nan_not_rounding():
    # Two classes with the very same samples, ordered otherwise: their means differ by rounding.
    h = np.random.default_rng(0).normal(size=(50, 3))
    features, labels = np.concatenate([h, h[::-1]]), np.repeat([0, 1], 50)
    metrics = from_features(features, labels, np.eye(2, 3), np.zeros(2))
    for name in ("nc1", "nc3", "nc2_means"):
        assert np.isnan(metrics[name])
    assert metrics["cdnv"] > 1e20


def test_weights_without_a_direction_are_nan(draw):
    sample = draw(3, 4)
    zero = from_features(*sample._replace(weight=np.zeros((3, 4))))
    assert np.isnan([zero[name] for name in ("nc2", "nc3", "nc2_centered")]).all()
    assert np.isfinite(zero["nc1"])
    equal = from_features(*sample._replace(weight=np.full((3, 4), 0.1)))
    assert np.isnan(equal["nc2_centered"])
    assert np.isfinite(equal["nc2"])
