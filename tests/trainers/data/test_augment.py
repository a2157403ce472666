"""What crops, rotations and mixes may look like, and how often."""

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import Mixup
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms import v2

from trainers.data.augment import (
    BatchMixup,
    crop_and_flip,
    crop_padding,
    draw_angles,
    draw_crops,
    rotate,
)

SIZE, PAD = 8, 1
OUTCOMES = (2 * PAD + 1) ** 2 * 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, size: int = SIZE) -> torch.Tensor:
    """(count, size, size, 3), without black."""
    return torch.randint(1, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator())


def padded(batch: torch.Tensor, pad: int) -> torch.Tensor:
    return F.pad(batch, (0, 0, pad, pad, pad, pad))


def test_padding_is_the_papers_at_32() -> None:
    assert (crop_padding(32), crop_padding(SIZE)) == (4, PAD)


def crops_of_torchvision(image: torch.Tensor, count: int) -> list[bytes]:
    """What random crops and flips of an image (H, W, C) look like in the peer."""
    augment = v2.Compose([v2.RandomCrop(SIZE, padding=PAD), v2.RandomHorizontalFlip()])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [augment(image.permute(2, 0, 1)).numpy().tobytes() for _ in range(count)]


def crops_of_ours(image: torch.Tensor, draws: torch.Tensor) -> list[bytes]:
    which = torch.zeros(len(draws), dtype=torch.int64)
    crops = crop_and_flip(padded(image[None], PAD), which, draws, pad=PAD)
    return [crop.numpy().tobytes() for crop in crops.permute(0, 3, 1, 2).contiguous()]


def test_crops_and_flips_are_those_of_torchvision_as_often() -> None:
    image = images(1)[0]
    side = torch.arange(2 * PAD + 1)
    every = crops_of_ours(image, torch.cartesian_prod(side, side, torch.arange(2)))
    assert len(set(every)) == OUTCOMES
    theirs = crops_of_torchvision(image, 3000)
    ours = crops_of_ours(image, draw_crops(3000, PAD, generator()))
    assert set(theirs) == set(ours) == set(every)
    for found in (theirs, ours):
        assert stats.chisquare([found.count(one) for one in every]).pvalue > 0.001


def test_crops_and_flips_are_independent_of_each_other() -> None:
    row, column, flip = draw_crops(40_000, 4, generator()).unbind(1)
    counts = ((row * 9 + column) * 2 + flip).bincount()
    assert len(counts) == 162
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("layout", ["whole", "part", "columns first"])
def test_crops_are_those_of_their_images(pad: int, layout: str) -> None:
    whole = padded(images(5), pad)
    source = {
        "whole": whole,
        "part": whole[2:],  # of a larger dataset in memory
        "columns first": whole.transpose(1, 2),
    }[layout]
    indices = torch.arange(len(source)).repeat(20)
    draws = draw_crops(len(indices), pad, generator())
    draws[:2, :2] = torch.tensor([[0, 0], [2 * pad, 2 * pad]])
    ours = crop_and_flip(source, indices, draws, pad=pad)
    for index, (row, column, flip), crop in zip(indices, draws.tolist(), ours, strict=True):
        expected = source[index, row : row + SIZE, column : column + SIZE]
        assert torch.equal(crop, expected.flip(1) if flip else expected)


def test_crops_of_nothing_are_nothing() -> None:
    nothing = draw_crops(0, PAD, generator())
    crops = crop_and_flip(padded(images(2), PAD), nothing[:, 0], nothing, pad=PAD)
    assert crops.shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize("size", [4, 8, 28, 32])
def test_rotation_is_that_of_torchvision(size: int) -> None:
    # No pixel of an even-sized image is halfway between two others but at multiples of 90 degrees,
    # where none is needed. (33 pixels at 30 degrees would have ties, and so would differ.)
    right = torch.tensor([0.0, 90.0, -90.0, 180.0])
    angles = torch.cat([right, torch.arange(-15.0, 16.0), draw_angles(100, 180, generator())])
    batch = images(len(angles), size)
    ours = rotate(batch, angles)
    assert ours.dtype == torch.uint8
    for image, angle, turned in zip(batch, angles.tolist(), ours, strict=True):
        expected = v2.functional.rotate(image.permute(2, 0, 1), angle, fill=[0.0])
        assert torch.equal(turned.permute(2, 0, 1), expected)


def test_rotation_of_nothing_is_nothing() -> None:
    assert rotate(images(0), torch.zeros(0)).shape == (0, SIZE, SIZE, 3)


def test_angles_are_uniform_both_ways() -> None:
    angles = draw_angles(10_000, 15, generator()).numpy()
    assert stats.kstest(angles, stats.uniform(-15, 30).cdf).pvalue > 0.001


def mixed(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    np.random.seed(seed)
    return BatchMixup(size)(constant_images(size), torch.arange(size))


def constant_images(size: int) -> torch.Tensor:
    """Image i is i all over."""
    return torch.arange(size).float()[:, None, None, None].expand(size, 1, 8, 8).clone()


@pytest.mark.parametrize("size", [1, 4, 5])
def test_mixed_targets_say_what_is_in_the_image(size: int) -> None:
    # Image i is constant i, mixed with size - 1 - i: its mean tells the shares.
    for seed in range(20):
        batch, targets = mixed(size, seed)
        assert targets.sum(1).allclose(torch.ones(size))
        means = batch.mean(dim=(1, 2, 3))
        assert means.allclose(targets @ torch.arange(size).float(), atol=1e-5)


def test_mixing_is_timms_where_timm_mixes() -> None:
    theirs = Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.0, num_classes=4)
    for seed in range(20):
        ours = mixed(4, seed)
        np.random.seed(seed)
        assert all(map(torch.equal, ours, theirs(constant_images(4), torch.arange(4))))


def test_mixup_and_cutmix_are_each_half_of_all_batches_with_their_own_shares() -> None:
    cutmix, shares = 0, []
    for seed in range(1000):
        batch, targets = mixed(2, seed)
        if bool((batch == batch.round()).all()):  # whole pixels only
            cutmix += 1
        else:
            shares.append(float(targets[0, 0]))
    assert stats.binomtest(cutmix, 1000).pvalue > 0.001
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 0.001
