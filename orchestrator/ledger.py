"""Which trials are done, and how long their like took: read from the store, never guessed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from analysis.merged import list_table
from analysis.parquet import read_folder, read_merged
from analysis.plan import ResultsError
from analysis.schema import CONFIG_FIELDS, TRIALS
from trainers.config import TrialConfig
from trainers.registry import InputError
from trainers.results import CHECKPOINTS, ResultStore

Rerun = Literal["failed", "diverged", "all"]
# Trials that agree in these cost the same for an epoch.
KIND: Final = (
    "dataset",
    "num_classes",
    "samples_per_class",
    "imbalance",
    "image_size",
    "model",
    "model_kwargs",
    "optimizer",
    "optimizer_kwargs",
    "batch_size",
    "passes_per_epoch",
    "augment",
    "rotation",
    "eval_every",
    "precision",
    "compile",
)
COLUMNS: Final = (
    "trial_id", "status", "reason", "epochs_done", "train_s", "eval_s", "peak_memory_bytes", *KIND,
)  # fmt: skip
Kind = tuple[Any, ...]


def kind_of(row: Mapping[str, Any]) -> Kind:
    """What a trial's row has in common with those that cost the same."""
    return tuple(row[name] for name in KIND)


class Cost(NamedTuple):
    """What a kind of trial takes."""

    seconds_per_epoch: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Ledger:
    """The trials' rows of a store by trial id, with COLUMNS."""

    rows: Mapping[str, Mapping[str, Any]]
    probed: Mapping[Kind, Cost] = field(default_factory=dict)  # of kinds that never ran

    def status(self, trial_id: str) -> str | None:
        """`running`, `finished`, `failed`, `diverged`; None if it never started."""
        row = self.rows.get(trial_id)
        return row["status"] if row else None

    def to_do(self, trials: Mapping[str, TrialConfig], rerun: Rerun | None) -> list[str]:
        """Ids that have to run: not ended yet, or ended in a way that `rerun` names."""
        again = {None: (), "all": ("finished", "failed", "diverged")}.get(rerun, (rerun,))
        return [i for i in trials if self.status(i) in (None, "running", *again)]

    @cached_property
    def costs(self) -> Mapping[Kind, Cost]:
        """Of finished trials, mean time of an epoch and largest memory; else what was probed."""
        alike: dict[Kind, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self.rows.values():
            if row["status"] == "finished":
                alike[kind_of(row)].append(row)
        measured = {
            kind: Cost(
                sum((r["train_s"] + r["eval_s"]) / r["epochs_done"] for r in rows) / len(rows),
                max(r["peak_memory_bytes"] or 0 for r in rows) or None,
            )
            for kind, rows in alike.items()
        }
        return {**self.probed, **measured}


def read_ledger(store: ResultStore) -> Ledger:
    """Read every trial's row. Raises InputError if a file is broken or of another schema."""
    schema = pa.schema([TRIALS.field(name) for name in COLUMNS])
    try:
        table = read_folder(store.filesystem, store.path("trials"), schema)
    except ResultsError as error:
        raise InputError(str(error)) from error
    return Ledger({row["trial_id"]: row for row in table.to_pylist()})


def forget(store: ResultStore, ids: Iterable[str]) -> None:
    """Remove what says that these trials ended, and their checkpoints: they start anew."""
    merged = _merged_rows(store)
    for trial_id in ids:
        if trial_id in merged:  # its row stays there; one of its own wins over it
            new = {"trial_id": trial_id, "status": "running", "epochs_done": 0}
            store.write_rows("trials", trial_id, [merged[trial_id] | new])
        else:
            store.filesystem.delete_file(store.path("trials", f"{trial_id}.parquet"))
        store.remove_folder(CHECKPOINTS, trial_id)


def _merged_rows(store: ResultStore) -> dict[str, dict[str, Any]]:
    """What the trials in merged files were asked to be, by id."""
    listing = list_table(store.filesystem, store.path("trials"))
    schema = pa.schema([TRIALS.field("trial_id"), *CONFIG_FIELDS])
    rows = read_merged(store.filesystem, listing.merged, schema).to_pylist()
    return {row["trial_id"]: row for row in rows}
