"""Mean, spread and paired difference over seeds, and how they are printed.

The spread is everywhere the sample standard deviation (ddof = 1), and travels with its n.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t


class Summary(NamedTuple):
    """Mean and sample standard deviation (ddof = 1) of n values; `sd` is NaN below two values."""

    mean: float
    sd: float
    n: int


class PairedSummary(NamedTuple):
    """Mean and sample standard deviation of n paired differences, and the paired t-test's p.

    `p` is two-sided; NaN below two pairs and where all differences are equal.
    """

    mean: float
    sd: float
    n: int
    p: float


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
    mean, sd, n = summarize(minuend[seed] - subtrahend[seed] for seed in common)
    p = math.nan
    if n > 1 and sd > 0:
        p = 2 * float(student_t.sf(abs(mean) / (sd / math.sqrt(n)), df=n - 1))
    return PairedSummary(mean, sd, n, p)


def format_number(value: float, decimals: int, *, percent: bool = False, sign: bool = False) -> str:
    """A value as printed; with `percent` a fraction is printed in percent, without the sign %."""
    scaled = 100 * value if percent else value
    return f"{scaled:{'+' if sign else ''}z.{decimals}f}"  # z: no minus before a rounded zero


def format_summary(
    summary: Summary | PairedSummary, decimals: int, *, percent: bool = False, sign: bool = False
) -> str:
    """`mean ± sd`, or the mean alone where there is no spread."""
    mean = format_number(summary.mean, decimals, percent=percent, sign=sign)
    if math.isnan(summary.sd):
        return mean
    return f"{mean} ± {format_number(summary.sd, decimals, percent=percent)}"
