import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from analysis.theory.minima import minimum, squared_norm, theorem2_holds, theorem2_point

L = 5e-4
PAPER = (10, 12.8, L, L, L)  # K, n = 128 / 10, and the lambdas of Table 1


def test_ce_at_the_papers_setting() -> None:
    # Stationary: u = q (K-1)/K is the probability of the wrong classes, s = (K-1)/K log(...).
    point = minimum("ce", *PAPER)
    q = 10 * math.sqrt(12.8) * L
    u = q * 9 / 10
    s = 9 / 10 * math.log(9 * (1 - u) / u)
    assert point.s_pos == pytest.approx(s, rel=1e-14)
    assert point.s_pos == pytest.approx(5.679, abs=5e-4)
    assert point.s_neg == pytest.approx(-0.631, abs=5e-4)
    assert point.objective == pytest.approx(-math.log(1 - u) + q * s, rel=1e-14)
    assert (point.bias, point.nc2) == (0.0, 0.0)


def test_ce_without_bias_decay_has_a_ridge_of_minima() -> None:
    assert math.isnan(minimum("ce", 10, 12.8, L, L, 0.0).bias)


def test_theorem2_at_the_papers_setting() -> None:
    point = theorem2_point(*PAPER)
    assert point[:4] == pytest.approx((0.25903, 8.794, -0.977, 4.527), abs=5e-4)
    assert point.nc2 == 0.0
    assert not theorem2_holds(point.bias, *PAPER[1:])


def test_bce_at_the_papers_setting() -> None:
    point = minimum("bce", *PAPER)
    assert point == pytest.approx((0.25650, 7.810, -2.052, 3.578, 0.344), abs=5e-4)
    assert point.bias == pytest.approx(math.sqrt(12.8))  # sqrt(n lambda_W lambda_H) / lambda_b


def test_bce_with_four_samples_a_class() -> None:
    # What L-BFGS on Eq. (3) itself, W, H and b free (K=10, n=4, d=32), ends at.
    point = minimum("bce", 10, 4, L, L, L)
    assert point == pytest.approx((0.1664394, 6.8203, -4.2126, 2.0, 0.7364201), abs=5e-5)
    assert theorem2_point(10, 4, L, L, L).objective == pytest.approx(0.1866705, abs=5e-8)


@pytest.mark.parametrize(
    ("lambda_b", "bias"),
    [(0.5, 0.004), (0.05, 0.036), (5e-3, 0.358), (5e-4, 3.578), (5e-5, 5.158), (5e-6, 5.267),
     (0.0, 5.281)],
)  # fmt: skip
def test_bias_by_its_decay(lambda_b: float, bias: float) -> None:
    assert minimum("bce", 10, 12.8, L, L, lambda_b).bias == pytest.approx(bias, abs=5e-4)


def _random_settings() -> list[tuple[int, float, float, float, float]]:
    rng = np.random.default_rng(7)
    settings = []
    for i in range(16):
        n, w, h, b = 10 ** rng.uniform((0, -5, -5, -6), (3, -1, -1, 2))
        settings.append((int(rng.integers(2, 40)), n, w, h, 0.0 if i % 4 == 0 else b))
    strong = [(10, 100.0, 0.1, 0.1, 0.1), (3, 1.0, 0.3, 0.3, 0.5), (2, 4.0, 1e-3, 1e-3, 1e-3)]
    return [*settings, *strong, (5, 100.0, 0.1, 0.1, 0.0)]


def _objective(
    setting: tuple[int, float, float, float, float], *, with_shift: bool
) -> Callable[[np.ndarray], float]:
    """The objective of (s, b, c+, c-), with c = c+ - c-, as Eq. (3) at given scores."""
    K, n, lambda_w, lambda_h, lambda_b = setting
    q = K * math.sqrt(n * lambda_w * lambda_h)

    def objective(x: np.ndarray) -> float:
        s, b, up, down = x if with_shift else (*x, 0.0, 0.0)
        t = b + up - down
        loss = np.logaddexp(0, t - s) + (K - 1) * np.logaddexp(0, -s / (K - 1) - t)
        return float(loss + q * (s + up + down) + lambda_b * K * b**2 / 2)

    return objective


def _brute_force(objective: Callable[[np.ndarray], float], size: int) -> float:
    bounds = [(0, None), (None, None), (0, None), (0, None)][:size]
    starts = ([s, b, 0.1, 0.1][:size] for s in (0.5, 8.0) for b in (0.0, 3.0))
    options: Any = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    return min(float(minimize(objective, x, bounds=bounds, options=options).fun) for x in starts)


@pytest.mark.parametrize("setting", _random_settings())
def test_bce_is_no_higher_than_brute_force(
    setting: tuple[int, float, float, float, float],
) -> None:
    for point, with_shift in ((minimum("bce", *setting), True), (theorem2_point(*setting), False)):
        objective = _objective(setting, with_shift=with_shift)
        lowest = _brute_force(objective, 4 if with_shift else 2)
        assert point.objective <= lowest + 1e-12
        assert point.objective == pytest.approx(lowest, rel=1e-6)
        s = (point.s_pos - point.s_neg) * (setting[0] - 1) / setting[0]
        shift = s - point.s_pos
        x = (s, point.bias, max(shift, 0), max(-shift, 0))[: 4 if with_shift else 2]
        assert objective(np.array(x)) == pytest.approx(point.objective, rel=1e-12)


