"""features.py: arrays of any kind in, the accumulator's numbers out, and refusals."""

import math

import numpy as np
import pytest
import torch

from trainers.metrics import features as door
from trainers.metrics.features import from_features


@pytest.mark.parametrize("numbers_in_a_chunk", [1, 7 * 8, 2**21])
def test_chunks_change_nothing(draw, accumulate, monkeypatch, numbers_in_a_chunk):
    sample = draw(5, 8)
    monkeypatch.setattr(door, "_CHUNK_NUMBERS", numbers_in_a_chunk)
    means = accumulate(sample).class_means
    expected = accumulate(sample, class_means=means).compute()
    assert from_features(*sample) == pytest.approx(expected, rel=1e-11, abs=1e-12)


def test_numpy_and_torch_agree(draw):
    sample = draw(5, 8)
    assert from_features(*sample) == from_features(*sample.tensors())


def test_any_array_that_numpy_can_read(draw, tmp_path):
    sample = draw(5, 8)
    expected = from_features(*sample)
    np.save(tmp_path / "h.npy", sample.features)
    mapped = np.load(tmp_path / "h.npy", mmap_mode="r")  # read-only: torch would warn
    assert from_features(mapped, *sample[1:]) == expected
    flipped = np.ascontiguousarray(sample.features[::-1])[::-1]  # torch refuses negative strides
    assert from_features(flipped, *sample[1:]) == expected
    assert from_features(sample.features.astype(">f4"), *sample[1:]) == expected
    for kind in (np.int32, np.uint8):
        labels = sample.labels.astype(kind)
        assert from_features(sample.features, labels, *sample[2:]) == expected


def test_parameters_with_gradients(draw):
    sample = draw(5, 8)
    h, y, W, b = sample.tensors()
    assert from_features(h, y, W.requires_grad_(), b.requires_grad_()) == from_features(*sample)


def test_the_bias_is_subtracted():
    features, labels = np.array([[1.0, 0], [0, 1]]), np.array([0, 1])
    assert from_features(features, labels, np.eye(2), np.array([0, 5]))["accuracy"] == 0.5
    metrics = from_features(features, labels, np.eye(2), np.array([0.25, 0.25]))
    assert metrics["uniform_threshold"] == -0.25
    assert metrics["bias_mean"] == 0.25


def test_a_missing_class_makes_nc4_nan(draw):
    sample = draw(3, 4)
    labels = np.where(sample.labels == 2, 1, sample.labels)
    assert math.isnan(from_features(sample.features, labels, *sample[2:])["nc4"])


def test_num_classes_is_checked(draw):
    sample = draw(3, 4)
    assert from_features(*sample, num_classes=3) == from_features(*sample)
    with pytest.raises(ValueError, match="num_classes=4, but weight has 3 rows; leave num_classes"):
        from_features(*sample, num_classes=4)


H, Y, W, B = np.ones((6, 4)), np.arange(6) % 3, np.ones((3, 4)), np.ones(3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((H[0], Y, W, B), r"features \(4,\).*give features \(N, D\)"),
        ((H, Y[:, None], W, B), r"labels \(6, 1\).*give features"),
        ((H, Y, W, B[:2]), r"bias \(2,\), which do not go together"),
        ((H, Y[:5], W, B), r"labels \(5,\).*do not go together"),
        ((H[:, :3], Y, W, B), r"features \(6, 3\).*do not go together"),
        ((H[:0], Y[:0], W, B), r"features \(0, 4\).*at least one sample"),
        ((H, Y * 0, W[:1], B[:1]), r"weight \(1, 4\).*at least 2 classes"),
        ((H, Y + 1, W, B), r"labels range from 1 to 3, but weight has 3 rows, so 0\.\.2"),
        ((H, Y - 1, W, B), r"labels range from -1 to 1"),
        ((H, Y.astype(float), W, B), r"labels are float64; give integer class ids 0\.\.2"),
        ((H, torch.tensor(Y == 0), W, B), r"labels are bool; give integer"),
    ],
)
def test_refusals_name_what_was_received_and_what_to_do(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_features(*arrays)
