"""Losses on logits z = Wh - b: scalar means over the batch, for hard or soft targets.

A batch may be empty, as a worker's share of the last one can be: its loss is 0, with a graph.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from analysis.store.errors import InputError, one_line
from trainers.registry import LOSSES, register_loss


@register_loss("ce")
def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, Eq. (1), in nats: -sum over j of y_j log softmax(z)_j.

    Args: logits (B, K); targets (B,) class ids, or (B, K) a distribution over the classes;
    `label_smoothing` e trains on (1 - e) y + e/K. Raises InputError unless 0 <= e < 1.
    """
    _check_smoothing(label_smoothing)
    if targets.ndim == 2:
        targets = targets.to(logits.dtype)
    total = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=label_smoothing)
    return _mean(total, logits)


@register_loss("bce")
def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Binary cross-entropy summed over the K classes, Eq. (2), in nats.

    Args: logits (B, K); targets (B,) class ids, or (B, K) values from 0 to 1; `label_smoothing` e
    trains on (1 - e) y + e/K, as in `ce`. Raises InputError unless 0 <= e < 1.
    """
    _check_smoothing(label_smoothing)
    soft = _soft(targets, logits)
    if label_smoothing:
        soft = (1 - label_smoothing) * soft + label_smoothing / logits.shape[1]
    # Paper: a sum over the classes, where PyTorch's default is the mean.
    return _mean(F.binary_cross_entropy_with_logits(logits, soft, reduction="sum"), logits)


@register_loss("focal")
def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss in nats: -sum over j of y_j (1 - p_j)^gamma log p_j, where p = softmax(z).

    Args: logits (B, K); targets (B,) class ids, or (B, K) a distribution over the classes; gamma 0
    is `ce`. Raises InputError unless gamma is finite and at least 0.
    Source: Lin et al. 2017 (arXiv 1708.02002), Eq. (4), in the softmax form that classifiers use.
    """
    if not (_is_number(gamma) and 0 <= gamma < math.inf):
        raise InputError(f"gamma={gamma!r} of the focal loss must be a finite number from 0 up")
    log_p = F.log_softmax(logits, dim=1)
    # At p = 1 the power has an infinite slope for gamma < 1, though the loss itself has slope 0.
    others = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    return _mean(-torch.sum(_soft(targets, logits) * others**gamma * log_p), logits)


@register_loss("mse")
def mean_squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Half the squared distance to the targets: 1/2 * sum over the K classes of (z_j - y_j)^2.

    Args: logits (B, K); targets (B,) class ids, or (B, K) values.
    Source: Han et al. 2022, "Neural collapse under MSE loss" (arXiv 2106.02073), whose 1/2 this is.
    """
    return _mean(0.5 * (logits - _soft(targets, logits)).square().sum(), logits)


def check_loss(
    name: str, kwargs: Mapping[str, Any], *, num_classes: int, soft: bool = False
) -> None:
    """Try a loss, built-in or the user's, on a small batch with a study's `loss_kwargs`.

    With `soft`, targets are as Mixup makes them, (2, K), and not class ids.

    Raises InputError, naming the loss and what it accepts, if they don't fit or it fails.
    """
    loss = LOSSES[name]
    signature = inspect.signature(loss)
    try:
        signature.bind(None, None, **kwargs)
    except TypeError as error:
        accepted = ", ".join(list(signature.parameters)[2:]) or "none"
        raise InputError(
            f"loss_kwargs={dict(kwargs)} don't fit loss={name}: {error}; it accepts {accepted}"
        ) from error
    logits = torch.zeros(2, num_classes, requires_grad=True)
    targets = torch.full((2, num_classes), 1 / num_classes) if soft else torch.arange(2)
    try:
        value = loss(logits, targets, **kwargs)
    except InputError as error:
        raise InputError(f"loss={name}: {error}") from error
    except Exception as error:  # the user's code can raise anything
        raise InputError(
            f"loss={name} with loss_kwargs={dict(kwargs)} fails on logits (2, {num_classes}) and "
            f"targets {tuple(targets.shape)}: {one_line(error)}; correct the study or the loss"
        ) from error
    if not (isinstance(value, Tensor) and value.shape == () and value.requires_grad):
        raise InputError(f"loss={name} must return the mean over the batch, a scalar of the graph")


def feature_penalty(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    lambda_w: float,
    lambda_h: float,
    lambda_b: float,
) -> Tensor:
    """The regulariser of Eq. (3): l_W/2 |W|^2 + l_b/2 |b|^2 + l_H/2 * sum over the batch of |h|^2.

    Args: features (B, d), weight (K, d), bias (K,). The features' part is a sum, not a mean, so the
    `n` of Eq. (3) is B/K.
    """
    squares = (lambda_w * weight.square().sum()) + (lambda_b * bias.square().sum())
    return 0.5 * (squares + lambda_h * torch.sum(features.square()))


def _mean(total: Tensor, logits: Tensor) -> Tensor:
    return total / max(len(logits), 1)


def _soft(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets (B,) or (B, K) as (B, K) in the type of the logits."""
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1])
    return targets.to(logits.dtype)


def _check_smoothing(value: object) -> None:
    if not (_is_number(value) and 0 <= value < 1):
        raise InputError(f"label_smoothing={value!r} must be a number from 0 to less than 1")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
