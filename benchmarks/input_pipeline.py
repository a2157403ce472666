"""Batches of augmented images alone, DA1 at 32x32, against two common ways to make them.

python -m benchmarks.input_pipeline
"""

import argparse
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from benchmarks.pairing import Work, compare
from benchmarks.pil_loader import pil_loader
from benchmarks.rows import Row, run
from benchmarks.synthetic import BATCH, MEAN, SIZE, STD, data, random_images, trial
from trainers.data.batches import TrainBatches

PAD = 4


def ours(images: Tensor) -> Work:
    """An epoch of this package's batches."""
    batches = TrainBatches(data(images), trial())
    return lambda: sum(len(batch.inputs) for batch in batches.epoch(1))


def pil_peer(images: Tensor) -> Work:
    """An epoch of torchvision's transforms on PIL images in two workers, kept between epochs."""
    loader = pil_loader(images, torch.zeros(len(images), dtype=torch.int64))
    return lambda: sum(len(inputs) for inputs, _ in loader)


def whole_epoch_peer(images: Tensor) -> Work:
    """A whole float epoch cropped at once, one shift after the other, then sliced into batches."""
    floats = images.permute(0, 3, 1, 2).float() / 255
    floats = (floats - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    padded = F.pad(floats, (PAD,) * 4)

    def epoch() -> int:
        shifts = torch.randint(2 * PAD + 1, (len(padded), 2))
        crops = torch.empty_like(floats)
        for row in range(2 * PAD + 1):
            for column in range(2 * PAD + 1):
                mask = (shifts[:, 0] == row) & (shifts[:, 1] == column)
                crops[mask] = padded[mask, :, row : row + SIZE, column : column + SIZE]
        flip = torch.rand(len(crops)) < 0.5
        crops = torch.where(flip[:, None, None, None], crops.flip(-1), crops)
        order = torch.randperm(len(crops))
        return sum(len(crops[indices]) for indices in order.split(BATCH))

    return epoch


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Ours against both."""
    torch.set_num_threads(args.threads)
    images = random_images(args.images)
    peers = {
        "DataLoader, PIL transforms, 2 workers": (pil_peer(images), 20.0),
        "whole float epoch, shift by shift": (whole_epoch_peer(images), 5.0),
    }
    what = f"input pipeline, {args.threads} threads"
    yield from compare(what, ours(images), peers, rounds=args.rounds)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000, help="in an epoch: CIFAR's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
