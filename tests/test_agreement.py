"""Where training and analysis each have a formula, since neither may import the other."""

import math

import pytest

from analysis.paper import published
from analysis.theory.minima import alpha_bias as of_analysis
from analysis.theory.minima import minimum, theorem2_point
from trainers.config import TrialConfig
from trainers.metrics.bias import alpha_bias as of_training


@pytest.mark.parametrize(("K", "n"), [(2, 1.0), (10, 12.8), (100, 1.28)])
@pytest.mark.parametrize("bias", [-3.0, 0.0, 0.5, 40.0])
@pytest.mark.parametrize("lambdas", [(5e-4, 5e-4, 5e-4), (1e-3, 2e-4, 0.0), (0.1, 0.3, 0.5)])
def test_alpha_of_the_bias(K: int, n: float, bias: float, lambdas: tuple) -> None:
    lambda_w, lambda_h, lambda_b = lambdas
    ours = of_training(
        bias, 7.5, num_classes=K, n=n, lambda_w=lambda_w, lambda_h=lambda_h, lambda_b=lambda_b
    )
    theirs = of_analysis(bias, K, n, lambda_w, lambda_h, lambda_b, 7.5)
    assert ours == pytest.approx(theirs, rel=1e-12, abs=1e-300)


def test_alpha_is_zero_at_theorem_2_and_not_at_the_lower_minimum() -> None:
    K, n, lambdas = 10, 12.8, (5e-4, 5e-4, 5e-4)
    point, lowest = theorem2_point(K, n, *lambdas), minimum("bce", K, n, *lambdas)
    rho = K * point.s_pos * math.sqrt(n)  # ||W||^2, where lambda_W = lambda_H
    names = ("lambda_w", "lambda_h", "lambda_b")
    alpha = of_training(
        point.bias, rho, num_classes=K, n=n, **dict(zip(names, lambdas, strict=True))
    )
    assert alpha == pytest.approx(0, abs=1e-12)
    assert lowest.objective < point.objective


@pytest.mark.parametrize("optimizer", published.OPTIMIZERS)
def test_a_trial_by_default_follows_the_recipe_that_tables_compare_with(optimizer: str) -> None:
    config = TrialConfig(
        dataset="cifar10", model="resnet18", loss="ce", optimizer=optimizer,
        augment="da1", regularizer="global",
    )  # fmt: skip
    row = config.row()
    recipe = {**published.RECIPE, **published.OPTIMIZER_RECIPES[optimizer]}
    assert {name: row[name] for name in recipe} == recipe
