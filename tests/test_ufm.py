"""The `ufm` study, trained for real, lands on the minimum that theory predicts."""

from collections.abc import Callable
from typing import Any

import pytest

from analysis.store.results import ResultStore
from analysis.theory.minima import minimum, theorem2_point
from orchestrator.plan.study import expand, load_study
from trainers.config import TrialConfig
from trainers.run.loop import run_trial

TRIALS = list(expand(load_study("ufm")).values())
PERCENT = 0.01


def name(config: TrialConfig) -> str:
    return f"{config.loss}-{config.lambda_b:g}-{config.bias_init_mean:g}"


def train(config: TrialConfig, store: ResultStore) -> dict[str, Any]:
    rows: list[Any] = []
    assert run_trial(config, rows.append, store=store)["status"] == "finished"
    return rows[-1]


def check(config: TrialConfig, store: ResultStore) -> None:
    last = train(config, store)
    n = config.batch_size / 10
    lambdas = (config.lambda_w, config.lambda_h, config.lambda_b)
    predicted = minimum(config.loss, 10, n, *lambdas)  # pyright: ignore[reportArgumentType]
    assert last["s_pos_mean_train"] == pytest.approx(predicted.s_pos, rel=PERCENT)
    assert last["s_neg_mean_train"] == pytest.approx(predicted.s_neg, rel=PERCENT)
    assert last["nc1_train"] < 1e-4
    assert last["nc2_train"] == pytest.approx(predicted.nc2, abs=0.01)
    assert last["nc2_centered_train"] < 0.01
    if config.loss == "bce":
        assert last["bias_mean"] == pytest.approx(predicted.bias, rel=PERCENT)
    elif config.lambda_b == 0:
        # The paper's point: nothing moves CE's bias. (Its start is a draw around the mean.)
        assert last["bias_mean"] == pytest.approx(config.bias_init_mean, abs=0.1)


LBFGS = [config for config in TRIALS if config.optimizer == "lbfgs"]
OTHERS = [config for config in TRIALS if config.optimizer != "lbfgs"]


@pytest.mark.parametrize("config", LBFGS, ids=name)
def test_lbfgs(config: TrialConfig, store: ResultStore) -> None:
    check(config, store)


@pytest.mark.slow
@pytest.mark.parametrize("config", OTHERS, ids=lambda c: f"{c.optimizer}-{name(c)}")
def test_sgd_and_adamw(config: TrialConfig, store: ResultStore) -> None:
    check(config, store)


def test_where_theorem_2_is_not_the_minimum_training_goes_to_the_minimum(
    store: ResultStore, tiny: Callable[..., TrialConfig]
) -> None:
    (config,) = [
        c for c in LBFGS if c.loss == "bce" and c.lambda_b == 5e-4 and c.bias_init_mean == 10
    ]
    last = train(config, store)
    point = theorem2_point(10, 16, 5e-4, 4e-4, 5e-4)
    assert last["train_objective"] < point.objective - 0.002
    assert abs(last["bias_mean"] - point.bias) > 0.9
