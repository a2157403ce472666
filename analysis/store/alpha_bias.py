"""Eq. (12): `trainers` computes it of what was trained, `analysis` of what is predicted.

It stands here since this room is all that they share.
"""

import math


def alpha_bias(
    bias: float,
    weight_norm2: float,
    *,
    num_classes: int,
    n: float,
    lambda_w: float,
    lambda_h: float,
    lambda_b: float,
) -> float:
    """The right side of Eq. (12), α(b); dimensionless, 0 at Theorem 2's minimum.

    Args: mean bias; ρ = ‖W‖_F²; K; n, the samples per class that share a loss (B/K); the λ's.
    NaN where λ_H is 0, for which the equation is not defined. Raises ValueError for a negative ρ.
    """
    if weight_norm2 < 0:
        raise ValueError(f"weight_norm2={weight_norm2} must be a squared norm, at least 0")
    if lambda_h == 0:
        return math.nan
    s_pos = math.sqrt(lambda_w / (n * lambda_h)) * weight_norm2 / num_classes  # Eq. (13)
    negative = (num_classes - 1) * _sigmoid(-bias - s_pos / (num_classes - 1))
    positive = _sigmoid(bias - s_pos)
    return (positive - negative) / num_classes + lambda_b * bias


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
