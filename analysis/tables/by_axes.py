"""A table over any axes and metrics of the user's own study."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.store.errors import InputError, ResultsError, unknown
from analysis.store.schema import CONFIG_FIELDS, EPOCHS, FRACTION
from analysis.tables.entries import Entry, Line, Quantity, assemble, measured
from analysis.tables.render import Table
from analysis.trials.cells import Cell, as_cell, config_text, setting_apart

_AXES = tuple(field.name for field in CONFIG_FIELDS if field.name != "seed")
_METRICS = tuple(field.name for field in EPOCHS if field.name not in ("trial_id", "epoch"))
DEFAULT_METRICS = ("accuracy_test", "uniform_accuracy_test")


def custom_table(trials: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> Table:
    """A row for each combination of the fields `by`, a column for each metric.

    Args: trials as `measured.measured_trials` has them; config fields; columns of the epochs table.
    Raises: InputError for an unknown name; ResultsError if trials of a row differ in more than
        their seed.
    """
    for name in by:
        _check(name, _AXES, "--by", "field of a trial")
    for name in metrics:
        _check(name, _METRICS, "--metric", "metric")
    quantities = [_quantity(name) for name in metrics]
    lines = [_line(values, rows, by, quantities) for values, rows in _groups(trials, by)]
    percent = any(quantity.percent for quantity in quantities)
    notes = ["fractions are printed in percent"] if percent else []
    return assemble("table_by", f"By {', '.join(by)}", (*by, *metrics), lines, notes)


def _check(name: str, known: Sequence[str], option: str, kind: str) -> None:
    if name not in known:
        raise InputError(f"{option}: {unknown(kind, name, known, where=', in docs/results.md')}")


def _quantity(name: str) -> Quantity:
    unit = (EPOCHS.field(name).metadata or {}).get(b"unit", b"").decode()
    percent = unit == FRACTION
    return Quantity(name, name, name, 2 if percent else 4, percent=percent)


def _groups(trials: pd.DataFrame, by: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    return list(trials.groupby(list(by), dropna=False, sort=True))


def _line(
    values: Sequence[Any], rows: pd.DataFrame, by: Sequence[str], quantities: Sequence[Quantity]
) -> Line:
    labels = [config_text(value) for value in values]
    where = " ".join(f"{name}={label}" for name, label in zip(by, labels, strict=True))
    cell = _cell(rows, where, by)
    identity = {"table": "by", **dict(zip(by, labels, strict=True))}
    entries: list[Entry] = [measured(cell, quantity, identity, where) for quantity in quantities]
    return labels, entries


def _cell(rows: pd.DataFrame, where: str, by: Sequence[str]) -> Cell:
    mixed = setting_apart(rows)
    if mixed:
        enough = " ".join((*by, *_enough(rows, mixed)))
        raise ResultsError(
            f"trials of the row {where} differ in {', '.join(mixed)}, which would be averaged "
            f"over; use --by {enough}"
        )
    return as_cell(rows)


def _enough(rows: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Of these fields, as few as tell the same rows apart; an optimizer's lr follows from it."""
    kept, number = list(names), len(rows[[*names]].drop_duplicates())
    for name in reversed(names):
        fewer = [each for each in kept if each != name]
        if fewer and len(rows[fewer].drop_duplicates()) == number:
            kept = fewer
    return kept
