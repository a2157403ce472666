"""Minima of Eq. (3), the unconstrained features model, on balanced classes.

Pure functions of (K, n, lambdas); `analysis.theory` sets their values beside measured ones.

With q = K sqrt(n lambda_W lambda_H), minimising Eq. (3) over W and H at given scores leaves three
numbers: s >= 0, the size of the simplex ETF; c, a shift of all scores by a mean that the rows of W
and the features share; and the bias b. The scores are s - c (positive) and -s/(K-1) - c (negative),
the logits s - t and -s/(K-1) - t with t = b + c, and the objective is

    loss(s, t) + q s + q |c| + lambda_b K b^2 / 2.

Paper: Theorem 2 takes c = 0. Its point is the minimum only where lambda_b b <= sqrt(n lambda_W
lambda_H); beyond that, a shift of the scores is cheaper than a larger bias.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import expit, logit

from analysis.paper import published

_TINY = 1e-300  # keeps logit finite at the ends of a bracket
_RTOL = 4 * 2.0**-52  # the least that brentq accepts


class Minimum(NamedTuple):
    """A point of Eq. (3): objective in nat, scores without bias, bias with z = Wh - b, nc2 of W."""

    objective: float
    s_pos: float
    s_neg: float
    bias: float
    nc2: float


def minimum(
    loss: str, K: int, n: float, lambda_w: float, lambda_h: float, lambda_b: float
) -> Minimum:
    """The global minimum of Eq. (3), over W (K, d), H (d, nK) and b (K,) with d >= K.

    Args: "ce" or "bce"; number of classes; samples of a class that share one loss (batch_size / K
        in training, so it may be fractional); the factors of the three norms.
    Returns: the minimum; `bias` is NaN for CE with lambda_b = 0, where any value is as good; `nc2`
        is NaN where W = 0.
    Raises: ValueError naming the argument out of range.
    Source: Theorem 1 for CE; for BCE the module docstring, which corrects Theorem 2.
    """
    if loss not in published.LOSSES:
        raise ValueError(f"loss={loss!r} has no known minimum; use one of {published.LOSSES}")
    q = _cost_of_scores(K, n, lambda_w, lambda_h, lambda_b)
    if loss == "ce":
        return _minimum_ce(K, q, lambda_b)
    kappa = lambda_b * K  # slope of the bias' cost
    s, t = _stationary_bce(K, q, kappa, ceiling=q)
    bias = min(t, q / kappa) if kappa > 0 else t
    return _point_bce(K, q, kappa, s=s, bias=bias, shift=t - bias)


def theorem2_point(K: int, n: float, lambda_w: float, lambda_h: float, lambda_b: float) -> Minimum:
    """The point that the paper's Theorem 2 calls the minimum of BCE: c = 0, bias by Eq. (12).

    Args, raises: as for `minimum`. Its `nc2` is 0, or NaN where W = 0.
    """
    q = _cost_of_scores(K, n, lambda_w, lambda_h, lambda_b)
    kappa = lambda_b * K
    # Unclipped: at its root the slope is (K-1) r - p, which stays below this ceiling.
    s, t = _stationary_bce(K, q, kappa, ceiling=(K - 1) * q)
    return _point_bce(K, q, kappa, s=s, bias=t, shift=0.0)


def squared_norm(point: Minimum, K: int, n: float, lambda_w: float, lambda_h: float) -> float:
    """||W||_F^2 at a minimum: the trace of WW' there, rho of Eqs. (12, 13)."""
    s = (point.s_pos - point.s_neg) * (K - 1) / K
    shift = s - point.s_pos
    return K * (s + abs(shift)) * math.sqrt(n * lambda_h / lambda_w)


def theorem2_holds(
    bias: float, n: float, lambda_w: float, lambda_h: float, lambda_b: float
) -> bool:
    """Whether Theorem 2's point, of this bias, is the minimum of Eq. (3)."""
    return lambda_b * bias <= math.sqrt(n * lambda_w * lambda_h)


