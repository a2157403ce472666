"""What the benchmarks train on: random images in the shape of CIFAR, and ResNet18."""

from typing import Any

import torch

from trainers.config import TrialConfig
from trainers.data.augment import crop_padding
from trainers.data.splits import Data, Split

SIZE, BATCH, CLASSES = 32, 128, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def trial(**fields: Any) -> TrialConfig:
    """A trial of the `classification` study; keyword arguments change its fields."""
    study: dict[str, Any] = {
        "dataset": "cifar10",
        "model": "resnet18",
        "loss": "ce",
        "optimizer": "sgd",
        "regularizer": "global",
        "augment": "da1",
        "batch_size": BATCH,
    }
    return TrialConfig.parse({**study, **fields})


def random_images(count: int) -> torch.Tensor:
    """(count, 32, 32, 3), uint8."""
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), dtype=torch.uint8)


def data(images: torch.Tensor) -> Data:
    """A training and a test set of these images, with labels at random."""
    pad = crop_padding(SIZE)
    padded = torch.nn.functional.pad(images, (0, 0, pad, pad, pad, pad))
    labels = torch.randint(0, CLASSES, (len(images),))
    split = Split.of_images(padded, labels, pad=pad)
    return Data(split, split, 255 * torch.tensor(MEAN), 255 * torch.tensor(STD))
