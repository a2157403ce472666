"""A few steps of a trial, to know what all of it will take before anything is spent."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from analysis.store.results import ResultStore
from trainers.config import TrialConfig
from trainers.data.splits import Data, Split, load_data
from trainers.run import checkpoint
from trainers.run.device import device_memory_bytes, peak_memory_bytes
from trainers.run.memory import keep_freed_memory
from trainers.run.provenance import versions
from trainers.run.ranks import alone
from trainers.run.trainer import MAX_FEATURES, Trainer

STEPS = 4


class Probe(TypedDict):
    """What was measured, for one worker."""

    seconds_per_epoch: float
    peak_memory_bytes: int
    device_memory_bytes: int  # all that the device has
    results_bytes: int  # of all files of a trial that has ended
    checkpoint_bytes: int


def probe(config: TrialConfig, *, data_dir: Path, download: bool) -> Probe:
    """Train on a few batches twice, evaluate once, and scale the second time up to an epoch.

    Writes nothing. An evaluation counts as often as `eval_every` has it. Raises whatever training
    raises.
    """
    ranks = alone()
    if ranks.device.type == "cpu":
        keep_freed_memory()
    whole = load_data(config, data_dir=data_dir, download=download, device=ranks.device)
    few = STEPS * config.batch_size
    part = Data(
        _first(whole.train, few),
        _first(whole.test, few) if whole.test is not None else None,
        whole.mean,
        whole.std,
    )
    trainer = Trainer(config, part, ranks)
    trainer.train_epoch(1)  # the first steps choose algorithms and allocate
    begin = time.perf_counter()
    row = trainer.train_epoch(1)
    trained = time.perf_counter()
    row |= trainer.evaluate(with_scores=True)
    end = time.perf_counter()
    row.pop("samples")
    state = checkpoint.State(config.trial_id, **trainer.state())
    train_s = (trained - begin) * len(whole.train) / len(part.train)
    eval_s = (end - trained) * _samples(whole) / _samples(part) / config.eval_every
    return {
        "seconds_per_epoch": train_s + eval_s,
        "peak_memory_bytes": peak_memory_bytes(ranks.device),
        "device_memory_bytes": device_memory_bytes(ranks.device),
        "results_bytes": _results_bytes(trainer, whole, row),
        "checkpoint_bytes": len(checkpoint.to_bytes(state)),
    }


def _results_bytes(trainer: Trainer, whole: Data, row: Mapping[str, object]) -> int:
    """Files with an epoch, written and measured; what the other epochs and the features add."""
    config, trial_id = trainer.config, trainer.config.trial_id
    tables = {
        "trials": [{**config.row(), **versions()}],
        "epochs": [row],
        "scores": trainer.score_rows(),
    }
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(folder)
        for table, rows in tables.items():
            store.write_rows(table, trial_id, [{"trial_id": trial_id, **each} for each in rows])
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    numbers = (config.epochs - 1) * len(row) * 8
    if config.regularizer == "global" and whole.test is not None:
        numbers += min(len(whole.test), MAX_FEATURES) * trainer.num_features * 4
    return written + numbers


def _first(split: Split, count: int) -> Split:
    padded = split.padded[:count] if split.padded is not None else None
    return replace(split, inputs=split.inputs[:count], labels=split.labels[:count], padded=padded)


def _samples(data: Data) -> int:
    return len(data.train) + (len(data.test) if data.test is not None else 0)
