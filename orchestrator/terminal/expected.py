"""A finished trial beside what theory predicts for it, or what the paper reports of it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from analysis.paper import published
from analysis.store.rows import TrialRow
from analysis.store.schema import TRIALS


def beside_expected(trial: TrialRow, last: Mapping[str, Any]) -> str:
    """A line of results, each with the value that is known for it; empty if there is none.

    Args: the trial's row; its last epoch's.
    """
    return ", ".join(_theory(trial, last) or _accuracies(trial, last))


def _theory(trial: TrialRow, last: Mapping[str, Any]) -> list[str]:
    """Scores and bias of a trial that Eq. (3) describes, beside its minimum."""
    from analysis.theory.setting import setting_of
    from analysis.trials.cells import theory_trials  # scipy is no part of planning a sweep

    found = theory_trials(pa.Table.from_pylist([dict(trial)], schema=TRIALS).to_pandas())
    if found.empty:
        return []
    setting = setting_of(found.iloc[0])
    if not setting.has_formula:  # a live view does not wait for L-BFGS
        return []
    point = setting.minimum()
    pairs = {
        "s_pos": (last.get("s_pos_mean_train"), point.s_pos),
        "s_neg": (last.get("s_neg_mean_train"), point.s_neg),
        # CE's has no unique minimum without decay, and hardly moves with little.
        "bias": (last.get("bias_mean"), point.bias if trial["loss"] == "bce" else math.nan),
    }
    return [
        f"{name} {value:.2f}" + ("" if math.isnan(known) else f" (theory {known:.2f})")
        for name, (value, known) in pairs.items()
        if _is_number(value)
    ]


def _accuracies(trial: TrialRow, last: Mapping[str, Any]) -> Iterator[str]:
    """Test accuracies, beside those of Table 2 if it has this dataset, network and training."""
    fields = ("dataset", "model", "optimizer", "augment", "loss")
    papers = trial["regularizer"] == "global" and trial["model_kwargs"] == "{}"
    for name in ("accuracy", "uniform_accuracy"):
        value = last.get(f"{name}_test")
        if not _is_number(value):
            continue
        key = published.Key(**{field: trial[field] for field in fields}, metric=name)
        known = published.numbers(2).get(key) if papers else None
        yield f"{name}_test {value:.2%}" + (f" (paper {known.mean:.2%})" if known else "")


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
