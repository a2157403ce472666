"""The batches of an epoch: their order, their augmentation and each rank's share of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.config import TrialConfig
from trainers.data.batches import Batch, TrainBatches
from trainers.data.splits import Data, load_data
from trainers.run.ranks import Ranks

Tiny = Callable[..., TrialConfig]
CPU = torch.device("cpu")
KINDS: list[dict[str, Any]] = [
    {"augment": "none"},
    {"augment": "da1"},
    {"augment": "da1+da2"},
    {"augment": "none", "rotation": 15},
    {"augment": "da1+da2", "rotation": 15},
]


def load(config: TrialConfig) -> Data:
    return load_data(config, data_dir=Path("nowhere"), download=False, device=CPU)


def epoch(config: TrialConfig, number: int, *of: int) -> list[Batch]:
    return list(TrainBatches(load(config), config, *of).epoch(number))


def same(one: Batch, other: Batch) -> bool:
    tensors = torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)
    return tensors and one.global_size == other.global_size


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_epoch_depends_on_seed_and_epoch_alone(tiny: Tiny, kind: dict[str, Any]) -> None:
    config = tiny(**kind)
    fresh = epoch(config, 2)
    batches = TrainBatches(load(config), config)
    list(batches.epoch(1))
    torch.rand(7)
    np.random.rand(7)
    assert all(map(same, fresh, batches.epoch(2)))
    for other in (epoch(config, 3), epoch(tiny(**kind, seed=1), 2)):
        assert not torch.equal(other[0].inputs, fresh[0].inputs)


def test_every_sample_once_an_epoch_and_again_each_pass(tiny: Tiny) -> None:
    config = tiny(batch_size=16, passes_per_epoch=2)
    batches = epoch(config, 1)
    assert [len(batch.targets) for batch in batches] == [16, 16, 16, 12] * 2
    assert [batch.global_size for batch in batches] == [16, 16, 16, 12] * 2
    counts = torch.cat([batch.targets for batch in batches]).bincount()
    assert counts.tolist() == [12] * 10
    assert not torch.equal(batches[0].inputs, batches[4].inputs)


def test_images_are_normalised_after_augmentation(tiny: Tiny) -> None:
    config = tiny(augment="da1", rotation=15)
    data = load(config)
    black = ((0 - data.mean) / data.std).item()
    for batch in epoch(config, 1):
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
        assert batch.inputs.shape[1:] == (1, 8, 8)
        assert batch.inputs.min().item() == pytest.approx(black)


def test_a_rotation_leaves_order_and_crops_as_they_are(tiny: Tiny) -> None:
    # 1e-3 degrees turn no pixel of 8 away from its place.
    plain, turned = (epoch(tiny(augment="da1", rotation=r), 1) for r in (0, 1e-3))
    assert all(map(same, plain, turned))


def test_a_rotation_turns_each_sample_its_own_way(tiny: Tiny) -> None:
    # The outermost of 8 pixels move at about 8 degrees: half of all angles show, half don't.
    (plain,), (turned,) = (epoch(tiny(rotation=r, batch_size=60), 1) for r in (0, 15))
    changed = (plain.inputs != turned.inputs).flatten(1).any(1).float().mean().item()
    assert 0.2 < changed < 0.8


# 50 samples in batches of 7: seven whole ones, which no world size here divides, and one of 1
# sample, of which all ranks but the first get nothing.
UNEVEN = {"samples_per_class": 5, "batch_size": 7}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_have_the_batches_of_one_process(
    tiny: Tiny, kind: dict[str, Any], world_size: int
) -> None:
    config = tiny(**UNEVEN, **kind, passes_per_epoch=2)
    whole = epoch(config, 3)
    ranks = [epoch(config, 3, rank, world_size) for rank in range(world_size)]
    for one, *parts in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([part.inputs for part in parts]), one.inputs)
        assert torch.equal(torch.cat([part.targets for part in parts]), one.targets)
        assert {part.global_size for part in parts} == {one.global_size}
        for rank, part in enumerate(parts):
            share = Ranks(CPU, rank, world_size).share(one.global_size)
            assert len(part.inputs) == len(part.targets) == share.stop - share.start
            assert part.inputs.shape[1:] == one.inputs.shape[1:]


def test_layers_draw_otherwise_on_each_rank_and_mixup_alike(tiny: Tiny) -> None:
    config = tiny(**UNEVEN)
    seeds, draws = [], []
    for rank in range(3):
        next(TrainBatches(load(config), config, rank, 3).epoch(1))
        seeds.append(torch.initial_seed())
        draws.append(np.random.rand())
    assert len(set(seeds)) == 3
    assert len(set(draws)) == 1
    next(TrainBatches(load(config), config).epoch(1))
    assert torch.initial_seed() == seeds[0]
