import numpy as np
import pandas as pd
import pytest

from analysis.trials.histograms import Histogram, pooled


def _histogram(*bins: tuple[float, float, int]) -> Histogram:
    left, right, count = np.array(bins, dtype=np.float64).T
    return Histogram(left, right, count)


def test_one_bin_is_a_uniform_distribution() -> None:
    histogram = _histogram((0.0, 2.0, 10))
    assert histogram.mean == 1.0
    assert histogram.quantile(0.25) == pytest.approx(0.5)
    assert histogram.below(np.array([-1.0, 0.5, 3.0])).tolist() == [0.0, 0.25, 1.0]
    assert not histogram.is_points


def test_bins_of_two_trials_may_overlap() -> None:
    # 3 values in [0, 1], 1 in [0, 2]: below 1 lie 3 + 1/2 of 4.
    histogram = _histogram((0.0, 1.0, 3), (0.0, 2.0, 1))
    assert histogram.below(np.array([1.0]))[0] == pytest.approx(3.5 / 4)
    assert histogram.mean == pytest.approx((3 * 0.5 + 1.0) / 4)


def test_points_are_bins_of_no_width() -> None:
    histogram = _histogram((1.0, 1.0, 1), (2.0, 2.0, 1), (6.0, 6.0, 2))
    assert histogram.is_points
    assert histogram.mean == 3.75
    assert (histogram.quantile(0.0), histogram.quantile(1.0)) == (1.0, 6.0)


def test_a_single_point_has_its_value_at_every_quantile() -> None:
    assert _histogram((2.0, 2.0, 5)).quantile(0.001) == 2.0


def test_density_keeps_the_mass() -> None:
    histogram = _histogram((0.0, 1.0, 3), (1.0, 2.0, 1))
    middle, share = histogram.density(0.0, 2.0, 4)
    assert middle.tolist() == [0.25, 0.75, 1.25, 1.75]
    assert share == pytest.approx([0.375, 0.375, 0.125, 0.125])


def test_pooled_takes_one_kind_and_no_empty_bins() -> None:
    rows = [("positive", 1.0, 2.0, 1), ("positive", 0.0, 1.0, 2), ("positive", 5.0, 6.0, 0),
            ("negative", 7.0, 8.0, 1)]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["kind", "bin_left", "bin_right", "count"])
    histogram = pooled(scores, "positive")
    assert histogram is not None
    assert histogram.left.tolist() == [0.0, 1.0]
    assert pooled(scores, "bias") is None
