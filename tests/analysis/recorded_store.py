"""A results store written by the schema, without training anything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from analysis.store.schema import EPOCHS, SCHEMA_VERSION, SCORES, TRIALS

Metrics = Mapping[str, float | None]
Bins = Mapping[str, Sequence[tuple[float, float, int]]]

COLLAPSE = {
    "recipe_version": 1, "dataset": "cifar10", "num_classes": 10, "image_size": 32,
    "model": "resnet18", "model_kwargs": "{}", "loss": "ce", "loss_kwargs": "{}",
    "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "schedule": "step", "epochs": 100,
    "passes_per_epoch": 1, "batch_size": 128, "augment": "none", "regularizer": "features",
    "lambda_w": 5e-4, "lambda_h": 5e-4, "lambda_b": 5e-4, "bias_init_mean": 0.0,
    "eval_every": 1, "seed": 0,
}  # fmt: skip
CLASSIFICATION = {
    **COLLAPSE,
    **dict.fromkeys(("lambda_w", "lambda_h", "lambda_b")),
    "augment": "da1", "regularizer": "global", "weight_decay": 5e-4,
}  # fmt: skip
ADAMW = {"optimizer": "adamw", "lr": 0.001, "momentum": None, "schedule": "cosine"}


@dataclass
class Store:
    """Writes trials as the trainers do: one file per trial and table."""

    root: Path
    trials: int = 0

    def add(
        self,
        config: Mapping[str, Any],
        metrics: Metrics | Sequence[Metrics] = (),
        *,
        scores: Bins | None = None,
        status: str | None = "finished",
        **overrides: Any,
    ) -> str:
        """A trial with these metrics at its only epoch, or at each of several; its id."""
        trial_id = f"{self.trials:012x}"
        self.trials += 1
        config = {**config, **overrides}
        epochs = [metrics] if isinstance(metrics, Mapping) else list(metrics)
        row = {
            "num_features": 512,
            **config,
            "trial_id": trial_id,
            "status": status,
            "epochs_done": len(epochs),
        }
        self.write("trials", trial_id, [row], TRIALS)
        rows = [{**m, "trial_id": trial_id, "epoch": i} for i, m in enumerate(epochs, start=1)]
        if rows:
            self.write("epochs", trial_id, rows, EPOCHS)
        if scores:
            self.write("scores", trial_id, _score_rows(trial_id, scores), SCORES)
        return trial_id

    def write(
        self, table: str, name: str, rows: Sequence[Mapping[str, Any]], schema: pa.Schema
    ) -> Path:
        path = self.root / table / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {field.name: [row.get(field.name) for row in rows] for field in schema}
        pq.write_table(pa.table(columns, schema=schema), path)
        return path

    def study(self, name: str, trials: Mapping[str, Mapping[str, Any]], **raw: Any) -> Path:
        """The plan of these trials, as the orchestrator writes it."""
        path = self.root / "studies" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "study": name,
            "command": f"python orchestrator/sweep.py --study {name}",
            "schema_version": SCHEMA_VERSION,
            "fixed": {},
            "trials": {key: dict(config) for key, config in trials.items()},
            **raw,
        }
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path


def _score_rows(trial_id: str, scores: Bins) -> list[dict[str, Any]]:
    return [
        {
            "trial_id": trial_id,
            "kind": kind,
            "bin_left": left,
            "bin_right": right,
            "count": count,
        }
        for kind, bins in scores.items()
        for left, right, count in bins
    ]


def channels(*widths: int) -> str:
    """model_kwargs of a narrow network."""
    return json.dumps({"channels": list(widths)})
