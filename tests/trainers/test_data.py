"""The splits of a trial."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainers.batches import TrainBatches
from trainers.config import TrialConfig
from trainers.data import Data, load_data

Tiny = Callable[..., TrialConfig]
CPU = torch.device("cpu")


def load(config: TrialConfig) -> Data:
    return load_data(config, data_dir=Path("nowhere"), download=False, device=CPU)


def epoch(config: TrialConfig, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(TrainBatches(load(config), config).epoch(number))


def test_digits_are_the_real_ones_split_in_order(tiny: Tiny) -> None:
    data = load(tiny(samples_per_class=None))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.inputs.shape == (1437, 8, 8, 1)
    assert data.train.inputs.dtype == torch.uint8
    normalised = data.prepare(data.train.inputs)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-3)
    assert normalised.std().item() == pytest.approx(1, abs=1e-3)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_samples_per_class_and_class_subset(tiny: Tiny) -> None:
    data = load(tiny(samples_per_class=6, num_classes=3))
    assert data.train.labels.bincount().tolist() == [6, 6, 6]
    assert data.test is not None
    assert data.test.labels.max() == 2
    everything = load(tiny(samples_per_class=None))
    zeros = everything.train.inputs[everything.train.labels == 0]
    assert torch.equal(data.train.inputs[data.train.labels == 0], zeros[:6])


def test_images_are_resized(tiny: Tiny) -> None:
    assert load(tiny(image_size=12)).train.inputs.shape[1:] == (12, 12, 1)


def test_labels_alone() -> None:
    fields = {"dataset": "labels", "samples_per_class": 3, "num_classes": 4, "model": "ufm"}
    data = load(TrialConfig.parse({**fields, "loss": "ce", "optimizer": "lbfgs"}))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert data.train.inputs.tolist() == list(range(12))
    assert data.test is None
