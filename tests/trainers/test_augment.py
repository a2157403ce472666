"""What crops and mixes may look like."""

import numpy as np
import pytest
import torch

from trainers.augment import BatchMixup, crop_and_flip, crop_windows, draw_crops


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
