"""How tables name things in print, and what they say about the paper's rows beside ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pandas as pd

from analysis.paper import published
from analysis.trials.cells import Block

OPTIMIZER_NAMES = {"sgd": "SGD", "adamw": "AdamW", "lbfgs": "L-BFGS"}
LOSS_NAMES = {"ce": "CE", "bce": "BCE", "mse": "MSE"}
AUGMENT_NAMES = {"none": "no DA", "da1": "DA1", "da1+da2": "DA1+DA2"}


def optimizer_name(optimizer: str) -> str:
    """`SGD` for `sgd`; one that we don't know keeps its name."""
    return OPTIMIZER_NAMES.get(optimizer, optimizer)


def loss_name(loss: str) -> str:
    """`CE` for `ce`; one that we don't know keeps its name."""
    return LOSS_NAMES.get(loss, loss)


def reference_models(number: int, others: Iterable[Block], compared: Iterable[Block]) -> list[str]:
    """Models whose CIFAR10 rows stand in for blocks that the paper doesn't have; no row twice."""
    dataset = published.REFERENCE_DATASET
    known = (
        block.model if published.has(number, dataset, block.model) else published.REFERENCE_MODEL
        for block in others
    )
    shown = {block.model for block in compared if block.dataset == dataset}
    return [model for model in dict.fromkeys(known) if model not in shown]


def comparison_notes(compared: Sequence[Block]) -> list[str]:
    """How to read the paper's rows, and where ours depart from its recipe; none without rows."""
    if not compared:
        return []
    how = "paper: the published value, of one run; in brackets ours − paper"
    return [how, *(note for block in compared for note in _departures(block))]


def reference_note(number: int, others: Sequence[Block]) -> str:
    """Why the paper's CIFAR10 rows stand below ours."""
    names = dict.fromkeys(f"{block.dataset} {block.network}" for block in others)
    return (
        f"`paper, {published.REFERENCE_DATASET}`: the paper's Table {number} has no row like "
        f"those of {', '.join(names)}; its published values of another dataset or network, for "
        "orientation"
    )


def _departures(block: Block) -> Iterator[str]:
    found = list(_differences(block.trials, published.RECIPE))
    for optimizer, trials in block.trials.groupby("optimizer"):
        recipe = published.OPTIMIZER_RECIPES.get(str(optimizer), {})
        prefix = f"{optimizer_name(str(optimizer))} "
        found += [prefix + difference for difference in _differences(trials, recipe)]
    if found:
        yield f"{block.dataset} {block.label} departs from the paper: {', '.join(found)}"


def _differences(
    trials: pd.DataFrame, recipe: Mapping[str, published.RecipeValue]
) -> Iterator[str]:
    for name, expected in recipe.items():
        for value in trials[name].dropna().unique():
            if value != expected:
                shown = value if isinstance(value, str) else f"{value:g}"
                yield f"{name}={shown} (paper: {'all' if expected is None else expected})"
