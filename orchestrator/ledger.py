"""Which trials are done, and how long their like took: read from the store, never guessed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from analysis.parquet import read_files
from analysis.plan import ResultsError
from analysis.schema import TRIALS
from trainers.config import TrialConfig
from trainers.registry import InputError
from trainers.results import CHECKPOINTS, ResultStore

Rerun = Literal["failed", "diverged", "all"]
# Trials that agree in these cost the same for an epoch.
KIND: Final = (
    "dataset",
    "samples_per_class",
    "image_size",
    "model",
    "model_kwargs",
    "optimizer",
    "batch_size",
    "passes_per_epoch",
    "augment",
    "precision",
    "compile",
)
COLUMNS: Final = ("trial_id", "status", "reason", "epochs_done", "train_s", "eval_s", *KIND)


@dataclass(frozen=True)
class Ledger:
    """The trials' rows of a store by trial id, with COLUMNS."""

    rows: Mapping[str, Mapping[str, Any]]

    def status(self, trial_id: str) -> str | None:
        """`running`, `finished`, `failed`, `diverged`; None if it never started."""
        row = self.rows.get(trial_id)
        return row["status"] if row else None

    def to_do(self, trials: Mapping[str, TrialConfig], rerun: Rerun | None) -> list[str]:
        """Ids that have to run: not ended yet, or ended in a way that `rerun` names."""
        again = {None: (), "all": ("finished", "failed", "diverged")}.get(rerun, (rerun,))
        return [i for i in trials if self.status(i) in (None, "running", *again)]

    def seconds_per_epoch(self, config: TrialConfig) -> float | None:
        """Mean of the finished trials of the same kind; None if there is none."""
        fields = config.row()
        alike = [
            (row["train_s"] + row["eval_s"]) / row["epochs_done"]
            for row in self.rows.values()
            if row["status"] == "finished" and all(row[key] == fields[key] for key in KIND)
        ]
        return sum(alike) / len(alike) if alike else None


def read_ledger(store: ResultStore) -> Ledger:
    """Read every trial's row. Raises InputError if a file is broken or of another schema."""
    paths = [store.path("trials", name) for name in store.names("trials")]
    schema = pa.schema([TRIALS.field(name) for name in COLUMNS])
    try:
        table = read_files(store.filesystem, paths, schema)
    except ResultsError as error:
        raise InputError(str(error)) from error
    return Ledger({row["trial_id"]: row for row in table.to_pylist()})


def forget(store: ResultStore, ids: Iterable[str]) -> None:
    """Remove what says that these trials ended, and their checkpoints: they start anew."""
    for trial_id in ids:
        path = store.path("trials", f"{trial_id}.parquet")
        store.filesystem.delete_file(path)
        store.remove_folder(CHECKPOINTS, trial_id)