@pytest.mark.parametrize("loss", ["ce", "bce"])
@pytest.mark.parametrize("setting", _random_settings()[:6])
def test_minimum_is_below_theorem2_and_moves_no_lower(
    loss: str, setting: tuple[int, float, float, float, float]
) -> None:
    point = minimum(loss, *setting)
    if loss == "bce":
        theorem2 = theorem2_point(*setting)
        holds = theorem2_holds(theorem2.bias, *setting[1:])
        assert (point.objective == pytest.approx(theorem2.objective, rel=1e-12)) == holds
        assert point.objective <= theorem2.objective * (1 + 1e-12)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_strong_decay_leaves_no_scores(loss: str) -> None:
    # q = 10 sqrt(100) 0.1 = 10 > 1: W = H = 0 is best; BCE keeps log 2 or less through its bias.
    point = minimum(loss, 10, 100, 0.1, 0.1, 0.0)
    assert (point.s_pos, point.s_neg) == (0.0, 0.0)
    assert math.isnan(point.nc2)
    # Without scores BCE's bias makes each class's probability 1/K: entropy of K coins.
    bce = -math.log(0.1) - 9 * math.log(0.9)
    assert point.objective == pytest.approx(math.log(10) if loss == "ce" else bce, rel=1e-12)


def test_two_classes_need_no_bias() -> None:
    assert minimum("bce", 2, 12.8, L, L, L).bias == 0.0


def test_the_norm_of_w_at_theorem_2_is_that_of_eq_13() -> None:
    K, n, *_ = PAPER
    point = theorem2_point(*PAPER)
    assert squared_norm(point, K, n, L, L) == pytest.approx(
        K * point.s_pos * math.sqrt(n), rel=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1, L, L, L), "K=1 must be a whole number of classes, at least 2"),
        ((2.5, 1, L, L, L), "K=2.5 must be a whole number"),
        ((10, 0, L, L, L), "n=0 must be positive"),
        ((10, 1, -L, L, L), "lambda_w=-0.0005 must be positive"),
        ((10, 1, L, math.nan, L), "lambda_h=nan must be positive"),
        ((10, 1, L, L, -1.0), r"lambda_b=-1.0 must be zero or positive"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimum("bce", *arguments)
    with pytest.raises(ValueError, match=message):
        theorem2_point(*arguments)


def test_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match="loss='mse' has no known minimum; use one of"):
        minimum("mse", *PAPER)


def _free_model(
    loss: str, K: int, n: int, d: int, lambdas: tuple[float, float, float]
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Eq. (3) and its gradient by W (K, d), H (d, nK) and b (K,), flattened into one vector."""
    w, h, b_ = lambdas
    labels_N = np.repeat(np.arange(K), n)
    onehot_KN = np.eye(K)[:, labels_N]
    N = n * K

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        W = x[: K * d].reshape(K, d)
        H = x[K * d : K * d + d * N].reshape(d, N)
        b = x[K * d + d * N :]
        Z = W @ H - b[:, None]
        if loss == "ce":
            top = Z.max(axis=0)
            log_sum = top + np.log(np.exp(Z - top).sum(axis=0))
            value = (log_sum - (Z * onehot_KN).sum(axis=0)).mean()
            G = (np.exp(Z - log_sum) - onehot_KN) / N
        else:
            value = (np.logaddexp(0, Z) - Z * onehot_KN).sum() / N
            G = (1 / (1 + np.exp(-Z)) - onehot_KN) / N
        value += (w * (W**2).sum() + h * (H**2).sum() + b_ * (b**2).sum()) / 2
        gradient = (G @ H.T + w * W, W.T @ G + h * H, -G.sum(axis=1) + b_ * b)
        return value, np.concatenate([part.ravel() for part in gradient])

    return objective


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_lbfgs_on_the_full_model_ends_at_the_minimum(loss: str) -> None:
    K, n, d, lambdas = 5, 3, 8, (2e-3, 1e-3, 2e-3)
    rng = np.random.default_rng(0)
    start = np.concatenate([0.3 * rng.standard_normal(K * d + d * n * K), rng.standard_normal(K)])
    options: Any = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    found = minimize(
        _free_model(loss, K, n, d, lambdas), start, jac=True, method="L-BFGS-B", options=options
    )
    W = found.x[: K * d].reshape(K, d)
    H = found.x[K * d : -K].reshape(d, n * K)
    scores_KN, positive = W @ H, np.eye(K, dtype=bool)[:, np.repeat(np.arange(K), n)]
    gram = W @ W.T
    etf = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    nc2 = np.linalg.norm(gram / np.linalg.norm(gram) - etf)
    point = minimum(loss, K, n, *lambdas)
    assert found.fun == pytest.approx(point.objective, rel=1e-9)
    assert scores_KN[positive] == pytest.approx(point.s_pos, rel=1e-3)
    assert scores_KN[~positive] == pytest.approx(point.s_neg, rel=1e-3)
    assert found.x[-K:] == pytest.approx(point.bias, abs=1e-3)
    assert nc2 == pytest.approx(point.nc2, abs=1e-3)
    assert np.sum(W**2) == pytest.approx(squared_norm(point, K, n, *lambdas[:2]), rel=1e-3)
