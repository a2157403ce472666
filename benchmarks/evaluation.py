"""ResNet18's forward pass over a split, against one that keeps what a backward pass would need.

python -m benchmarks.evaluation
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from benchmarks.pairing import Work, compare, print_table
from benchmarks.synthetic import MEAN, SIZE, STD, data, random_images, trial
from trainers.data import EVAL_PIXELS
from trainers.distributed import Ranks
from trainers.models import Classifier
from trainers.trainer import Trainer

TARGET = 1.3
BATCH = EVAL_PIXELS // SIZE**2  # ours
LARGE_BATCH = 512  # of a script that makes batches as large as they fit, which a GPU likes


def ours(trainer: Trainer) -> Work:
    """The trainer's pass over its training split."""
    return lambda: sum(len(labels) for _, _, labels in trainer.forward(trainer.data.train))


def plain_peer(model: Classifier, images: Tensor, batch_size: int) -> Work:
    """The same model in NCHW, in evaluation mode but with gradients' bookkeeping."""
    model = deepcopy(model).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    nchw = images.permute(0, 3, 1, 2).contiguous()
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def run() -> int:
        model.eval()
        return sum(len(model((batch.float() - mean) / std)[1]) for batch in nchw.split(batch_size))

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=LARGE_BATCH, help="in the split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    images = random_images(args.images)
    trainer = Trainer(trial(), data(images), Ranks(torch.device("cpu")))
    peers = {
        f"NCHW, with gradients' bookkeeping, {size} a batch": (
            plain_peer(trainer.model, images, size),
            TARGET if size == LARGE_BATCH else None,
        )
        for size in (BATCH, LARGE_BATCH)
    }
    found = compare(ours(trainer), peers, rounds=args.rounds)
    print_table(f"evaluation pass of ResNet18, {args.threads} threads", found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
