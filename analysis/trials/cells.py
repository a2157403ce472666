"""Which trials share a cell of a table: all that differ in nothing but their seed.

Divides trials into blocks (dataset, model, variant), of which tables take cells and figures take
curves.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.paper import published
from analysis.store.errors import ResultsError
from analysis.store.schema import CONFIG_FIELDS
from analysis.trials.measured import FINISHED

UFM = "ufm"  # the unconstrained features model: no network, so it is in no table of the paper

_BLOCK_FIELDS = ("dataset", "model", "model_kwargs")
# The recipe gives these by optimizer, so they are no variants unless one optimizer has several.
_RECIPE_FIELDS = frozenset(
    (
        "lr",
        "momentum",
        "optimizer_kwargs",
        "schedule",
        "warmup_epochs",
        "weight_decay",
        "epochs",
        "passes_per_epoch",
        "eval_every",
        "eval_dense",
    )
)
_NEVER_VARIANT = frozenset(("seed", *_BLOCK_FIELDS))


def network_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Those that train a network, as all of the paper's tables do."""
    return trials[trials["model"] != UFM]


def collapse_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of Table 1 and Fig. 2: Eq. (3)'s regulariser, no augmentation, bias from zero."""
    trials = network_trials(trials)
    return trials[
        (trials["regularizer"] == "features")
        & (trials["augment"] == "none")
        & (trials["bias_init_mean"] == 0)
    ]


def theory_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that `minima` predicts: plain CE or BCE with all of Eq. (3)'s regulariser."""
    return trials[
        (trials["regularizer"] == "features")
        & (trials["augment"] == "none")
        & trials["imbalance"].isna()
        & trials["loss"].isin(published.LOSSES)
        & trials["loss_kwargs"].map(lambda text: not parse_kwargs(text)).astype(bool)
        & (trials["lambda_w"] > 0)
        & (trials["lambda_h"] > 0)
        & (trials["lambda_b"] >= 0)
    ]


def classification_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of Tables 2 and 3: one weight decay on all parameters."""
    return network_trials(trials[trials["regularizer"] == "global"])


@dataclass(frozen=True, eq=False)
class Block:
    """Trials of one dataset, model and variant; of each cell's trials the seed alone differs."""

    dataset: str
    model: str
    model_kwargs: Mapping[str, object]
    variant: str  # the fields that set it apart from its siblings, like `lr=0.1`; mostly empty
    trials: pd.DataFrame

    @property
    def network(self) -> str:
        """The model and its keyword arguments, like `resnet18 channels=16,32,64,128`."""
        kwargs = [f"{key}={config_text(value)}" for key, value in sorted(self.model_kwargs.items())]
        return " ".join([self.model, *kwargs])

    @property
    def label(self) -> str:
        """The network, and the variant where there are several."""
        return f"{self.network} ({self.variant})" if self.variant else self.network

    def seeds_text(self, fields: Sequence[str]) -> str:
        """How many seeds the cells hold, and how many planned trials aren't finished."""
        sizes = sorted({cell.finished for _, cell in self.cells(fields)})
        n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        missing = int((self.trials["status"] != FINISHED).sum())
        seeds = f"n={n} seed{'s' * (n != '1')}"
        trials = f"{missing} planned trial{'s' * (missing != 1)} not finished"
        return f"{seeds} ({trials})" if missing else seeds

    def cell(self, **config: object) -> "Cell":
        """The cell of the trials with these config values, like `optimizer="sgd", loss="ce"`.

        Raises: ResultsError if two of its trials have the same seed.
        """
        chosen = np.ones(len(self.trials), dtype=bool)
        for field, value in config.items():
            chosen &= (self.trials[field] == value).to_numpy()
        return as_cell(self.trials[chosen])

    def cells(self, fields: Sequence[str]) -> "Iterator[tuple[dict[str, Any], Cell]]":
        """All cells that have trials, each with the values of `fields` that name it, sorted."""
        for values, rows in self.trials.groupby(list(fields), dropna=False, sort=True):
            yield dict(zip(fields, values, strict=True)), as_cell(rows)


