"""What a sweep costs beyond its trainings: a trial's overhead, and how busy the slots are.

python -m benchmarks.sweep [--trials 1000] [--long 28]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.pairing import print_limit
from trainers.results import ResultStore

MOST_S, LEAST_BUSY = 0.150, 0.92
TRIVIAL = {
    "dataset": "digits", "model": "mlp", "model_kwargs": {"hidden": [4]}, "loss": "ce",
    "optimizer": "sgd", "samples_per_class": 2, "num_classes": 2, "batch_size": 4, "epochs": 1,
}  # fmt: skip
LONG = {
    "dataset": "digits", "model": "resnet18", "model_kwargs": {"channels": [8, 16, 32, 64]},
    "loss": "ce", "optimizer": "sgd", "batch_size": 32, "epochs": 30, "regularizer": "global",
}  # fmt: skip


def run(folder: Path, name: str, study: dict, trials: int) -> tuple[float, float]:
    """Wall time of a sweep, from its start to its end, and seconds its trials trained."""
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
    return wall_s, sum(row["train_s"] + row["eval_s"] for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000, help="trivial ones")
    parser.add_argument("--long", type=int, default=28, help="trials of 20 s or more")
    args = parser.parse_args(argv)
    slots = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base_s, _ = run(folder, "one", TRIVIAL, slots)
        wall_s, trained_s = run(folder, "trivial", TRIVIAL, args.trials)
        each = (wall_s - base_s - trained_s / slots) / args.trials
        print(f"{args.trials} trivial trials in {wall_s:.0f} s, of {slots} in {base_s:.0f} s")
        print_limit("overhead of a trial, s", each, MOST_S)
        wall_s, trained_s = run(folder, "long", LONG, args.long)
        print(f"{args.long} trials of {trained_s / args.long:.0f} s in {wall_s:.0f} s")
        print_limit("idle share of the slots", 1 - trained_s / slots / wall_s, 1 - LEAST_BUSY)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
