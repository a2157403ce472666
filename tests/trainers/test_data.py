"""Batches: the epoch's order and augmentation, and what crops and mixes may look like."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainers.config import TrialConfig
from trainers.data import (
    BatchMixup,
    Data,
    TrainBatches,
    crop_and_flip,
    crop_windows,
    draw_crops,
    load_data,
)

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


def test_crops_are_those_of_torchvision() -> None:
    from torchvision.transforms.functional import crop, hflip, pad

    images = torch.randint(1, 256, (2, 4, 4, 3), dtype=torch.uint8)
    padded = pad(images.permute(0, 3, 1, 2), [1])
    windows = crop_windows(images, pad=1)
    for sample in range(2):
        for top in range(3):
            for left in range(3):
                expected = crop(padded[sample], top, left, 4, 4)
                for flip, image in enumerate((expected, hflip(expected))):
                    draw = torch.tensor([[top, left, flip]])
                    ours = crop_and_flip(windows, torch.tensor([sample]), draw)[0]
                    assert torch.equal(ours.permute(2, 0, 1), image)


def test_crops_and_flips_are_uniform() -> None:
    draws = draw_crops(40_000, 4, torch.Generator().manual_seed(0))
    for column, values in enumerate((9, 9, 2)):
        counts = draws[:, column].bincount(minlength=values)
        expected = 40_000 / values
        # chi-square with values - 1 degrees of freedom; 26.1 is the 0.1 % point of 8
        assert ((counts - expected) ** 2 / expected).sum() < 26.1


def mixed(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    np.random.seed(seed)
    mix = BatchMixup(size)
    images = torch.arange(size).float()[:, None, None, None].expand(size, 1, 8, 8).clone()
    return mix(images, torch.arange(size))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_mixed_targets_say_what_is_in_the_image(size: int) -> None:
    # Image i is constant i, mixed with size - 1 - i: its mean tells the shares.
    for seed in range(20):
        images, targets = mixed(size, seed)
        assert targets.sum(1).allclose(torch.ones(size))
        means = images.mean(dim=(1, 2, 3))
        assert means.allclose(targets @ torch.arange(size).float(), atol=1e-5)


def test_mixup_and_cutmix_are_each_half_of_all_batches() -> None:
    def is_cutmix(images: torch.Tensor) -> bool:  # whole pixels only
        return bool((images == images.round()).all())

    share = sum(is_cutmix(mixed(4, seed)[0]) for seed in range(400)) / 400
    assert share == pytest.approx(0.5, abs=0.1)
