"""Mean, spread and paired difference over seeds, their tests, and how they are printed.

The spread is everywhere the sample standard deviation (ddof = 1), and travels with its n.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_rel

CONFIDENCE = 0.95
# Of the largest value: what rounding alone makes of equal differences, like 0.9-0.8 and 0.8-0.7.
_ROUNDING = 32 * np.finfo(np.float64).eps


class Summary(NamedTuple):
    """Mean and sample standard deviation (ddof = 1) of n values; `sd` is NaN below two values."""

    mean: float
    sd: float
    n: int


class PairedSummary(NamedTuple):
    """Mean and sample standard deviation of n paired differences, and the paired t-test's p.

    `p` is two-sided, and from `low` to `high` is Student's 95 % confidence interval of the mean;
    all NaN below two pairs and where all differences are equal but for rounding.
    """

    mean: float
    sd: float
    n: int
    p: float
    low: float
    high: float


def summarize(values: Iterable[float]) -> Summary:
    """The summary of some values; NaN in, NaN out, so that an undefined value isn't skipped."""
    array_N = np.fromiter(values, dtype=np.float64)
    if len(array_N) == 0:
        return Summary(math.nan, math.nan, 0)
    sd = float(np.std(array_N, ddof=1)) if len(array_N) > 1 else math.nan
    return Summary(float(np.mean(array_N)), sd, len(array_N))


def paired_difference(
    minuend: Mapping[int, float], subtrahend: Mapping[int, float]
) -> PairedSummary:
    """The summary of minuend - subtrahend over the seeds (the keys) that both have."""
    common = sorted(minuend.keys() & subtrahend.keys())
    pairs_2N = np.array([[side[seed] for seed in common] for side in (minuend, subtrahend)])
    mean, sd, n = summarize(pairs_2N[0] - pairs_2N[1])
    if not (n > 1 and sd > _ROUNDING * np.abs(pairs_2N).max()):
        return PairedSummary(mean, sd, n, math.nan, math.nan, math.nan)
    test = ttest_rel(*pairs_2N)
    low, high = test.confidence_interval(CONFIDENCE)
    return PairedSummary(mean, sd, n, float(test.pvalue), float(low), float(high))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down (1979); NaN stays, and isn't counted.

    So corrected, the chance of any false positive among them all is at most the level.
    """
    corrected = [math.nan] * len(ps)
    ranked = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    highest = 0.0
    for rank, (p, i) in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p))
        corrected[i] = highest
    return corrected


def format_number(value: float, decimals: int, *, percent: bool = False, sign: bool = False) -> str:
    """A value as printed; with `percent` a fraction is printed in percent, without the sign %."""
    scaled = 100 * value if percent else value
    return f"{scaled:{'+' if sign else ''}z.{decimals}f}"  # z: no minus before a rounded zero


def format_summary(summary: Summary, decimals: int, *, percent: bool = False) -> str:
    """`mean ± sd`, or the mean alone where there is no spread."""
    mean = format_number(summary.mean, decimals, percent=percent)
    if math.isnan(summary.sd):
        return mean
    return f"{mean} ± {format_number(summary.sd, decimals, percent=percent)}"


def format_paired(paired: PairedSummary, decimals: int, *, percent: bool = False) -> str:
    """`mean [low, high]`, all with a sign, or the mean alone where there is no interval."""
    mean, low, high = (
        format_number(value, decimals, percent=percent, sign=True)
        for value in (paired.mean, paired.low, paired.high)
    )
    return mean if math.isnan(paired.low) else f"{mean} [{low}, {high}]"
