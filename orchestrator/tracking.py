"""MLflow as a mirror: one run per trial for ever, found again by its id. Parquet is the record.

Only the driver writes, from one thread of its own, so that neither a slow server nor a lock in
SQLite holds up a trial. A mirror that breaks is reported once and stops nothing.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from analysis.schema import EPOCHS
from trainers.config import TrialConfig
from trainers.registry import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

MARKER: Final = "train_loss"  # every row has it: its history tells which epochs are in a run
# MLflow takes 1,000 metrics in a request, and a row has as many as the table has columns.
ROWS_PER_BATCH: Final = 1000 // len(EPOCHS)
TAGS: Final = ("status", "reason", "git_commit", "version_torch", "device")
ENDINGS: Final = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
Read = Callable[[str, str], list[dict[str, Any]]]
NOT_METRICS: Final = ("trial_id", "epoch")
SCHEMES: Final = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


class Mirror:
    """Writes trials into MLflow behind the sweep's back."""

    def __init__(self, tracking_uri: str, trials: Mapping[str, tuple[str, TrialConfig]]) -> None:
        """`trials`: trial id to (study, config). Nothing is written before the first trial."""
        self._uri = tracking_uri
        self._trials = trials
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._client: MlflowClient | None = None
        self._runs: dict[str, _Run] = {}
        self.error: str | None = None

    def rows(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log epochs that are not in the trial's run yet. Returns at once."""
        self._thread.submit(self._guarded, self._log, trial_id, list(rows), None)

    def ended(self, trial: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
        """Log what is missing of a trial and close its run. Returns at once."""
        self._thread.submit(self._guarded, self._log, trial["trial_id"], list(rows), dict(trial))

    def catch_up(self, ended: Iterable[str], read: Read) -> None:
        """Log ended trials whose run is missing or still open: a killed driver left them so.

        `read(table, trial_id)` gives their rows. Returns at once.
        """
        self._thread.submit(self._guarded, self._catch_up, list(ended), read)

    def _catch_up(self, ended: list[str], read: Read) -> None:
        if not ended:
            return
        client = self._connect()
        experiments = [e.experiment_id for e in client.search_experiments()]
        closed, token = set[str](), None
        while True:
            page = client.search_runs(experiments, "status != 'RUNNING'", page_token=token)
            closed |= {run.data.tags.get("trial_id", "") for run in page}
            token = page.token
            if not token:
                break
        for trial_id in ended:
            if trial_id not in closed:
                self._log(trial_id, read("epochs", trial_id), read("trials", trial_id)[0])

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until all is written; after an interruption, only for the request under way."""
        self._thread.shutdown(cancel_futures=kind is not None)

    def _guarded(self, log: Any, *args: Any) -> None:
        if self.error is not None:
            return
        try:
            log(*args)
        except Exception as error:  # whatever a tracking server does, the sweep goes on
            self.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]

    def _log(
        self, trial_id: str, rows: Sequence[Mapping[str, Any]], trial: dict[str, Any] | None
    ) -> None:
        client = self._connect()
        run = self._runs.get(trial_id) or self._open(client, trial_id)
        run.log(client, rows)
        if trial is not None:
            for tag in TAGS:
                if trial.get(tag) is not None:
                    client.set_tag(run.run_id, tag, str(trial[tag]))
            client.set_terminated(run.run_id, ENDINGS[trial["status"]])
            del self._runs[trial_id]

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            self._client = MlflowClient(self._uri)
        return self._client

    def _open(self, client: "MlflowClient", trial_id: str) -> "_Run":
        """The trial's run, made if there is none, and the epochs it has."""
        study, config = self._trials[trial_id]
        experiment = client.get_experiment_by_name(study)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(study)
        # A trial that two studies share has one run, in the experiment of whichever came first.
        experiments = [e.experiment_id for e in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.trial_id = '{trial_id}'", max_results=1)
        if found:
            run_id = found[0].info.run_id
            epochs = {metric.step for metric in client.get_metric_history(run_id, MARKER)}
            client.update_run(run_id, "RUNNING")
        else:
            run_id = self._create(client, experiment_id, config)
            epochs = set()
        self._runs[trial_id] = _Run(run_id, epochs)
        return self._runs[trial_id]

    def _create(self, client: "MlflowClient", experiment_id: str, config: TrialConfig) -> str:
        from mlflow.entities import Param

        tags = {"trial_id": config.trial_id, "seed": str(config.seed), "status": "running"}
        name = " ".join(
            (config.dataset, config.model, config.loss, config.optimizer, f"seed {config.seed}")
        )
        run = client.create_run(experiment_id, tags=tags, run_name=name)
        params = [Param(k, str(v)) for k, v in config.row().items() if v is not None]
        client.log_batch(run.info.run_id, params=params)
        return run.info.run_id


class _Run:
    """A run of MLflow and the epochs that are in it."""

    def __init__(self, run_id: str, epochs: set[int]) -> None:
        self.run_id = run_id
        self._epochs = epochs

    def log(self, client: "MlflowClient", rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the rows of epochs that are not there yet, in as few requests as MLflow allows."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        new = [row for row in rows if row["epoch"] not in self._epochs]
        for start in range(0, len(new), ROWS_PER_BATCH):  # an epoch is there whole or not at all
            batch = new[start : start + ROWS_PER_BATCH]
            metrics = [
                Metric(key, value, now_ms, row["epoch"])
                for row in batch
                for key, value in row.items()
                if key not in NOT_METRICS and value is not None and math.isfinite(value)
            ]
            client.log_batch(self.run_id, metrics=metrics)
            self._epochs |= {row["epoch"] for row in batch}


def check_uri(uri: str) -> None:
    """Raises InputError unless MLflow can take this for a place to write to."""
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme.partition("+")[0] not in SCHEMES:
        raise InputError(
            f"--tracking-uri {uri!r} must begin with one of "
            f"{', '.join(each + ':' for each in SCHEMES)}"
        )
