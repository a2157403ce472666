"""What the driver itself spends on trials and on nodes: its CPU time and memory, by Linux's count.

python -m benchmarks.scale [--trials 400] [--nodes 1 8]

Nodes are logical ones of this machine, so wall times say nothing; what the driver's process takes
does. See docs/scale.md for what follows from it.
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

from benchmarks.rows import Row, run
from benchmarks.sweep import TRIVIAL

EPOCHS = 20
# Trials this short would report all of their epochs at once, at their end. Here each is a report.
EVERY_EPOCH = "import trainers.ray_worker\n\ntrainers.ray_worker.REPORT_EVERY_S = 0.0\n"


class Spent(NamedTuple):
    """By the driver's process."""

    cpu_s: float
    memory_mib: float


def drive(folder: Path, name: str, trials: int, address: str, *, epochs: int) -> Spent:
    """Sweep so many trivial trials, and watch the driver."""
    study = {**TRIVIAL, "epochs": epochs, "seed": list(range(trials)), "plugins": ["every_epoch"]}
    (folder / "every_epoch.py").write_text(EVERY_EPOCH)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "orchestrator.sweep", "--study", f"{name}.yaml"]
    process = subprocess.Popen(
        [*command, "--results", name, "--address", address, "--quiet", "--cpus-per-worker", "1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdout=subprocess.DEVNULL,
    )
    spent = Spent(0, 0)
    while process.poll() is None:
        # Each for itself: a process that has just ended has a time, but no memory any more.
        spent = Spent(*map(max, spent, _spent(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return spent


def _spent(pid: int) -> Spent:
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return Spent(0, 0)
    high = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return Spent(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), sum(map(int, high)) / 1024)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """What a trial and a result cost the driver, by the number of nodes."""
    from ray.cluster_utils import Cluster

    for nodes in args.nodes:
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        try:
            for _ in range(nodes - 1):
                cluster.add_node(num_cpus=1)
            with tempfile.TemporaryDirectory() as name:
                yield from _driver(Path(name), nodes, args.trials, str(cluster.address))
        finally:
            cluster.shutdown()


def _driver(folder: Path, nodes: int, trials: int, address: str) -> Iterator[Row]:
    few = drive(folder, "few", 2 * nodes, address, epochs=1)
    many = drive(folder, "many", trials, address, epochs=1)
    long = drive(folder, "long", trials, address, epochs=EPOCHS)
    more = trials - 2 * nodes
    results = trials * (EPOCHS - 1)
    what = f"of the driver, {nodes} nodes, {trials} trials"
    yield Row(f"CPU {what}: to begin with", few.cpu_s, "s", None)
    yield Row(f"CPU {what}: a trial", 1e3 * (many.cpu_s - few.cpu_s) / more, "ms", None)
    yield Row(f"CPU {what}: a result", 1e3 * (long.cpu_s - many.cpu_s) / results, "ms", None)
    yield Row(f"memory {what}: to begin with", few.memory_mib, "MiB", None)
    kib = 1024 * (many.memory_mib - few.memory_mib) / more
    yield Row(f"memory {what}: a trial", kib, "KiB", None)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400, help="more than twice the nodes")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8])
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
