"""Where a number came from: the trials, versions and files behind each cell of a table."""

from typing import Any

import pandas as pd

from analysis.tables.entries import OURS
from analysis.tables.render import Record, Table
from analysis.trials.cells import config_text
from analysis.trials.load import Results
from analysis.trials.measured import NOT_STARTED

_FIELDS = (
    "seed", "status", "epochs_done", "git_commit", "version_package", "version_torch",
    "version_timm", "version_python", "device",
)  # fmt: skip
_COLUMNS = ("cell", "trial_id", *_FIELDS, "files")
_NUMBER = frozenset(
    ("table", "metric", "source", "planned", "trial_ids", "mean", "sd", "n", "spread")
)  # of a record: which number of the cell, and the number itself
_PLAIN = frozenset(("dataset", "model", "optimizer", "augment", "loss"))


def trace_table(results: Results, table: Table) -> Table:
    """One row for each trial of each cell of `table`, in the table's order."""
    trials = results.trials.set_index("trial_id")
    cells: dict[str, Any] = {}
    for record in table.records:
        if record.get("source") == OURS and record.get("loss") != "delta":
            cells.setdefault(_name(record), record["trial_ids"])
    rows = [_row(cell, i, trials) for cell, ids in cells.items() for i in ids]
    note = f"files are in {results.path}; --format json has the trial ids of every single number"
    title = f"Trials behind {table.title.split('.')[0]}"
    return Table(f"{table.name}_trace", title, _COLUMNS, tuple(rows), (note,), ())


def _name(record: Record) -> str:
    pairs = ((key, value) for key, value in record.items() if key not in _NUMBER)
    return " ".join(f"{value}" if key in _PLAIN else f"{key}={value}" for key, value in pairs)


def _row(cell: str, trial_id: str, trials: pd.DataFrame) -> tuple[str, ...]:
    if trial_id not in trials.index:
        return (cell, trial_id, "", NOT_STARTED, *([""] * (len(_COLUMNS) - 4)))
    trial = trials.loc[trial_id]
    values = [config_text(trial[name]) for name in _FIELDS]
    return (cell, trial_id, *values, f"{{trials,epochs,scores}}/{trial_id}.parquet")
