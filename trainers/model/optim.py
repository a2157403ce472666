"""Optimizers, torch's and timm's, and the learning-rate schedules of the recipe."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor, optim

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.recipes import COSINE_END

STEP_AT = (30, 60, 80)  # percent of all epochs: the paper's 30, 60 and 80 of 100
STEP_FACTOR = 0.2

# The paper's, and the one for free features; any other name is timm's.
_TORCH: Final[Mapping[str, type[optim.Optimizer]]] = {
    "sgd": optim.SGD,
    "adamw": optim.AdamW,
    "lbfgs": optim.LBFGS,
}


def learning_rate(config: TrialConfig, epoch: int) -> float:
    """The learning rate of an epoch (1-based); it changes between epochs only.

    Over the first w = `warmup_epochs` it rises in a straight line, lr/w, 2 lr/w, ..., lr. Then the
    cosine runs from lr, in epoch w + 1, to its end in the last one; the steps stay at their
    percentages of all epochs, and have no effect before epoch w + 1.
    """
    assert config.lr is not None
    warmup = config.warmup_epochs
    if epoch <= warmup:
        return config.lr * epoch / warmup
    if config.schedule == "step":
        passed = sum(100 * epoch > percent * config.epochs for percent in STEP_AT)
        return config.lr * STEP_FACTOR**passed
    if config.schedule == "cosine":
        progress = (epoch - warmup - 1) / max(config.epochs - warmup - 1, 1)
        return COSINE_END + (config.lr - COSINE_END) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr


def build_optimizer(config: TrialConfig, parameters: Sequence[Tensor]) -> optim.Optimizer:
    """The optimizer over all parameters, W, b and BatchNorm's included, in one group.

    With regularizer=features the decay is in the loss and none is here. Raises InputError if the
    optimizer refuses `optimizer_kwargs`, or needs what this machine hasn't.
    """
    kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in config.optimizer_kwargs.items()}
    build = _builder(config)
    if config.optimizer in _TORCH:
        _check_kwargs(config, _TORCH[config.optimizer])
    else:
        kind = _class_in_timm(config.optimizer)
        _check_kwargs(config, kind)
        _check_adapts(config, kind)
    try:
        return build(parameters, **kwargs)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _does_not_fit(config, str(error)) from error


def check_optimizer_builds(config: TrialConfig) -> None:
    """Raises InputError if the optimizer refuses `optimizer_kwargs`, as found on one parameter.

    An optimizer of Apex or bitsandbytes isn't tried: maybe only the workers have its package.
    """
    if config.optimizer in _TORCH or not _is_external(config.optimizer):
        build_optimizer(config, [torch.zeros(2, 2, requires_grad=True)])


def _builder(config: TrialConfig) -> Callable[..., optim.Optimizer]:
    """What makes the optimizer of parameters and `optimizer_kwargs`, which override these."""
    assert config.lr is not None
    decay = config.weight_decay or 0.0
    if config.optimizer == "lbfgs":
        if decay:
            raise InputError(
                f"weight_decay={decay} has no effect with optimizer=lbfgs, which has none; use "
                "regularizer=features"
            )
        return partial(optim.LBFGS, lr=config.lr, line_search_fn="strong_wolfe")
    if config.optimizer == "sgd":
        return partial(
            optim.SGD,
            lr=config.lr,
            momentum=config.momentum or 0.0,
            weight_decay=decay,
            # If the loss scaler skips the first step, torch's fused SGD (seen in 2.14) keeps as
            # momentum what was in the memory.
            fused=config.precision != "fp16",
        )
    if config.optimizer == "adamw":
        return partial(
            optim.AdamW,
            lr=config.lr,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=decay,
            fused=True,
        )
    from timm.optim import create_optimizer_v2  # takes seconds, and few studies need it

    # Given a list, not a model, timm excludes no parameter from the decay.
    build = partial(create_optimizer_v2, opt=config.optimizer, lr=config.lr, weight_decay=decay)
    if "kron" in config.optimizer:  # else its noise differs between ranks, and after a resume
        return partial(build, deterministic=True)
    return build


def _check_kwargs(config: TrialConfig, kind: Callable[..., optim.Optimizer]) -> None:
    """Refuse keywords that the class hasn't: timm drops some of them without a word."""
    ours = ("params", "lr", "weight_decay")
    known = {k: v for k, v in inspect.signature(kind).parameters.items() if k not in ours}
    for name, value in config.optimizer_kwargs.items():
        if name not in known:
            raise _does_not_fit(config, f"it has no {name!r}; it accepts {', '.join(known)}")
        if not _is_like(value, default := known[name].default):
            raise _does_not_fit(config, f"{name}={value!r} must be like its default, {default!r}")


def _check_adapts(config: TrialConfig, kind: Callable[..., optim.Optimizer]) -> None:
    """Refuse an optimizer by layers that would adapt to none: LARS would be SGD, bit for bit.

    timm applies their trust ratio to parameters with weight decay alone, unless told otherwise.
    """
    by_layers = "always_adapt" in inspect.signature(kind).parameters
    if by_layers and not config.weight_decay and not config.optimizer_kwargs.get("always_adapt"):
        raise InputError(
            f"optimizer={config.optimizer} adapts to layers only with weight decay, and without "
            "trains as if it had another name; use optimizer_kwargs: {always_adapt: true}, or "
            "regularizer=global with a weight_decay"
        )


def _is_like(value: object, default: object) -> bool:
    """Whether a value is of its default's kind, as far as that says anything."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(default)
            and all(map(_is_like, value, default))
        )
    return True


def _class_in_timm(name: str) -> Callable[..., optim.Optimizer]:
    from timm.optim import get_optimizer_class

    try:
        return get_optimizer_class(name, bind_defaults=False)
    except (AssertionError, ImportError) as error:
        raise InputError(f"optimizer={name} can't be had on this machine: {error}") from error


def _is_external(name: str) -> bool:
    from timm.optim import get_optimizer_info

    return isinstance(get_optimizer_info(name).opt_class, str)  # imported when it is built


def _does_not_fit(config: TrialConfig, reason: str) -> InputError:
    given = dict(config.optimizer_kwargs)
    return InputError(f"optimizer_kwargs={given} don't fit {config.optimizer}: {reason}")
