"""Eq. (3) itself, minimised numerically: W, H and b are free, and no symmetry of W is assumed.

Gives the minimum where `minima` has no formula (few features), and checks the formula:

    python -m analysis.theory.numeric
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax
from threadpoolctl import threadpool_limits

from analysis.theory.minima import Minimum, minimum, theorem2_point

Array = NDArray[np.float64]
_STARTS = 4  # few features have local minima; the lowest of these is taken
_OPTIONS: Any = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}


@cache
def numeric_minimum(
    loss: str, K: int, n: float, lambda_w: float, lambda_h: float, lambda_b: float, d: int
) -> Minimum:
    """The lowest point of Eq. (3) that L-BFGS finds from seeded starts, for d features.

    One feature vector a class, of weight n, loses nothing: at given W and b Eq. (3) is a sum over
    samples of one strictly convex function of h_i per class, so all its samples share a minimiser.
    Returns: means over samples and classes; any d >= 1, but the start decides which minimum. NaN
    where no descent comes to its end.
    """
    labels_N = np.arange(K)
    rng = np.random.default_rng(0)
    objective = _objective(loss, labels_N, n, (lambda_w, lambda_h, lambda_b), d)
    with threadpool_limits(1, "blas"):  # such small matrices are faster on one core
        found = [_descend(objective, rng, K * d + d * K + K, K) for _ in range(_STARTS)]
    return _point(min(found, key=lambda pair: pair[0]), labels_N, K, d)


def all_samples_minimum(
    loss: str, K: int, n: int, lambdas: tuple[float, float, float], d: int
) -> Minimum:
    """As `numeric_minimum`, with each of the n K samples' features free, from one seeded start."""
    labels_N = np.repeat(np.arange(K), n)
    objective = _objective(loss, labels_N, 1.0, lambdas, d)
    found = _descend(objective, np.random.default_rng(0), K * d + d * n * K + K, K)
    return _point(found, labels_N, K, d)


def _objective(
    loss: str,
    labels_N: NDArray[np.int64],
    weight: float,
    lambdas: tuple[float, float, float],
    d: int,
) -> Callable[[Array], tuple[float, Array]]:
    """Eq. (3) and its gradient, of W (K, d), H (d, N) and b (K,) in one vector."""
    lambda_w, lambda_h, lambda_b = lambdas
    N, K = len(labels_N), int(labels_N.max()) + 1
    onehot_KN = np.eye(K)[:, labels_N]

    def value_and_gradient(x: Array) -> tuple[float, Array]:
        W, H, b = _parts(x, K, d)
        Z = W @ H - b[:, None]
        if loss == "ce":
            value = -(log_softmax(Z, axis=0) * onehot_KN).sum() / N
            G = (softmax(Z, axis=0) - onehot_KN) / N
        else:
            value = (np.logaddexp(0, Z) - Z * onehot_KN).sum() / N
            G = (expit(Z) - onehot_KN) / N
        norms = lambda_w * (W**2).sum() + weight * lambda_h * (H**2).sum() + lambda_b * b @ b
        parts = (G @ H.T + lambda_w * W, W.T @ G + weight * lambda_h * H, lambda_b * b - G.sum(1))
        return float(value + norms / 2), np.concatenate([part.ravel() for part in parts])

    return value_and_gradient


def _parts(x: Array, K: int, d: int) -> tuple[Array, Array, Array]:
    return x[: K * d].reshape(K, d), x[K * d : -K].reshape(d, -1), x[-K:]


def _descend(
    objective: Callable[[Array], tuple[float, Array]], rng: np.random.Generator, size: int, K: int
) -> tuple[float, Array]:
    start = 0.3 * rng.standard_normal(size)
    start[-K:] = 0.0  # without decay CE's bias stays at its start's mean
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=_OPTIONS)
    if found.status == 1:  # out of iterations: no minimum, and worse than any
        return math.inf, np.full_like(start, math.nan)
    return float(found.fun), found.x


def _point(found: tuple[float, Array], labels_N: NDArray[np.int64], K: int, d: int) -> Minimum:
    W, H, b = _parts(found[1], K, d)
    if math.isinf(found[0]):
        return Minimum(*[math.nan] * len(Minimum._fields))
    scores_KN, positive_KN = W @ H, np.eye(K, dtype=bool)[:, labels_N]
    gram = W @ W.T
    etf = (np.eye(K) - 1 / K) / np.sqrt(K - 1)
    norm = np.linalg.norm(gram)
    nc2 = float(np.linalg.norm(gram / norm - etf)) if norm > 1e-12 else float("nan")
    s_pos, s_neg = scores_KN[positive_KN].mean(), scores_KN[~positive_KN].mean()
    return Minimum(found[0], float(s_pos), float(s_neg), float(b.mean()), nc2)


def report() -> str:
    """L-BFGS beside both formulas, at K=10, n=4, d=32 and all lambdas 5e-4 (BCE)."""
    K, n, lambdas = 10, 4, (5e-4, 5e-4, 5e-4)
    rows = {
        "L-BFGS on Eq. (3)": all_samples_minimum("bce", K, n, lambdas, 32),
        "minimum, formula": minimum("bce", K, n, *lambdas),
        "Theorem 2's point": theorem2_point(K, n, *lambdas),
    }
    lines = [f"{'':18}" + "".join(f"{name:>11}" for name in Minimum._fields)]
    for name, point in rows.items():
        lines.append(f"{name:18}" + "".join(f"{value:11.4f}" for value in point))
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
