"""ResNet18's forward pass over a split, against one that keeps what a backward pass would need.

python -m benchmarks.evaluation
"""

import argparse
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor

from benchmarks.pairing import Work, compare, print_table
from benchmarks.synthetic import MEAN, STD, data, random_images, trial
from trainers.data import EVAL_BATCH
from trainers.distributed import Ranks
from trainers.models import Classifier
from trainers.trainer import Trainer

TARGET = 1.3


def ours(trainer: Trainer) -> Work:
    """The trainer's pass over its training split."""
    return lambda: sum(len(labels) for _, _, labels in trainer.forward(trainer.data.train))


def plain_peer(model: Classifier, images: Tensor) -> Work:
    """The same model and batches in NCHW, in evaluation mode but with gradients' bookkeeping."""
    model = deepcopy(model).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    nchw = images.permute(0, 3, 1, 2).contiguous()
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def run() -> int:
        model.eval()
        return sum(len(model((batch.float() - mean) / std)[1]) for batch in nchw.split(EVAL_BATCH))

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=EVAL_BATCH, help="in the split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    images = random_images(args.images)
    trainer = Trainer(trial(), data(images), Ranks(torch.device("cpu")))
    peer = plain_peer(trainer.model, images)
    found = compare(
        ours(trainer), {"NCHW, with gradients' bookkeeping": (peer, TARGET)}, rounds=args.rounds
    )
    print_table(f"evaluation pass of ResNet18, {args.threads} threads", found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
