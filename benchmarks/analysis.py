"""What tables of a large sweep cost: seconds and memory of `python -m analysis.tables`.

First from a file for each trial, then from merged ones; and what merging them costs.

python -m benchmarks.analysis [--trials 2000] [--epochs 100]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from analysis.store.results import to_parquet
from analysis.store.schema import EPOCHS, TRIALS
from benchmarks.rows import Row, run

LIMITS = {2000: (10.0, 1.0), 10000: (60.0, 2.0)}  # trials: seconds, GiB
COMPACT_LIMITS = (None, 2.0)  # of any number of trials
GRID = tuple(
    product(
        ("cifar10", "cifar100"), ("resnet18", "resnet50"), ("ce", "bce"), ("sgd", "adamw"),
        ("da1", "da1+da2"),
    )
)  # fmt: skip


def write_results(root: Path, trials: int, epochs: int) -> None:
    """A results folder of the `classification` study with many seeds, random numbers in it."""
    rng = np.random.default_rng(0)
    for name in ("trials", "epochs"):
        (root / name).mkdir(parents=True)
    for number in range(trials):
        dataset, model, loss, optimizer, augment = GRID[number % len(GRID)]
        trial_id = f"{number:012x}"
        row = {
            "trial_id": trial_id, "dataset": dataset, "model": model, "model_kwargs": "{}",
            "loss": loss, "optimizer": optimizer, "augment": augment, "regularizer": "global",
            "seed": number // len(GRID), "status": "finished", "epochs_done": epochs,
        }  # fmt: skip
        _write(root / "trials" / f"{trial_id}.parquet", TRIALS, 1, row, rng)
        own = {"trial_id": trial_id, "epoch": range(1, epochs + 1)}
        _write(root / "epochs" / f"{trial_id}.parquet", EPOCHS, epochs, own, rng)


def _write(path: Path, schema: pa.Schema, rows: int, own: dict, rng: np.random.Generator) -> None:
    columns = []
    for field in schema:
        if field.name in own:
            value = own[field.name]
            values = [value] * rows if isinstance(value, str | int) else list(value)
        elif schema is EPOCHS and pa.types.is_floating(field.type):
            values = rng.random(rows)
        else:
            values = [None] * rows
        columns.append(pa.array(values, field.type))
    path.write_bytes(to_parquet(pa.table(columns, schema=schema)))


def cost(command: Sequence[str]) -> tuple[float, float]:
    """Seconds and GiB at most of a program."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - begin, usage.ru_maxrss / 2**20


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """All, beside their limits where the size has any."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "results"
        write_results(root, args.trials, args.epochs)
        what = f"{args.trials} trials x {args.epochs} epochs"
        limits = LIMITS.get(args.trials, (None, None))
        for module, name in (
            ("analysis.tables", "tables"),
            ("analysis.compact", "compact"),
            ("analysis.tables", "tables, compacted"),
        ):
            seconds, gib = cost([sys.executable, "-m", module, "--results", str(root)])
            most_s, most_gib = COMPACT_LIMITS if module == "analysis.compact" else limits
            yield Row(f"{name} of {what}", seconds, "s", most_s)
            yield Row(f"{name} of {what}", gib, "GiB", most_gib)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=100)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
