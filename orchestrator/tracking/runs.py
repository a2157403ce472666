"""Trials as MLflow's runs: an experiment a study, and one run a trial for ever, found by its id.

There is no parent run for a sweep: a trial outlives the sweeps that ran it, and belongs to none.
"""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from analysis.store.schema import CONFIG_FIELDS, EPOCHS
from orchestrator.tracking.database import make

Row = Mapping[str, Any]
MARKER: Final = "train_loss"  # every row has it: its history tells which epochs are in a run
# MLflow takes 1,000 metrics in a request, and a row has as many as the table has columns.
ROWS_PER_BATCH: Final = 1000 // len(EPOCHS)
TAGS: Final = ("status", "reason", "git_commit", "version_torch", "device")
BEGUN: Final = "started_at"  # tells a trial that was run again from what it was before
ENDINGS: Final = {"finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED"}
NOT_METRICS: Final = ("trial_id", "epoch")
# MLflow's own patience is minutes a request; ours is in who calls.
ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}

# A sweep's terminal is the sweep's: what fails is told once, at its end.
LOG_LEVELS: Final = {
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    "urllib3": logging.ERROR,
}


class Runs:
    """The runs at a tracking URI. Its methods raise whatever a tracking server can do wrong."""

    def __init__(self, uri: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for name, level in LOG_LEVELS.items():
            logging.getLogger(name).setLevel(level)
        from mlflow import MlflowClient  # takes seconds

        make(uri)
        self._client = MlflowClient(uri)
        self._open_runs: dict[str, tuple[str, set[int]]] = {}  # run id, and the epochs it has

    def closed(self) -> set[str]:
        """Ids of the trials whose run has ended."""
        closed, token = set[str](), None
        while True:
            page = self._client.search_runs(
                self._experiments(), "status != 'RUNNING'", page_token=token
            )
            closed |= {run.data.tags.get("trial_id", "") for run in page}
            token = page.token
            if not token:
                return closed

    def send(self, study: str, config: Row, trial_id: str, rows: Sequence[Row]) -> None:
        """Log the epochs of a trial that are not in its run yet; the run is made if need be."""
        run_id, epochs = self._open_runs.get(trial_id) or self._open(study, config, trial_id)
        self._log(run_id, epochs, rows)

    def close(self, study: str, trial: Row, rows: Sequence[Row]) -> None:
        """Log what is missing of a trial, given by its row, and end its run.

        MLflow forgets no metric: the run of a trial that was begun anew is made anew.
        """
        trial_id, begun = trial["trial_id"], str(trial.get(BEGUN))
        run_id, _ = self._open_runs.get(trial_id) or self._open(study, trial, trial_id)
        if self._client.get_run(run_id).data.tags.get(BEGUN, begun) != begun:
            self._client.delete_run(run_id)
            del self._open_runs[trial_id]
        self.send(study, trial, trial_id, rows)
        run_id, _ = self._open_runs.pop(trial_id)
        self._client.set_tag(run_id, BEGUN, begun)
        before = self._client.get_run(run_id).data.tags
        for tag in TAGS:
            if trial.get(tag) is not None:
                self._client.set_tag(run_id, tag, str(trial[tag]))
            elif tag in before:  # why an earlier attempt failed
                self._client.delete_tag(run_id, tag)
        self._client.set_terminated(run_id, ENDINGS[trial["status"]], end_time=_end_ms(trial))

    def _experiments(self) -> list[str]:
        return [each.experiment_id for each in self._client.search_experiments()]

    def _open(self, study: str, config: Row, trial_id: str) -> tuple[str, set[int]]:
        client = self._client
        experiment = client.get_experiment_by_name(study)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(study)
        # A trial that two studies share has one run, in the experiment of whichever came first.
        query = f"tags.trial_id = '{trial_id}'"
        found = client.search_runs(self._experiments(), query, max_results=1)
        if found:
            run_id = found[0].info.run_id
            epochs = {metric.step for metric in client.get_metric_history(run_id, MARKER)}
            client.update_run(run_id, "RUNNING")
        else:
            run_id, epochs = self._create(experiment_id, study, config, trial_id), set[int]()
        self._open_runs[trial_id] = run_id, epochs
        return run_id, epochs

    def _create(self, experiment_id: str, study: str, config: Row, trial_id: str) -> str:
        from mlflow.entities import Param

        seed = str(config["seed"])
        tags = {"trial_id": trial_id, "seed": seed, "status": "running", "study": study}
        run = self._client.create_run(
            experiment_id,
            start_time=_ms(config.get("started_at")),
            tags=tags,
            run_name=_run_name(config),
        )
        fields = {field.name: config[field.name] for field in CONFIG_FIELDS}
        params = [Param(key, str(value)) for key, value in fields.items() if value is not None]
        self._client.log_batch(run.info.run_id, params=params)
        return run.info.run_id

    def _log(self, run_id: str, epochs: set[int], rows: Sequence[Row]) -> None:
        """In as few requests as MLflow allows; an epoch is there whole or not at all."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        new = [row for row in rows if row["epoch"] not in epochs]
        for start in range(0, len(new), ROWS_PER_BATCH):
            batch = new[start : start + ROWS_PER_BATCH]
            metrics = [
                Metric(key, value, now_ms, row["epoch"])
                for row in batch
                for key, value in row.items()
                if key not in NOT_METRICS and value is not None and math.isfinite(value)
            ]
            self._client.log_batch(run_id, metrics=metrics)
            epochs |= {row["epoch"] for row in batch}


def _run_name(config: Row) -> str:
    """What most often tells a study's trials apart comes first: MLflow cuts a name at its end."""
    axes = {"b0": "bias_init_mean", "λ_b": "lambda_b"} if config.get("lambda_b") is not None else {}
    values = (f"{symbol}={config[key]:g}" for symbol, key in axes.items())
    names = (config["loss"], config["optimizer"], *values, f"seed={config['seed']}")
    return " ".join((*names, config["dataset"], config["model"]))


def _ms(at: datetime | None) -> int | None:
    return int(at.timestamp() * 1000) if at else None


def _end_ms(trial: Row) -> int | None:
    started = _ms(trial.get("started_at"))
    wall_s = trial.get("wall_s")
    return started + int(1000 * wall_s) if started is not None and wall_s is not None else None
