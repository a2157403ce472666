"""Where training and analysis each have a list, since neither may import the other."""

import pytest

from analysis.paper import published
from trainers.config import TrialConfig


@pytest.mark.parametrize("optimizer", published.OPTIMIZERS)
def test_a_trial_by_default_follows_the_recipe_that_tables_compare_with(optimizer: str) -> None:
    config = TrialConfig(
        dataset="cifar10", model="resnet18", loss="ce", optimizer=optimizer,
        augment="da1", regularizer="global",
    )  # fmt: skip
    row = config.row()
    recipe = {**published.RECIPE, **published.OPTIMIZER_RECIPES[optimizer]}
    assert {name: row[name] for name in recipe} == recipe
