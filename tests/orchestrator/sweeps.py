"""Sweeps as a user starts them, what they leave behind, and which processes they are."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analysis.store.results import ResultStore

ROOT = Path(__file__).parents[2]
STUDY = """
dataset: digits
model: resnet18
model_kwargs: {channels: [4, 4, 8, 8]}
loss: [ce, bce]
optimizer: [sgd, adamw]
samples_per_class: 30
batch_size: 32
epochs: 8
regularizer: global
augment: da1+da2
"""
DDP_STUDY = """
dataset: digits
model: mlp
model_kwargs: {hidden: [32, 16]}
loss: bce
optimizer: adamw
batch_size: 30
epochs: 60
augment: da1+da2
regularizer: global
"""
TWO = ("--workers", "2", "--cpus-per-worker", "0.5")
LONG = ("--no-mlflow", "--epochs", "30", "--max-concurrent", "2")
TABLES = ("trials", "epochs", "scores", "features")
Rows = dict[str, list[dict[str, Any]]]
Same = Callable[[Path | str, Rows], None]


def start(
    home: Path,
    name: str,
    *argv: str,
    study: str = "study.yaml",
    output: int | None = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """A sweep into `home/name`, as a user starts it, in a session of its own.

    `output` is where it speaks; None: both streams are closed before it starts.
    """
    command = [sys.executable, str(ROOT / "orchestrator" / "sweep.py"), "--study", study]
    closed = [] if output is not None else ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"]
    return subprocess.Popen(
        [*closed, *command, "--results", name, "--address", "local", *argv],
        cwd=home,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=_answers_ctrl_c,
    )


def _answers_ctrl_c() -> None:
    """A shell's background jobs ignore Ctrl-C, and so does what they start, such as these tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def rows(results: Path | str) -> Rows:
    store = ResultStore(results)
    return {
        table: sorted(
            (
                row
                for name in store.names(table)
                for row in store.read_rows(table, name.removesuffix(".parquet"))
            ),
            key=lambda row: [str(v).zfill(20) for v in row.values()][:2],
        )
        for table in TABLES
    }


def processes(session: int) -> dict[int, str]:
    """Commands of the live processes that `session` started, by process id."""
    command = ["ps", "-e", "-ww", "-o", "pid=,sess=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = (line.split(maxsplit=3) for line in listed.splitlines())
    return {int(f[0]): f[3] for f in fields if f[1] == str(session) and f[2][0] != "Z"}


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 240) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.05)


def checkpoints(results: Path) -> list[Path]:
    return list(results.glob("checkpoints/*/*.pt"))


def commands(session: int, name: str) -> list[int]:
    """Process ids of the live processes of a session whose command begins with a name."""
    return [pid for pid, command in processes(session).items() if command.startswith(name)]
