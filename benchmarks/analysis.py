"""What tables of a large sweep cost: seconds and memory of `python -m analysis.tables`.

python -m benchmarks.analysis [--trials 2000] [--epochs 100]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.schema import EPOCHS, TRIALS
from benchmarks.pairing import print_limit

LIMITS = {2000: (10.0, 1.0), 10000: (60.0, 2.0)}  # trials: seconds, GiB
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
    pq.write_table(pa.table(columns, schema=schema), path)


def main(argv: Sequence[str] | None = None) -> int:
    """Print both, beside their limits where the size has any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "results"
        write_results(root, args.trials, args.epochs)
        begin = time.perf_counter()
        command = [sys.executable, "-m", "analysis.tables", "--results", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    most_s, most_gib = LIMITS.get(args.trials, (float("inf"), float("inf")))
    what = f"tables of {args.trials} trials x {args.epochs} epochs"
    print_limit(f"{what}, s", seconds, most_s)
    print_limit(f"{what}, GiB", memory, most_gib)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
