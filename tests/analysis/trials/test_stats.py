import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.trials.stats import (
    PairedSummary,
    Summary,
    format_number,
    format_paired,
    format_summary,
    holm,
    paired_difference,
    summarize,
)


def test_summary_of_three_values() -> None:
    # Mean 2; squared deviations 1, 0, 1; sample variance 2 / (3 - 1) = 1.
    assert summarize([1.0, 2.0, 3.0]) == Summary(2.0, 1.0, 3)


def test_spread_needs_two_values() -> None:
    mean, sd, n = summarize([0.5])
    assert (mean, n) == (0.5, 1)
    assert math.isnan(sd)
    assert math.isnan(summarize([]).mean)


def test_an_undefined_value_is_not_skipped() -> None:
    assert math.isnan(summarize([1.0, math.nan]).mean)


def test_paired_difference_takes_common_seeds() -> None:
    # Differences 1 and 3: mean 2, sd sqrt(2), t = 2 / (sqrt(2) / sqrt(2)) = 2; with one degree of
    # freedom the t distribution is Cauchy's: p = 2 (1/2 - atan(2) / pi).
    mean, sd, n, p, low, high = paired_difference(
        {0: 2.0, 1: 5.0, 7: 9.0}, {0: 1.0, 1: 2.0, 8: 0.0}
    )
    assert (mean, n) == (2.0, 2)
    assert sd == pytest.approx(math.sqrt(2))
    assert p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    # Cauchy's quantile at 97.5 % is tan(0.475 pi); the error of the mean is 1.
    assert (low, high) == pytest.approx(
        (2 - math.tan(0.475 * math.pi), 2 + math.tan(0.475 * math.pi))
    )


@pytest.mark.parametrize("n", [2, 3, 7])
def test_paired_test_and_interval_are_scipys(n: int) -> None:
    bce, ce = np.random.default_rng(n).normal(size=(2, n))
    found = paired_difference(dict(enumerate(bce)), dict(enumerate(ce)))
    truth = scipy_stats.ttest_rel(bce, ce)
    interval = truth.confidence_interval(0.95)
    assert found.p == pytest.approx(truth.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_holm_by_hand() -> None:
    # Ranked 0.01, 0.02, 0.03 of three tests: 3 x 0.01; 2 x 0.02; 1 x 0.03, but never falling.
    assert holm([0.03, 0.01, math.nan, 0.02]) == pytest.approx(
        [0.04, 0.03, math.nan, 0.04], nan_ok=True
    )
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_of_one_test_changes_nothing() -> None:
    assert holm([math.nan, 0.04]) == pytest.approx([math.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize("values", [{0: 1.0}, {0: 1.0, 1: 1.0}])
def test_no_p_without_spread(values: dict[int, float]) -> None:
    found = paired_difference(values, dict.fromkeys(values, 0.0))
    assert found.mean == 1
    assert all(math.isnan(value) for value in (found.p, found.low, found.high))


def test_rounding_is_no_spread() -> None:
    # One sample of 360 more at either seed; in floating point the two differences are not equal.
    bce, ce = {0: 346 / 360, 1: 332 / 360}, {0: 345 / 360, 1: 331 / 360}
    assert bce[0] - ce[0] != bce[1] - ce[1]
    found = paired_difference(bce, ce)
    assert found.mean == pytest.approx(1 / 360)
    assert all(math.isnan(value) for value in (found.p, found.low, found.high))
    assert paired_difference(bce, {**ce, 0: 344 / 360}).p == pytest.approx(1 - 2 * _angle(3))


def _angle(t: float) -> float:
    """Of Cauchy's distribution, which Student's is with one degree of freedom, as a share of pi."""
    return math.atan(t) / math.pi


def test_format() -> None:
    assert format_summary(Summary(0.93104, 0.00201, 3), 2, percent=True) == "93.10 ± 0.20"
    assert format_summary(Summary(0.5, math.nan, 1), 2) == "0.50"
    paired = PairedSummary(0.0093, 0.1, 2, 0.1, -0.001, 0.02)
    assert format_paired(paired, 2, percent=True) == "+0.93 [-0.10, +2.00]"
    assert format_paired(paired._replace(low=math.nan), 2) == "+0.01"
    assert format_number(0.004, 2, percent=True, sign=True) == "+0.40"
    assert format_number(-0.001, 2) == "0.00"
