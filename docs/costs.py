"""What each study costs on GPUs, by arithmetic: the table of docs/reproducing.md.

python docs/costs.py
"""

from collections.abc import Mapping
from functools import cache
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.plan.study import expand, load_study
from trainers.config import TrialConfig
from trainers.model.classifier import build_model

STUDIES: Final = ("neural_collapse", "bias_init", "bias_decay", "classification", "full")
SAMPLES: Final[Mapping[str, tuple[int, int]]] = {  # for training and for test
    "mnist": (60_000, 10_000), "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000),
}  # fmt: skip
SUSTAINED: Final = 8e12  # operations a second of one GPU: assumed, see the page


def operations(config: TrialConfig) -> float:
    """Floating-point operations of a trial: a step is three forward passes, an evaluation one."""
    train, test = SAMPLES[config.dataset]
    images = 3 * train + (train + test) / config.eval_every
    return config.epochs * images * forward_operations(config.model, config.dataset)


@cache
def forward_operations(model: str, dataset: str) -> float:
    """Of one image, counted by PyTorch; a multiplication and an addition are two."""
    config = TrialConfig.parse(
        {"dataset": dataset, "model": model, "loss": "ce", "optimizer": "sgd"}
    )
    network = build_model(config, num_train=1).eval()
    size = config.image_size or 0
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return float(counter.get_total_flops())


def table() -> str:
    """A row for each study."""
    lines = [
        "| study | trials | 10¹⁵ operations | 1 GPU | 8 GPUs |",
        "|---|---|---|---|---|",
    ]
    for name in STUDIES:
        trials = expand(load_study(name)).values()
        total = sum(map(operations, trials))
        hours = total / SUSTAINED / 3600
        lines.append(
            f"| `{name}` | {len(trials):,} | {total / 1e15:,.0f} | {_time(hours)} "
            f"| {_time(hours / 8)} |"
        )
    return "\n".join(lines)


def _time(hours: float) -> str:
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


if __name__ == "__main__":
    print(table())
    for name in ("resnet18", "resnet50", "densenet121"):
        print(name, f"{forward_operations(name, 'cifar10') / 1e9:.2f}e9 an image")
