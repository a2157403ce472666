"""cosine.py against all N² pairs, and features whose cosines are known."""

import numpy as np
import pytest

from trainers.metrics.features import from_features


def cosine(a, b):
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / size if size else 0.0


def reference(features, labels, K):
    h = features.astype(np.float64)
    groups = [h[labels == k] for k in range(K)]
    means = [g.mean(0) for g in groups]
    within = [np.mean([cosine(a, b) for a in g for b in g]) for g in groups]
    pairs = [(k, m) for k in range(K) for m in range(k)]
    between = [np.mean([cosine(a, b) for a in groups[k] for b in groups[m]]) for k, m in pairs]
    to_mean = [cosine(a, m) for g, m in zip(groups, means, strict=True) for a in g]
    return {
        "cos_within": np.mean(within),
        "cos_between": np.mean(between),
        "cos_to_mean": np.mean(to_mean),
        "cos_means": np.mean([cosine(means[k], means[m]) for k, m in pairs]),
        "compactness": np.mean(within),
        "distinctiveness": (1 - np.mean(between)) / 2,
    }


@pytest.mark.parametrize("imbalanced", [False, True])
@pytest.mark.parametrize(("K", "D"), [(2, 1), (2, 5), (3, 2), (3, 7), (10, 4), (10, 9), (10, 16)])
@pytest.mark.parametrize("chunk", [1, 7, None])
def test_equals_all_pairs(draw, accumulate, K, D, chunk, imbalanced):
    sample = draw(K, D, imbalanced=imbalanced)
    truth = reference(sample.features, sample.labels, K)
    metrics = accumulate(sample, chunk).compute()
    assert {name: metrics[name] for name in truth} == pytest.approx(truth, rel=1e-9, abs=1e-12)


def test_two_opposite_points():
    features, labels = np.array([[1.0, 0], [3, 0], [-2, 0]]), np.array([0, 0, 1])
    metrics = from_features(features, labels, np.eye(2), np.zeros(2))
    expected = {"cos_within": 1, "cos_between": -1, "cos_to_mean": 1, "cos_means": -1}
    expected |= {"compactness": 1, "distinctiveness": 1}
    assert {name: metrics[name] for name in expected} == expected


def test_a_zero_feature_has_cosine_zero_with_everything():
    # Class 0: e1 and 0: pairs (1, 0, 0, 0) / 4; its mean is e1/2.
    features, labels = np.array([[1.0, 0], [0, 0], [0, 2]]), np.array([0, 0, 1])
    metrics = from_features(features, labels, np.eye(2), np.zeros(2))
    assert metrics["cos_within"] == pytest.approx((0.25 + 1) / 2)
    assert metrics["cos_to_mean"] == pytest.approx((1 + 0 + 1) / 3)
    assert metrics["cos_between"] == 0


def test_scaling_a_sample_changes_no_cosine_between_samples(draw):
    sample = draw(3, 5)
    scale = np.random.default_rng(0).uniform(0.1, 10, size=(len(sample.labels), 1))
    before, after = (
        from_features(s * sample.features.astype(np.float64), *sample[1:]) for s in (1, scale)
    )
    for name in ("compactness", "distinctiveness", "cos_within", "cos_between"):
        assert after[name] == pytest.approx(before[name], rel=1e-12)
