"""A few steps of a trial, to know what all of it will take before anything is spent."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

from analysis.store.results import ResultStore
from trainers.config import TrialConfig
from trainers.data.splits import Data, Split, load_data
from trainers.run import checkpoint
from trainers.run.device import device_memory_bytes, peak_memory_bytes
from trainers.run.memory import keep_freed_memory
from trainers.run.provenance import versions
from trainers.run.ranks import Ranks, alone
from trainers.run.trainer import MAX_FEATURES, Trainer, will_compile

STEPS = 4


class Compiling(TypedDict):
    """Whether torch.compile is worth it: once so many seconds, and an epoch without it."""

    compile_s: float
    plain_seconds_per_epoch: float


class Probe(TypedDict):
    """What was measured, for one worker."""

    seconds_per_epoch: float
    peak_memory_bytes: int
    device_memory_bytes: int  # all that the device has
    results_bytes: int  # of all files of a trial that has ended
    checkpoint_bytes: int
    compiling: NotRequired[Compiling]  # of a trial that compiles


def probe(
    config: TrialConfig, *, data_dir: Path, download: bool, gpus: float | None = None
) -> Probe:
    """Train on a few batches twice, evaluate once, and scale the second time up to an epoch.

    Writes nothing; `gpus` as for `default_device`. An evaluation counts as often as `eval_every`
    has it. Raises whatever training raises.
    """
    ranks = alone(gpus)
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
    parts = len(whole.train) / len(part.train)
    trainer = Trainer(config, part, ranks)
    compiles = will_compile(config, len(whole.train))
    if compiles:
        trainer.compile_steps()  # which it would not do for so few
    first_s, steps_s, row = _train_twice(trainer)
    begin = time.perf_counter()
    row |= trainer.evaluate(with_scores=True)
    eval_s = (time.perf_counter() - begin) * _samples(whole) / _samples(part) / config.eval_every
    row.pop("samples")
    state = checkpoint.State(config.trial_id, **trainer.state())
    found: Probe = {
        "seconds_per_epoch": steps_s * parts + eval_s,
        "peak_memory_bytes": peak_memory_bytes(ranks.device),
        "device_memory_bytes": device_memory_bytes(ranks.device),
        "results_bytes": _results_bytes(trainer, whole, row),
        "checkpoint_bytes": len(checkpoint.to_bytes(state)),
    }
    if compiles:  # after the peak of memory was read
        plain_s = _plain_steps_s(config, part, ranks)
        found["compiling"] = {
            "compile_s": max(first_s - steps_s, 0.0),
            "plain_seconds_per_epoch": plain_s * parts + eval_s,
        }
    return found


def _train_twice(trainer: Trainer) -> tuple[float, float, dict[str, object]]:
    """Seconds of the first steps, which compile, choose algorithms and allocate, and of others."""
    begin = time.perf_counter()
    trainer.train_epoch(1)
    first = time.perf_counter()
    row = trainer.train_epoch(1)
    return first - begin, time.perf_counter() - first, {**row}


def _plain_steps_s(config: TrialConfig, part: Data, ranks: Ranks) -> float:
    """Seconds of the same steps as they are without compile, in the layout that they have then."""
    plain = TrialConfig.parse({**config.model_dump(exclude_none=True), "compile": False})
    return _train_twice(Trainer(plain, part, ranks))[1]


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
