"""What can be known about trials before they run, so that mistakes are told before anything starts.

Names and ranges are checked when a TrialConfig is built; here is what needs torch, timm or data.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data.splits import check_data
from trainers.model.classifier import check_model_builds
from trainers.model.losses import check_loss
from trainers.model.optim import check_optimizer_builds

MODEL_FIELDS = ("dataset", "image_size", "model", "model_kwargs", "samples_per_class")
OPTIMIZER_FIELDS = ("optimizer", "optimizer_kwargs", "momentum", "weight_decay")


def check_trials(configs: Sequence[TrialConfig], *, data_dir: Path, download: bool) -> None:
    """Raises InputError for keyword arguments, images, data or batches that can't be trained with.

    Fetches data that are missing, into `data_dir` if `download` allows it.
    """
    _each_kind(configs, ("loss", "loss_kwargs", "num_classes", "augment"), _check_loss)
    _each_kind(configs, OPTIMIZER_FIELDS, check_optimizer_builds)
    _each_kind(configs, MODEL_FIELDS, check_model_builds)
    check_data(configs, data_dir=data_dir, download=download)


def check_workers(config: TrialConfig, workers: int) -> None:
    """Raises InputError if a batch has fewer samples than there are workers to share it."""
    if config.batch_size < workers:
        raise InputError(
            f"batch_size={config.batch_size} is less than the {workers} workers that share it; "
            "use fewer with --workers"
        )


def _each_kind(
    configs: Iterable[TrialConfig], fields: Sequence[str], check: Callable[[TrialConfig], None]
) -> None:
    """Check one config of those that agree in these fields."""
    kinds = {tuple(repr(getattr(config, name)) for name in fields): config for config in configs}
    for config in kinds.values():
        check(config)


def _check_loss(config: TrialConfig) -> None:
    assert config.num_classes is not None  # a TrialConfig is complete
    soft = "da2" in config.augment
    check_loss(config.loss, config.loss_kwargs, num_classes=config.num_classes, soft=soft)
