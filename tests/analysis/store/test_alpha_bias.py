"""Eq. (12) against its own letters, and zero where Theorem 2 says so."""

import math
from functools import partial

import pytest

from analysis.store.alpha_bias import alpha_bias
from analysis.theory.minima import minimum, squared_norm, theorem2_point

PAPER = {"lambda_w": 5e-4, "lambda_h": 5e-4, "lambda_b": 5e-4}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("K", "n"), [(2, 1.0), (10, 12.8), (100, 1.28)])
@pytest.mark.parametrize("bias", [-3.0, 0.0, 0.5, 40.0])
@pytest.mark.parametrize("lambdas", [(5e-4, 5e-4, 5e-4), (1e-3, 2e-4, 0.0), (0.1, 0.3, 0.5)])
def test_its_letters(K: int, n: float, bias: float, lambdas: tuple[float, float, float]) -> None:
    lambda_w, lambda_h, lambda_b = lambdas
    s = math.sqrt(lambda_w / (n * lambda_h)) * 7.5 / K  # Eq. (13)
    # -(K-1)/K of the pull of a negative logit, and 1/K of that of the positive one.
    pulls = -(K - 1) / K * (1 - sigmoid(bias + s / (K - 1))) + 1 / K * (1 - sigmoid(s - bias))
    found = alpha_bias(
        bias, 7.5, num_classes=K, n=n, lambda_w=lambda_w, lambda_h=lambda_h, lambda_b=lambda_b
    )
    assert found == pytest.approx(pulls + lambda_b * bias, rel=1e-9, abs=1e-15)


def test_spelled_out() -> None:
    # K=2, n=1, all lambdas 1, rho=2 gives the scores 1 and -1; at b=0 both sigmoids are equal.
    of = partial(alpha_bias, num_classes=2, n=1, lambda_w=1, lambda_h=1, lambda_b=1)
    assert of(0.0, 2.0) == pytest.approx(0.0, abs=1e-15)
    assert of(1.0, 2.0) == pytest.approx(sigmoid(0) / 2 - sigmoid(-2) / 2 + 1)


def test_zero_at_theorem_2_and_negative_below() -> None:
    point, lowest = theorem2_point(10, 12.8, **PAPER), minimum("bce", 10, 12.8, **PAPER)
    rho = squared_norm(point, 10, 12.8, 5e-4, 5e-4)
    of = partial(alpha_bias, num_classes=10, n=12.8, **PAPER)
    assert of(point.bias, rho) == pytest.approx(0.0, abs=1e-12)
    assert of(point.bias - 1, rho) < 0
    # By hand: s_pos 8.794, b 4.527; rho = K s_pos sqrt(n l_H / l_W).
    assert of(4.5267, 10 * 8.7942 * 12.8**0.5) == pytest.approx(0, abs=1e-5)
    assert lowest.objective < point.objective


def test_where_it_is_not_defined() -> None:
    assert math.isnan(alpha_bias(1.0, 2.0, num_classes=2, n=1, lambda_w=1, lambda_h=0, lambda_b=1))
    with pytest.raises(ValueError, match=r"weight_norm2=-1\.0 must be a squared norm"):
        alpha_bias(1.0, -1.0, num_classes=2, n=1, **PAPER)