@dataclass(frozen=True, eq=False)
class Cell:
    """Trials that differ in their seed alone; some may not be finished."""

    trials: pd.DataFrame

    @property
    def planned(self) -> int:
        """How many trials belong here, finished or not."""
        return len(self.trials)

    @property
    def finished(self) -> int:
        """How many of them are finished."""
        return int((self.trials["status"] == FINISHED).sum())

    @property
    def trial_ids(self) -> tuple[str, ...]:
        """Ids of its trials, by seed."""
        return tuple(self.trials["trial_id"])

    @property
    def is_complete(self) -> bool:
        """Whether there is something to average, and nothing missing from it."""
        return self.finished == self.planned > 0

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric of each finished trial; NaN where the trial has none."""
        done = self.trials[self.trials["status"] == FINISHED]
        return dict(zip(done["seed"].astype(int), done[metric].astype(float), strict=True))


def as_cell(trials: pd.DataFrame) -> Cell:
    """The cell of trials that differ in their seed alone.

    Raises: ResultsError if two of them have the same seed.
    """
    rows = trials.sort_values("seed")
    twins = rows[rows["seed"].duplicated(keep=False)]
    if len(twins):
        raise ResultsError(
            f"trials {', '.join(twins['trial_id'])} have the same configuration and seed; "
            "delete all but one of them from the results"
        )
    return Cell(rows)


def blocks(trials: pd.DataFrame, cell_fields: Sequence[str]) -> Iterator[Block]:
    """Divide trials by dataset, model and variant, sorted; `cell_fields` name a cell in a block."""
    for key, group in trials.groupby(list(_BLOCK_FIELDS), dropna=False, sort=True):
        dataset, model, kwargs = key
        for variant, rows in _variants(group, cell_fields):
            yield Block(str(dataset), str(model), parse_kwargs(kwargs), variant, rows)


def parse_kwargs(text: object) -> dict[str, object]:
    """Keyword arguments from their JSON text; null is none of them. Raises ResultsError."""
    if not isinstance(text, str) or not text:
        return {}
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ResultsError(f"keyword arguments {text!r} of a trial are no JSON object") from error


def _variants(
    group: pd.DataFrame, cell_fields: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    fields = [name for name in _candidates(cell_fields) if _differs(group, name, cell_fields)]
    if not fields:
        yield "", group
        return
    for values, rows in group.groupby(fields, dropna=False, sort=True):
        pairs = zip(fields, values, strict=True)
        yield ", ".join(f"{name}={config_text(value)}" for name, value in pairs), rows


def setting_apart(trials: pd.DataFrame) -> list[str]:
    """The fields besides the seed in which these trials differ."""
    names = (field.name for field in CONFIG_FIELDS if field.name != "seed")
    return [name for name in names if len(trials[[name]].drop_duplicates()) > 1]


def _candidates(cell_fields: Sequence[str]) -> list[str]:
    names = [field.name for field in CONFIG_FIELDS]
    return [name for name in names if name not in _NEVER_VARIANT and name not in cell_fields]


def _differs(group: pd.DataFrame, name: str, cell_fields: Sequence[str]) -> bool:
    """Whether a field sets trials apart that would stand in one row otherwise."""
    if name == "loss_kwargs":  # each loss has its own
        within = list(cell_fields)
    elif name in _RECIPE_FIELDS:
        within = [field for field in cell_fields if field != "loss"]
    else:
        within = []
    pairs = group[[*within, name]].drop_duplicates()
    return len(pairs) > (len(pairs[within].drop_duplicates()) if within else 1)


def config_text(value: object) -> str:
    """A config value in a label, as short as it can be."""
    if isinstance(value, list | tuple):
        return ",".join(config_text(item) for item in value)
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_order(present: Sequence[str] | pd.Series, preferred: Sequence[str]) -> list[str]:
    """The distinct names that are present: the preferred first, in their order, then the rest."""
    names = set(present)
    return [n for n in preferred if n in names] + sorted(names - set(preferred))
