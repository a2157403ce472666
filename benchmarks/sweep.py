"""What a sweep costs beyond its trainings: a trial's overhead, and how busy the slots are.

python -m benchmarks.sweep [--trials 1000] [--long 28]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from analysis.store.results import ResultStore
from benchmarks.rows import Row, run
from trainers.machine import usable_cpus

MOST_S, LEAST_BUSY = 0.150, 0.92
TRIVIAL = {
    "dataset": "digits", "model": "mlp", "model_kwargs": {"hidden": [4]}, "loss": "ce",
    "optimizer": "sgd", "samples_per_class": 2, "num_classes": 2, "batch_size": 4, "epochs": 1,
}  # fmt: skip
LONG = {
    "dataset": "digits", "model": "resnet18", "model_kwargs": {"channels": [8, 16, 32, 64]},
    "loss": "ce", "optimizer": "sgd", "batch_size": 32, "epochs": 40, "regularizer": "global",
}  # fmt: skip


class Times(NamedTuple):
    """Of a sweep, from its start to its end, and of its trials in all."""

    wall_s: float
    in_trials_s: float
    in_epochs_s: float  # without data loading, checkpoints and results


def swept(folder: Path, name: str, study: dict, trials: int) -> Times:
    """Sweep a study of so many seeds, and add up the times."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**study, "seed": list(range(trials))}))
    command = [sys.executable, "-m", "orchestrator.sweep", "--study", f"{name}.yaml"]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--results", name, "--address", "local", "--quiet"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall_s = time.perf_counter() - begin
    store = ResultStore(folder / name)
    rows = [store.read_rows("trials", i.removesuffix(".parquet"))[0] for i in store.names("trials")]
    in_epochs_s = sum(row["train_s"] + row["eval_s"] for row in rows)
    return Times(wall_s, sum(row["wall_s"] for row in rows), in_epochs_s)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """A trivial trial's overhead, and what of the slots' time long trials leave unused."""
    slots = usable_cpus()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = swept(folder, "one", TRIVIAL, slots)
        many = swept(folder, "trivial", TRIVIAL, args.trials)
        each = (many.wall_s - base.wall_s - many.in_epochs_s / slots) / args.trials
        yield Row(f"a sweep of {slots} trivial trials", base.wall_s, "s", None)
        yield Row(f"overhead of a trial, over {args.trials}", each, "s", MOST_S)
        long = swept(folder, "long", LONG, args.long)
        what = f"of the slots' time, {args.long} trials of {long.in_trials_s / args.long:.0f} s"
        in_trials, in_epochs = (s / slots / long.wall_s for s in long[1:])
        yield Row(f"share in no trial {what}", 1 - in_trials, "", 1 - LEAST_BUSY)
        yield Row(f"share in no epoch {what}", 1 - in_epochs, "", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="trivial ones")
    parser.add_argument("--long", type=int, default=28, help="trials of 20 s or more")
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
