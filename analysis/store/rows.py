"""Rows on their way from one module to another, typed; `schema.py` says what the columns hold.

A test holds both against each other. Metrics are not spelled here: they are the other keys of an
`EpochRow`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Required

from typing_extensions import TypedDict  # of Python 3.15: a row has more keys, all of one type

from analysis.store.schema import Failure, Status

Metrics = dict[str, float]  # by column name; NaN where the data can't give it


class ConfigRow(TypedDict):
    """What a trial is, as columns of `trials`; dictionaries are JSON text."""

    recipe_version: int
    dataset: str
    num_classes: int
    samples_per_class: int | None
    imbalance: float | None
    image_size: int | None
    model: str
    model_kwargs: str
    loss: str
    loss_kwargs: str
    optimizer: str
    lr: float
    momentum: float | None
    optimizer_kwargs: str
    schedule: str
    warmup_epochs: int
    epochs: int
    passes_per_epoch: int
    batch_size: int
    augment: str
    rotation: float
    regularizer: str
    lambda_w: float | None
    lambda_h: float | None
    lambda_b: float | None
    weight_decay: float | None
    bias_init_mean: float
    precision: str
    compile: bool
    eval_every: int
    eval_dense: int
    seed: int


class TrialRow(ConfigRow, total=False):
    """A row of `trials`. Only what is required is there from a trial's start on."""

    trial_id: Required[str]
    status: Required[Status]
    reason: Required[str | None]
    failure: Required[Failure | None]
    epochs_done: Required[int | None]
    world_size: int | None
    device: str | None
    gpu_share: float | None
    batch_norm: str | None
    small_stem: str | None
    num_features: int | None
    num_train: int | None
    num_test: int | None
    data_fingerprint: str | None
    version_package: str | None
    version_torch: str | None
    version_timm: str | None
    version_python: str | None
    git_commit: str | None
    started_at: datetime | None
    wall_s: float | None
    train_s: float | None
    eval_s: float | None
    samples_per_s: float | None
    peak_memory_bytes: int | None
    attempts: Required[int | None]
    traceback: str | None


class EpochRow(TypedDict, extra_items=float | None):
    """A row of `epochs`, with the metrics of an epoch that was evaluated."""

    trial_id: str
    epoch: int
    lr: float
    train_loss: float
    train_objective: float
    samples_per_s: float
    train_s: float
    eval_s: float
    epoch_s: float


class ScoreRow(TypedDict):
    """A row of `scores`."""

    trial_id: str
    kind: str
    bin_left: float
    bin_right: float
    count: int


class FeatureRow(TypedDict):
    """A row of `features`."""

    trial_id: str
    sample_index: int
    label: int
    features: Sequence[float]


def begun(trial_id: str, config: ConfigRow) -> TrialRow:
    """The row of a trial that was asked for, with nothing of what comes of it."""
    return {
        **config,
        "trial_id": trial_id,
        "status": "running",
        "reason": None,
        "failure": None,
        "epochs_done": 0,
        "attempts": None,
    }
