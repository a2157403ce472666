"""How far the classifier's bias is from the stationary point of Theorem 2."""

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
    NaN where λ_H is 0, for which the equation is not defined.
    """
    if lambda_h == 0:
        return math.nan
    s_pos = math.sqrt(lambda_w / (n * lambda_h)) * weight_norm2 / num_classes
    negative = (num_classes - 1) * _sigmoid(-bias - s_pos / (num_classes - 1))
    positive = _sigmoid(bias - s_pos)
    return (positive - negative) / num_classes + lambda_b * bias


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
