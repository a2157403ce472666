"""What can be known about trials before they run, so that mistakes are told before anything starts.

Names and ranges are checked when a TrialConfig is built; here is what needs torch, timm or data.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data.splits import check_data, load_data, stamp_of
from trainers.model.classifier import check_model_builds
from trainers.model.losses import check_loss
from trainers.model.optim import check_optimizer_builds
from trainers.run.compiling import missing_compiler
from trainers.run.device import default_device
from trainers.run.trainer import will_compile

__all__ = ["check_trials", "check_workers", "stamp_of"]
MODEL_FIELDS = ("dataset", "image_size", "model", "model_kwargs", "samples_per_class")
OPTIMIZER_FIELDS = ("optimizer", "optimizer_kwargs", "momentum", "weight_decay")


def check_trials(
    configs: Sequence[TrialConfig],
    *,
    data_dir: Path,
    download: bool,
    trained: Iterable[tuple[TrialConfig, str]] = (),
) -> list[str]:
    """What a reader of the plan should know about its models and data, each in a line.

    Args: `trained` are trials that ran before, and the fingerprints of their data.
    Raises InputError for keyword arguments, images, data or batches that can't be trained with,
    and without a GPU here for a model whose convolutions torch computes wrongly on this CPU.
    Fetches data that are missing, into `data_dir` if `download` allows it.
    """
    on_cpu, notes = default_device().type == "cpu", list[str]()
    _each_kind(configs, ("loss", "loss_kwargs", "num_classes", "augment"), _check_loss)
    _each_kind(configs, OPTIMIZER_FIELDS, check_optimizer_builds)
    _each_kind(configs, MODEL_FIELDS, lambda c: notes.extend(check_model_builds(c, on_cpu=on_cpu)))
    notes += check_data(configs, data_dir=data_dir, download=download, trained=trained)
    if on_cpu and (missing := missing_compiler()):
        _warn_of(missing, configs, data_dir=data_dir, download=download)
    return list(dict.fromkeys(notes))


def _warn_of(
    compiler: str, configs: Iterable[TrialConfig], *, data_dir: Path, download: bool
) -> None:
    """Say which trials will need the missing compiler, unless other machines run them."""
    lengths = ("dataset", "samples_per_class", "num_classes", "imbalance", "image_size")
    num_train: dict[str, int] = {}
    found = []
    for config in configs:
        if not config.compile:
            continue
        key = repr([getattr(config, name) for name in lengths])
        if key not in num_train:
            device = torch.device("cpu")
            data = load_data(config, data_dir=data_dir, download=download, device=device)
            num_train[key] = len(data.train)
        if will_compile(config, num_train[key]):
            found.append(config.trial_id)
    if found:
        print(
            f"warning: compile: true needs a C++ compiler on a CPU, and there is no {compiler} "
            f"here: {len(found)} of the trials will fail (first {found[0]}); install it, set CXX, "
            "or leave out compile",
            file=sys.stderr,
        )


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
