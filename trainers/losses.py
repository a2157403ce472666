"""Losses on logits z = Wh - b: scalar means over the batch, for hard or soft targets."""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (its name everywhere)

from trainers.registry import register_loss


@register_loss("ce")
def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, Eq. (1), in nats.

    Args: logits (B, K); targets (B,) class ids, or (B, K) a distribution over the classes.
    """
    return F.cross_entropy(logits, targets)


@register_loss("bce")
def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy summed over the K classes, Eq. (2), in nats.

    Args: logits (B, K); targets (B,) class ids, or (B, K) values from 0 to 1.
    """
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
    # Paper: a sum over the classes, where PyTorch's default is the mean.
    total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return total / len(logits)


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
