"""The seam to Ray: a trial inside a Ray Tune actor. No other file of `trainers` imports ray."""

import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from ray import tune

from trainers.config import TrialConfig
from trainers.registry import load_plugins
from trainers.results import ResultStore

Row = dict[str, Any]

REPORT_EVERY_S = 1.0  # a report waits for the driver, which has every trial to listen to


class Job(TypedDict):
    """What a worker needs to run one trial. Plain values: Ray sends it to another process."""

    fields: dict[str, Any]
    results: str
    data_dir: str
    download: bool
    keep_checkpoints: bool
    plugins: list[str]
    plugin_path: str
    threads: int


def train(params: dict[str, Any]) -> None:
    """Ray Tune's function trainable. Reports `rows`, new epochs' rows, and at the end `trial`."""
    import torch  # here, since the driver, which only names this function, does without it

    from trainers.loop import run_trial

    job: Job = params["job"]
    if job["plugins"] and job["plugin_path"] not in sys.path:
        sys.path.insert(0, job["plugin_path"])
    load_plugins(job["plugins"])
    torch.set_num_threads(job["threads"])
    pending = _Pending()
    row = run_trial(
        TrialConfig(**job["fields"]),
        pending.add,
        store=ResultStore(job["results"]),
        data_dir=Path(job["data_dir"]),
        download=job["download"],
        keep_checkpoints=job["keep_checkpoints"],
    )
    tune.report({"rows": pending.take(), "trial": row})


class _Pending:
    """Rows on their way to the driver, sent together once a second."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._sent = time.monotonic()

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if time.monotonic() - self._sent >= REPORT_EVERY_S:
            tune.report({"rows": self.take()})

    def take(self) -> list[Row]:
        self._sent = time.monotonic()
        rows, self._rows = self._rows, []
        return rows
