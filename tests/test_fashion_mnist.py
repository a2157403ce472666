"""Real Fashion-MNIST in each way to run a trial: one process, two under torchrun, two under Ray."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist
TRIAL: dict[str, Any] = {
    "dataset": "fashion_mnist",
    "samples_per_class": 300,
    "model": "mlp",
    "model_kwargs": {"hidden": [64, 32]},
    "loss": "bce",
    "optimizer": "adamw",
    "augment": "none",
    "regularizer": "global",
    "batch_size": 125,
    "epochs": 2,
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fashion")
    raw = folder / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in DEBIAN.glob("*.gz"):
        with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    (folder / "trial.json").write_text(json.dumps(TRIAL))
    (folder / "study.yaml").write_text(yaml.safe_dump(TRIAL))
    return folder


def run(home: Path, name: str, *command: str) -> list[dict[str, Any]]:
    """The epochs of the trial as this command trains it."""
    common = ("--results", name, "--data-dir", "data", "--no-download")
    done = subprocess.run(
        [sys.executable, *command, *common],
        cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (trial,) = pq.read_table(home / name / "trials").to_pylist()
    assert (trial["status"], trial["num_train"], trial["num_test"]) == ("finished", 3000, 10_000)
    assert trial["world_size"] == (1 if name == "alone" else 2)
    return pq.read_table(home / name / "epochs").to_pylist()


def test_two_ranks_of_torchrun_and_of_ray_end_where_one_process_does(home: Path) -> None:
    train = ("-m", "trainers.train", "--config", "trial.json")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    sweep = str(ROOT / "orchestrator" / "sweep.py")
    alone = run(home, "alone", *train)
    assert alone[-1]["accuracy_test"] > 0.6
    under = {
        "torchrun": run(home, "torchrun", *torchrun, *train),
        "ray": run(
            home, "ray", sweep, "--study", "study.yaml", "--address", "local",
            "--workers", "2", "--cpus-per-worker", "0.5", "--no-mlflow",
        ),
    }  # fmt: skip
    suffixes = ("_train", "_test", "_mean", "_std", "_loss")
    # The last epoch's: there is no nc4_train at the first evaluation. alpha_bias is Eq. (3)'s.
    names = [k for k, v in alone[-1].items() if k.endswith(suffixes) and v is not None]
    assert len(names) > 30
    for way, rows in under.items():
        assert len(rows) == len(alone)
        for name in names:
            # Weights differ by the rounding of 48 steps; a sample or two may change sides.
            assert rows[-1][name] == pytest.approx(alone[-1][name], rel=2e-3, abs=1e-3), (way, name)
    for name in names:  # the very same weights
        assert under["ray"][-1][name] == pytest.approx(under["torchrun"][-1][name], rel=1e-6), name
