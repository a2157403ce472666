"""The batches of an epoch: their order and augmentation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize("augment", ["none", "da1", "da1+da2"])
def test_an_epoch_depends_on_seed_and_epoch_alone(tiny: Tiny, augment: str) -> None:
    config = tiny(augment=augment)
    fresh = epoch(config, 2)
    batches = TrainBatches(load(config), config)
    list(batches.epoch(1))
    torch.rand(7)
    np.random.rand(7)
    again = list(batches.epoch(2))
    for before, after in zip(fresh, again, strict=True):
        assert all(map(torch.equal, before, after))
    for other in (epoch(config, 3), epoch(tiny(augment=augment, seed=1), 2)):
        assert not torch.equal(other[0][0], fresh[0][0])


def test_every_sample_once_an_epoch_and_again_each_pass(tiny: Tiny) -> None:
    config = tiny(batch_size=16, passes_per_epoch=2)
    batches = epoch(config, 1)
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 12] * 2
    counts = torch.cat([labels for _, labels in batches]).bincount()
    assert counts.tolist() == [12] * 10
    assert not torch.equal(batches[0][0], batches[4][0])
