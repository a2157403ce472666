"""Augmentation of whole batches on the device.

DA1 is crops and flips, DA2 Mixup and CutMix; a rotation can be added to either, or to none.
"""

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def crop_padding(image_size: int) -> int:
    """Pixels of padding around an image: 4 at the paper's 32, in proportion elsewhere."""
    return image_size // 8


def draw_crops(count: int, pad: int, generator: torch.Generator) -> Tensor:
    """Row offset, column offset and flip of each sample, (count, 3), uniform."""
    offsets = torch.randint(2 * pad + 1, (count, 2), generator=generator)
    return torch.cat([offsets, torch.randint(2, (count, 1), generator=generator)], dim=1)


def crop_and_flip(padded: Tensor, indices: Tensor, draws: Tensor, *, pad: int) -> Tensor:
    """DA1: random crops (B, H, W, C) of the images at `indices`, half of them mirrored.

    Args: images with a border of `pad` pixels, black before normalisation,
    (N, H + 2*pad, W + 2*pad, C); sample indices (B,); what `draw_crops` drew for them, (B, 3).
    """
    count, height, width, channels = padded.shape
    n, y, x, c = padded.stride()
    # Every crop is a window of the memory, known by where it begins. Selecting along one dimension
    # copies whole rows, seven times as fast as indexing by sample, row and column does it.
    windows = padded.as_strided(
        ((count - 1) * n + 2 * pad * (y + x) + 1, height - 2 * pad, width - 2 * pad, channels),
        (1, y, x, c),
    )
    row, column, flip = draws.unbind(1)
    crops = windows.index_select(0, indices * n + row * y + column * x)
    mirrored = crops.flip(2)
    # Where flip is 1: crops ^ crops ^ mirrored. In place, and faster than torch.where on bytes.
    mask = (-flip).to(crops.dtype)[:, None, None, None]  # 0 or 255, all bits
    return mirrored.bitwise_xor_(crops).bitwise_and_(mask).bitwise_xor_(crops)


def draw_angles(count: int, degrees: float, generator: torch.Generator) -> Tensor:
    """An angle for each sample, (count,), uniform from -degrees to degrees."""
    return degrees * (2 * torch.rand(count, generator=generator) - 1)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Images (B, H, W, C), each turned counter-clockwise about its centre by its angle in degrees.

    As torchvision's RandomRotation does by default: the nearest pixel, or black from outside.
    """
    count, height, width, _ = images.shape
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device) - (height - 1) / 2
    pixels = torch.cartesian_prod(y, x).flip(1)  # (H*W, 2), as x and y from the centre
    cos, sin = angles.deg2rad().cos(), angles.deg2rad().sin()
    turn = torch.stack([cos, sin, -sin, cos], dim=1).view(count, 2, 2)
    # Where each pixel comes from, from -1 to 1 between the outer edges.
    grid = pixels @ (turn / (pixels.new_tensor([width, height]) / 2))
    turned = F.grid_sample(
        images.permute(0, 3, 1, 2).float(),
        grid.view(count, height, width, 2),
        mode="nearest",
        align_corners=False,
    )
    return turned.permute(0, 2, 3, 1).to(images.dtype)


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
