"""Schedules at the epochs that the paper names, and what decay touches."""

from collections.abc import Callable

import pytest
import torch

from trainers.config import TrialConfig
from trainers.optim import build_optimizer, learning_rate

Tiny = Callable[..., TrialConfig]


def test_step_drops_at_30_60_80_of_100(tiny: Tiny) -> None:
    config = tiny(epochs=100)
    rates = [learning_rate(config, epoch) for epoch in range(1, 101)]
    assert rates[:30] == [0.01] * 30
    assert rates[30:60] == pytest.approx([0.002] * 30)
    assert rates[60:80] == pytest.approx([0.0004] * 20)
    assert rates[80:] == pytest.approx([0.00008] * 20)


def test_cosine_starts_at_lr_and_ends_at_1e_5(tiny: Tiny) -> None:
    config = tiny(optimizer="adamw", epochs=101)
    assert learning_rate(config, 1) == 0.001
    assert learning_rate(config, 51) == pytest.approx((0.001 + 1e-5) / 2)
    assert learning_rate(config, 101) == pytest.approx(1e-5)
    assert learning_rate(tiny(optimizer="adamw", epochs=1), 1) == 0.001


def test_constant(tiny: Tiny) -> None:
    assert learning_rate(tiny(schedule="constant", lr=0.3), 3) == 0.3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("regularizer", ["features", "global"])
def test_decay_touches_all_parameters_or_none(tiny: Tiny, optimizer: str, regularizer: str) -> None:
    config = tiny(optimizer=optimizer, regularizer=regularizer)
    parameters = [torch.ones(3), torch.ones(2, 2)]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(config, parameters).step()
    decayed = [bool((p < 1).all()) for p in parameters]
    assert decayed == [regularizer == "global"] * 2
