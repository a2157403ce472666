"""A few steps of a trial, to know what all of it will take before anything is spent."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from trainers import distributed
from trainers.config import TrialConfig
from trainers.data import Data, Split, load_data
from trainers.memory import keep_freed_memory
from trainers.provenance import device_memory_bytes, peak_memory_bytes
from trainers.trainer import Trainer

STEPS = 4


class Probe(TypedDict):
    """What was measured, for one worker."""

    seconds_per_epoch: float
    peak_memory_bytes: int
    device_memory_bytes: int  # all that the device has


def probe(config: TrialConfig, *, data_dir: Path, download: bool) -> Probe:
    """Train on a few batches twice, evaluate once, and scale the second time up to an epoch.

    Writes nothing. An evaluation counts as often as `eval_every` has it. Raises whatever training
    raises.
    """
    ranks = distributed.alone()
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
    trainer.train_epoch(1)
    trained = time.perf_counter()
    trainer.evaluate()
    end = time.perf_counter()
    train_s = (trained - begin) * len(whole.train) / len(part.train)
    eval_s = (end - trained) * _samples(whole) / _samples(part) / config.eval_every
    return {
        "seconds_per_epoch": train_s + eval_s,
        "peak_memory_bytes": peak_memory_bytes(ranks.device),
        "device_memory_bytes": device_memory_bytes(ranks.device),
    }


def _first(split: Split, count: int) -> Split:
    padded = split.padded[:count] if split.padded is not None else None
    return replace(split, inputs=split.inputs[:count], labels=split.labels[:count], padded=padded)


def _samples(data: Data) -> int:
    return len(data.train) + (len(data.test) if data.test is not None else 0)
