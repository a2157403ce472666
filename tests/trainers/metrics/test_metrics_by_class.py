"""by_class.py against loops over samples, on both ways to add."""

import numpy as np
import pytest
import torch

from trainers.metrics import by_class

LABELS = np.array([2, 0, 2, 3, 0, 2])  # class 1 has no sample


@pytest.mark.parametrize("shape", [(6,), (6, 5)])
def test_sums_equal_a_loop(shape):
    rows = np.random.default_rng(0).normal(size=shape)
    expected = np.ones((4, *shape[1:]))
    for row, label in zip(rows, LABELS, strict=True):
        expected[label] += row
    sums = torch.ones(expected.shape, dtype=torch.float64)
    by_class.add_by_class(sums, torch.tensor(rows), torch.tensor(LABELS))
    np.testing.assert_allclose(sums, expected, rtol=1e-14)
    # What a GPU does, which has no other test where there is none.
    one_hot = by_class._one_hot(torch.tensor(LABELS), 4, torch.float64)
    np.testing.assert_allclose(1 + one_hot.T @ torch.tensor(rows), expected, rtol=1e-14)


@pytest.mark.parametrize("num_classes", [4, 7])
def test_own_scores_and_the_others_are_all_scores(num_classes):
    scores = torch.arange(6 * num_classes).reshape(6, num_classes)
    own, others = by_class.split_by_class(scores, torch.tensor(LABELS))
    for i, label in enumerate(LABELS):
        row = scores[i].tolist()
        assert own[i].tolist() == [row.pop(label)]
        assert sorted(others[i].tolist()) == row
