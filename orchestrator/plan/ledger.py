"""Which trials are done, and how long their like took: read from the store, never guessed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import pyarrow as pa

from analysis.store.errors import InputError, ResultsError, one_line
from analysis.store.listing import list_table
from analysis.store.reading import read_folder
from analysis.store.results import CHECKPOINTS, ResultStore
from analysis.store.rows import ConfigRow, TrialRow, begun
from analysis.store.schema import CONFIG_FIELDS, TABLES, TRIALS
from orchestrator.options import Rerun
from trainers.config import TrialConfig

if TYPE_CHECKING:
    from trainers.run.probe import Compiling

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
    "trial_id", "status", "reason", "failure", "gpu_share", "attempts", "epochs_done", "train_s",
    "eval_s", "peak_memory_bytes", "device", "world_size", "data_fingerprint",
    *KIND,
)  # fmt: skip
Kind = tuple[Any, ...]


def kind_of(row: Mapping[str, Any]) -> Kind:
    """What a trial's row has in common with those that cost the same."""
    return tuple(row[name] for name in KIND)


class Cost(NamedTuple):
    """What a kind of trial takes."""

    seconds_per_epoch: float
    peak_memory_bytes: int | None
    results_bytes: int | None = None  # of a trial, once it has ended
    checkpoint_bytes: int | None = None
    compiling: "Compiling | None" = None


@dataclass(frozen=True)
class Ledger:
    """The trials' rows of a store by trial id, with COLUMNS."""

    rows: Mapping[str, Mapping[str, Any]]
    probed: Mapping[Kind, Cost] = field(default_factory=dict)  # of kinds that never ran

    def status(self, trial_id: str) -> str | None:
        """`running`, `finished`, `failed`, `diverged`; None if it never started."""
        row = self.rows.get(trial_id)
        return row["status"] if row else None

    def epochs_left(self, trial_id: str, epochs: int) -> int:
        """Of a trial's epochs, what a stopped one has still to do; else all."""
        done = self.rows[trial_id]["epochs_done"] if self.status(trial_id) == "running" else 0
        return epochs - (done or 0)

    def is_owed_memory(self, trial_id: str) -> bool:
        """Whether a part of a GPU was too small for a trial, so that it gets a larger one."""
        if self.status(trial_id) != "failed":
            return False
        row = self.rows[trial_id]
        return row["failure"] == "out_of_memory" and 0 < (row["gpu_share"] or 0) < 1

    def to_do(self, trials: Mapping[str, TrialConfig], rerun: Rerun | None) -> list[str]:
        """Ids that have to run: not ended yet, or ended in a way that `rerun` names."""
        again = {None: (), "all": ("finished", "failed", "diverged")}.get(rerun, (rerun,))
        return [i for i in trials if self.status(i) in (None, "running", *again)]

    @cached_property
    def costs(self) -> Mapping[Kind, Cost]:
        """Mean time of an epoch and largest memory, so far as any ran; else what was probed."""
        alike: dict[Kind, list[Mapping[str, Any]]] = defaultdict(list)
        for row in self.rows.values():
            if row["status"] in ("finished", "running") and _is_timed(row):
                alike[kind_of(row)].append(row)
        measured = {
            kind: Cost(
                sum((r["train_s"] + r["eval_s"]) / r["epochs_done"] for r in rows) / len(rows),
                _peak(rows)
                or (self.probed[kind].peak_memory_bytes if kind in self.probed else None),
            )
            for kind, rows in alike.items()
        }
        return {**self.probed, **measured}


def _is_timed(row: Mapping[str, Any]) -> bool:
    return bool(row["epochs_done"]) and None not in (row["train_s"], row["eval_s"])


def _peak(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """The most that one worker took of a GPU; None if none of these ran so."""
    alone = (r for r in rows if r["device"] != "cpu" and r["world_size"] == 1)
    return max((r["peak_memory_bytes"] or 0 for r in alone), default=0) or None


def read_ledger(store: ResultStore) -> Ledger:
    """Read every trial's row. Raises InputError for a file that can't be read as one of ours."""
    schema = pa.schema([TRIALS.field(name) for name in COLUMNS])
    try:
        table = read_folder(store.filesystem, store.path("trials"), schema)
    except ResultsError as error:
        raise InputError("; ".join(str(error).splitlines())) from error
    except OSError as error:
        raise InputError(f"--results {store.location} can't be read: {one_line(error)}") from error
    return Ledger({row["trial_id"]: row for row in table.to_pylist()})


def forget(store: ResultStore, ids: Sequence[str]) -> None:
    """Remove what these trials left behind, and that they ended: they start anew.

    Raises OSError for a checkpoint that can't be removed, from which they would go on.
    """
    for trial_id in ids:
        store.remove_folder(CHECKPOINTS, trial_id)
    for table in TABLES:  # the trials' own first: without it, the rest is not believed
        there = list_table(store.filesystem, store.path(table))
        for trial_id in ids:
            if there.merged:  # rows there stay; a file of the trial's own wins over them
                rows = [_begun(store, trial_id)] if table == "trials" else []
                store.write_rows(table, trial_id, rows)
            elif trial_id in there.small:
                store.filesystem.delete_file(store.path(table, f"{trial_id}.parquet"))


def _begun(store: ResultStore, trial_id: str) -> TrialRow:
    """A trial's row with what it was asked to be, and nothing of what came of it."""
    row = store.trial(trial_id)
    assert row is not None  # a trial that is forgotten has one
    asked = {field.name: row[field.name] for field in CONFIG_FIELDS}
    return begun(trial_id, cast(ConfigRow, asked))
