"""Optimizers and learning-rate schedules of the recipe."""

import math

from torch import Tensor, optim

from trainers.config import TrialConfig

STEP_AT = (30, 60, 80)  # percent of all epochs: the paper's 30, 60 and 80 of 100
STEP_FACTOR = 0.2
COSINE_END = 1e-5


def learning_rate(config: TrialConfig, epoch: int) -> float:
    """The learning rate of an epoch (1-based); it changes between epochs only."""
    assert config.lr is not None
    if config.schedule == "step":
        passed = sum(100 * epoch > percent * config.epochs for percent in STEP_AT)
        return config.lr * STEP_FACTOR**passed
    if config.schedule == "cosine":
        progress = (epoch - 1) / max(config.epochs - 1, 1)
        return COSINE_END + (config.lr - COSINE_END) * (1 + math.cos(math.pi * progress)) / 2
    return config.lr


def build_optimizer(config: TrialConfig, parameters: list[Tensor]) -> optim.Optimizer:
    """The optimizer over all parameters, W and b included.

    With regularizer=features the decay is in the loss and none is here.
    """
    assert config.lr is not None
    decay = config.weight_decay or 0.0
    if config.optimizer == "sgd":
        return optim.SGD(
            parameters, config.lr, momentum=config.momentum or 0.0, weight_decay=decay, fused=True
        )
    if config.optimizer == "adamw":
        return optim.AdamW(
            parameters, config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay, fused=True
        )
    return optim.LBFGS(parameters, config.lr, line_search_fn="strong_wolfe")
