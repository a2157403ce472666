"""The paper's published numbers, from `published/table*.csv`.

Fractions are fractions here, as everywhere but in print; the files keep the paper's percent.
"""

import csv
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

OPTIMIZERS = ("sgd", "adamw")
LOSSES = ("ce", "bce")
AUGMENTS = ("none", "da1", "da1+da2")
REFERENCE_DATASET = "cifar10"  # shown beside datasets that the paper doesn't have
REFERENCE_MODEL = "resnet18"
LAMBDA = 5e-4  # Table 1: lambda_W = lambda_H = lambda_b
RecipeValue = float | str | None
# What the paper's runs have in common; a trial that departs from it gets a note beside its row.
RECIPE: Mapping[str, RecipeValue] = {
    "epochs": 100,
    "passes_per_epoch": 1,
    "batch_size": 128,
    "image_size": 32,
    "samples_per_class": None,
    "imbalance": None,
    "warmup_epochs": 0,
    "rotation": 0,
}
# What it has by optimizer; the weight decay is that of Tables 2 and 3.
OPTIMIZER_RECIPES: Mapping[str, Mapping[str, RecipeValue]] = {
    "sgd": {"lr": 0.01, "schedule": "step", "momentum": 0.9, "weight_decay": 5e-4},
    "adamw": {"lr": 0.001, "schedule": "cosine", "weight_decay": 0.05},
}
_PERCENT = frozenset(("accuracy", "uniform_accuracy"))


class Published(NamedTuple):
    """A printed value of one run; `spread` is over samples (or biases), NaN where none is given."""

    mean: float
    spread: float


class Key(NamedTuple):
    """Which number it is; Table 1 is without augmentation."""

    dataset: str
    model: str
    optimizer: str
    augment: str
    loss: str
    metric: str


@cache
def numbers(number: int) -> Mapping[Key, Published]:
    """All numbers of one of the paper's tables (1, 2 or 3)."""
    text = files("analysis.paper").joinpath(f"table{number}.csv").read_text("utf-8")
    return dict(map(_entry, csv.DictReader(text.splitlines())))


def _entry(row: dict[str, str]) -> tuple[Key, Published]:
    scale = 100 if row["metric"] in _PERCENT else 1
    key = Key(**{"augment": "none", **{name: row[name] for name in Key._fields if name in row}})
    return key, Published(float(row["mean"]) / scale, float(row.get("std") or math.nan))


def has(number: int, dataset: str, model: str) -> bool:
    """Whether a table has rows of this dataset and model."""
    return any((key.dataset, key.model) == (dataset, model) for key in numbers(number))
