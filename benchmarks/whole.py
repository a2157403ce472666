"""A small real study as a whole: trials an hour of a sweep, and of the same as plain scripts.

python -m benchmarks.whole [--epochs 2] [--rounds 2]

Eight trials of a narrow ResNet18 on a part of Fashion-MNIST, or on scikit-learn's digits where
Debian's package dataset-fashion-mnist isn't there. Each side starts cold, from raw files, and ends
with every metric of every epoch; ours with MLflow and the tables too. A sweep's slots take a core
each; scripts one after the other have all cores, two at a time one each.
"""

import argparse
import gzip
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from analysis.store.results import ResultStore
from benchmarks.pairing import compare
from benchmarks.rows import Row, run
from trainers.datasets import find_dataset
from trainers.machine import usable_cpus

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
AXES = {"loss": ["ce", "bce"], "optimizer": ["sgd", "adamw"], "seed": [0, 1]}
CHANNELS = [8, 16, 32, 64]


class Sides:
    """Both ways to run the study, each into a fresh folder; and how accurate their models are."""

    def __init__(self, home: Path, samples_per_class: int, epochs: int, axes: dict[str, list]):
        self.home, self.epochs, self.axes = home, epochs, axes
        self.accuracies: dict[str, list[float]] = {"ours": [], "theirs": []}
        self.dataset = "fashion_mnist" if DEBIAN.is_dir() else "digits"
        self.size = 32 if DEBIAN.is_dir() else 8
        self._write_raw()
        samples_per_class = self._write_npz(samples_per_class)
        self.study = {
            "dataset": self.dataset, "samples_per_class": samples_per_class, "model": "resnet18",
            "model_kwargs": {"channels": CHANNELS}, "regularizer": "global", "augment": "da1",
            "schedule": "constant", "epochs": epochs, **axes,
        }  # fmt: skip

    @property
    def trials(self) -> list[dict[str, Any]]:
        """What sets each trial apart."""
        found = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, values, strict=True)) for values in found]

    def _write_raw(self) -> None:
        raw = self.home / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file in DEBIAN.glob("*.gz"):
            with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
                shutil.copyfileobj(packed, plain)

    def _write_npz(self, at_most: int) -> int:
        """As many images of each class as the rarest has, for the scripts; their number."""
        read = find_dataset(self.dataset).read
        assert read is not None
        splits = read(self.home, False)._asdict()
        labels = splits["train_labels"]
        samples_per_class = min(at_most, int(np.bincount(labels).min()))
        kept = [np.flatnonzero(labels == k)[:samples_per_class] for k in range(10)]
        for name in ("train_images", "train_labels"):
            splits[name] = splits[name][np.sort(np.concatenate(kept))]
        np.savez(self.home / "data.npz", **splits)
        return samples_per_class

    def sweep(self) -> int:
        """The program, all of it: a slot on each core, MLflow, tables, and its cache to make."""
        with tempfile.TemporaryDirectory(dir=self.home) as name:
            folder = Path(name)
            (folder / "data").mkdir()
            (folder / "data" / "FashionMNIST").symlink_to(self.home / "FashionMNIST")
            (folder / "study.yaml").write_text(yaml.safe_dump(self.study))
            command = ["-m", "orchestrator.sweep", "--study", "study.yaml", "--results", "results"]
            self._python(folder, *command, "--address", "local", "--no-download", "--quiet")
            store = ResultStore(folder / "results")
            ids = [name.removesuffix(".parquet") for name in store.names("epochs")]
            rows = [store.read_rows("epochs", i)[-1] for i in ids]
        self.accuracies["ours"].append(mean(row["accuracy_test"] for row in rows))
        return len(rows)

    def scripts(self, at_once: int) -> int:
        """A process for each trial, so many of them at once."""
        cores = usable_cpus()
        with tempfile.TemporaryDirectory(dir=self.home) as name:
            folder = Path(name)

            def one(trial: dict[str, Any]) -> float:
                out = folder / ("-".join(map(str, trial.values())) + ".jsonl")
                given = {**trial, "epochs": self.epochs, "size": self.size, "out": out}
                words = [f"--{key}={value}" for key, value in given.items()]
                words += ["--data", str(self.home / "data.npz"), "--workers", str(2 // at_once)]
                channels = ["--channels", *map(str, CHANNELS)]
                threads = str(max(cores // at_once, 1))
                self._python(
                    folder, "-m", "benchmarks.plain_script", *words, *channels, threads=threads
                )
                return json.loads(out.read_text().splitlines()[-1])["accuracy_test"]

            with ThreadPoolExecutor(at_once) as pool:
                accuracies = list(pool.map(one, self.trials))
        self.accuracies["theirs"].append(mean(accuracies))
        return len(accuracies)

    def _python(self, folder: Path, *command: str, threads: str | None = None) -> None:
        more = {"OMP_NUM_THREADS": threads} if threads else {}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **more},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            raise SystemExit(f"error: {command[1]} ended with exit code {done.returncode}")


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """The sweep against scripts one after the other, and two at a time."""
    axes = {**AXES, "seed": AXES["seed"][: max(args.trials // 4, 1)]}
    with tempfile.TemporaryDirectory() as name:
        sides = Sides(Path(name), args.samples_per_class, args.epochs, axes)
        rows = compare(
            f"{len(sides.trials)} trials of a narrow ResNet18 on {sides.dataset}",
            sides.sweep,
            {
                "plain scripts, one after the other": (lambda: sides.scripts(1), None),
                "plain scripts, two at a time": (lambda: sides.scripts(2), None),
            },
            rounds=args.rounds,
            unit="trials/h",
            warm=False,
        )
    yield from rows
    ours, theirs = (mean(found) for found in sides.accuracies.values())
    yield Row(f"mean test accuracy of the same; the scripts': {theirs:.3f}", ours, "", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, choices=(4, 8), default=8)
    parser.add_argument("--samples-per-class", type=int, default=150)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
