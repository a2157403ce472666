import math

import pytest

from analysis.stats import (
    Summary,
    format_number,
    format_summary,
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
    mean, sd, n, p = paired_difference({0: 2.0, 1: 5.0, 7: 9.0}, {0: 1.0, 1: 2.0, 8: 0.0})
    assert (mean, n) == (2.0, 2)
    assert sd == pytest.approx(math.sqrt(2))
    assert p == pytest.approx(1 - 2 * math.atan(2) / math.pi)


@pytest.mark.parametrize("values", [{0: 1.0}, {0: 1.0, 1: 1.0}])
def test_no_p_without_spread(values: dict[int, float]) -> None:
    assert math.isnan(paired_difference(values, dict.fromkeys(values, 0.0)).p)


def test_format() -> None:
    assert format_summary(Summary(0.93104, 0.00201, 3), 2, percent=True) == "93.10 ± 0.20"
    assert format_summary(Summary(0.5, math.nan, 1), 2) == "0.50"
    assert format_number(0.004, 2, percent=True, sign=True) == "+0.40"
    assert format_number(-0.001, 2) == "0.00"
