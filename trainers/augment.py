"""Augmentation of whole batches on the device: DA1 (crops and flips) and DA2 (Mixup and CutMix)."""

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def crop_padding(image_size: int) -> int:
    """Pixels of padding around an image: 4 at the paper's 32, in proportion elsewhere."""
    return image_size // 8


def crop_windows(images: Tensor, *, pad: int) -> Tensor:
    """Every crop of every image, as a view: (N, 2*pad + 1, 2*pad + 1, H, W, C) of (N, H, W, C)."""
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))  # black, before normalisation
    count, height, width, channels = images.shape
    n, y, x, c = padded.stride()
    shape = (count, 2 * pad + 1, 2 * pad + 1, height, width, channels)
    return padded.as_strided(shape, (n, y, x, y, x, c))


def draw_crops(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """Row offset, column offset and flip of each sample, (count, 3), uniform."""
    offsets = torch.randint(2 * pad + 1, (count, 2), generator=generator)
    return torch.cat([offsets, torch.randint(2, (count, 1), generator=generator)], dim=1)


def crop_and_flip(windows: Tensor, indices: Tensor, draws: Tensor) -> Tensor:
    """DA1: random crops (B, H, W, C) of the images at `indices`, half of them mirrored."""
    row, column, flip = draws.unbind(1)
    crops = windows[indices, row, column]
    return torch.where(flip.bool()[:, None, None, None], crops.flip(2), crops)


class BatchMixup(Mixup):
    """DA2: timm's Mixup and CutMix in batch mode, for batches of any size.

    timm refuses an odd batch, which only its pair mode needs to be even.
    """

    def __init__(self, num_classes: int) -> None:
        # Paper: it names no label smoothing; timm's own default would be 0.1.
        super().__init__(
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            switch_prob=0.5,
            label_smoothing=0.0,
            num_classes=num_classes,
        )

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (B, C, H, W), in place, and class ids (B,) to soft targets (B, K)."""
        lam = self._mix_batch(x)
        return x, mixup_target(target, self.num_classes, lam, self.label_smoothing)