def _cost_of_scores(K: int, n: float, lambda_w: float, lambda_h: float, lambda_b: float) -> float:
    """Check the arguments and return q, the objective's price of one unit of s."""
    if not (isinstance(K, Real) and float(K).is_integer() and K >= 2):
        raise ValueError(f"K={K} must be a whole number of classes, at least 2")
    for name, value in (("n", n), ("lambda_w", lambda_w), ("lambda_h", lambda_h)):
        if not 0 < value < math.inf:  # also refuses NaN
            raise ValueError(
                f"{name}={value} must be positive and finite: there is no minimum else"
            )
    if not 0 <= lambda_b < math.inf:
        raise ValueError(f"lambda_b={lambda_b} must be zero or positive, and finite")
    return K * math.sqrt(n * lambda_w * lambda_h)


def _minimum_ce(K: int, q: float, lambda_b: float) -> Minimum:
    s = 0.0
    if q < 1:  # else features cost more than they can save
        u = q * (K - 1) / K  # probability of the wrong classes, where the s-derivative vanishes
        s = (math.log(K - 1) - float(logit(u))) * (K - 1) / K
    loss = _softplus(math.log(K - 1) - s * K / (K - 1))
    bias = 0.0 if lambda_b > 0 else math.nan
    return Minimum(loss + q * s, s, 0.0 - s / (K - 1), bias, _nc2(K, s, 0.0))


def _stationary_bce(K: int, q: float, kappa: float, *, ceiling: float) -> tuple[float, float]:
    """(s, t) that minimises the BCE objective, where t costs kappa t, at most `ceiling`, a unit.

    With p = 1 - sigmoid(positive logit) and r = sigmoid(negative logit), the derivatives by s and t
    vanish where p + r = q and p - (K-1) r + slope(t) = 0, which leaves one increasing equation in
    t. It is negative at t = 0 and positive at the root of slope = 0, so that brackets the root.
    """

    def slope(t: float) -> float:
        return min(kappa * t, ceiling)

    if q >= 1:  # p + r = 1 at s = 0: there the s-derivative is q - 1, so s stays at its bound
        return 0.0, _root(lambda t: expit(t) - (K - 1) * expit(-t) + slope(t), math.log(K - 1))

    def logit_p(t: float) -> float:
        return float(logit(max(((K - 1) * q - slope(t)) / K, _TINY)))

    def logit_r(t: float) -> float:
        return float(logit((q + slope(t)) / K))

    free = (float(logit((K - 1) * q / K)) - (K - 1) * float(logit(q / K))) / K
    t = _root(lambda t: K * t - logit_p(t) + (K - 1) * logit_r(t), free)
    return -(K - 1) * (t + logit_r(t)), t  # from r: p cancels where kappa is large


def _root(function: Callable[[float], float], upper: float) -> float:
    """Root of an increasing function on [0, upper], where it may lie on either end (K = 2, say)."""
    if function(0.0) >= 0:
        return 0.0
    if function(upper) <= 0:  # by rounding: `upper` itself is the root
        return upper
    return float(brentq(function, 0.0, upper, xtol=_TINY, rtol=_RTOL, maxiter=1000))


def _point_bce(K: int, q: float, kappa: float, *, s: float, bias: float, shift: float) -> Minimum:
    s_pos, s_neg = s - shift, 0.0 - s / (K - 1) - shift  # 0.0 -: no minus zero
    loss = _softplus(bias - s_pos) + (K - 1) * _softplus(s_neg - bias)
    objective = loss + q * (s + abs(shift)) + kappa * bias**2 / 2
    return Minimum(objective, s_pos, s_neg, bias, _nc2(K, s, shift))


def _nc2(K: int, s: float, shift: float) -> float:
    """nc2 of WW' ~ s K/(K-1) (I - 11'/K) + |c| 11', whose norms are those of its eigenvalues.

    WW' and the ETF's Gram matrix, both of norm 1, lie at an angle with the tangent below; their
    distance is the chord, 2 sin(angle / 2), which loses no digits near 0.
    """
    etf, mean = s * K / math.sqrt(K - 1), abs(shift) * K
    return 2 * math.sin(math.atan2(mean, etf) / 2) if etf or mean else math.nan


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
