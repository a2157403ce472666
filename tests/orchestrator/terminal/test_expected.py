"""The newest result beside theory's and the paper's values."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from analysis.store.rows import TrialRow, begun
from analysis.theory.minima import minimum
from orchestrator.terminal.expected import beside_expected
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]
SCORES = {"s_pos_mean_train": 6.5, "s_neg_mean_train": -3.25, "bias_mean": 2.0}
ACCURACIES = {"accuracy_test": 0.9301, "uniform_accuracy_test": 0.9}


def finished(config: TrialConfig, *, num_train: int = 5000) -> TrialRow:
    row = begun(config.trial_id, config.row())
    return {**row, "num_train": num_train, "status": "finished"}


def test_bce_beside_the_minimum(tiny: Tiny) -> None:
    trial = finished(tiny(batch_size=100))
    point = minimum("bce", 10, 10, 5e-4, 5e-4, 5e-4)
    assert beside_expected(trial, SCORES) == (
        f"s_pos 6.50 (theory {point.s_pos:.2f}), s_neg -3.25 (theory {point.s_neg:.2f}), "
        f"bias 2.00 (theory {point.bias:.2f})"
    )


def test_a_batch_holds_no_more_than_there_is(tiny: Tiny) -> None:
    # Of 60 images, batches of 100 have 60: n = 6.
    trial = finished(tiny(batch_size=100), num_train=60)
    assert f"theory {minimum('bce', 10, 6, 5e-4, 5e-4, 5e-4).s_pos:.2f}" in beside_expected(
        trial, SCORES
    )


@pytest.mark.parametrize("lambda_b", [0, 5e-4])
def test_nothing_is_predicted_for_the_bias_of_ce(tiny: Tiny, lambda_b: float) -> None:
    line = beside_expected(finished(tiny(loss="ce", lambda_b=lambda_b)), SCORES)
    assert line.count("theory") == 2
    assert line.endswith(", bias 2.00")


def test_accuracy_beside_the_papers(tiny: Tiny) -> None:
    fields = {"dataset": "cifar10", "regularizer": "global", "augment": "da1", "model_kwargs": {}}
    config = tiny(**fields, samples_per_class=None)
    assert beside_expected(finished(config), ACCURACIES) == (
        "accuracy_test 93.01% (paper 93.22%), uniform_accuracy_test 90.00% (paper 91.92%)"
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": "digits", "model_kwargs": {}},
        {"dataset": "cifar10", "model_kwargs": {"channels": [4, 4, 8, 8]}},
    ],
)
def test_what_the_paper_does_not_have_stands_alone(tiny: Tiny, fields: dict[str, Any]) -> None:
    config = tiny(**fields, regularizer="global", augment="da1")
    expected = "accuracy_test 93.01%, uniform_accuracy_test 90.00%"
    assert beside_expected(finished(config), ACCURACIES) == expected


def test_values_that_a_trial_does_not_have_are_left_out(tiny: Tiny) -> None:
    trial = finished(tiny(regularizer="global"))
    assert beside_expected(trial, {"accuracy_test": math.nan}) == ""
    assert beside_expected(finished(tiny()), {"s_pos_mean_train": 1.0}).count(",") == 0
