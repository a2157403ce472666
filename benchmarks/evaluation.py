"""ResNet18's forward pass over a split, against one that keeps what a backward pass would need.

python -m benchmarks.evaluation
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks.pairing import Work, compare, in_process
from benchmarks.rows import Row, run
from benchmarks.synthetic import MEAN, SIZE, STD, data, random_images, trial
from trainers.data.splits import EVAL_PIXELS
from trainers.model.classifier import build_model
from trainers.run.memory import keep_freed_memory
from trainers.run.ranks import Ranks
from trainers.run.trainer import Trainer

TARGET = 1.3
BATCH = EVAL_PIXELS // SIZE**2  # ours
LARGE_BATCH = 512  # of a script that makes batches as large as they fit, which a GPU likes


def ours(count: int) -> Work:
    """The trainer's pass over its training split, as a trial runs it."""
    keep_freed_memory()
    trainer = Trainer(trial(), data(random_images(count)), Ranks(torch.device("cpu")))
    return lambda: sum(len(labels) for _, _, labels in trainer.forward(trainer.data.train))


def plain_peer(count: int, batch_size: int) -> Work:
    """The same model in NCHW, in evaluation mode but with gradients' bookkeeping."""
    model = build_model(trial(), count)
    nchw = random_images(count).permute(0, 3, 1, 2).contiguous()
    mean, std = (255 * torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def run() -> int:
        model.eval()
        return sum(len(model((batch.float() - mean) / std)[1]) for batch in nchw.split(batch_size))

    return run


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Ours against both batch sizes."""
    with ExitStack() as stack:

        def side(make: Callable[..., Work], *more: Any) -> Work:
            return stack.enter_context(in_process(args.threads, make, args.images, *more))

        peers = {
            f"NCHW, with gradients' bookkeeping, {size} a batch": (
                side(plain_peer, size),
                TARGET if size == LARGE_BATCH else None,
            )
            for size in (BATCH, LARGE_BATCH)
        }
        what = f"evaluation pass of ResNet18, {args.threads} threads"
        yield from compare(what, side(ours), peers, rounds=args.rounds)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=LARGE_BATCH, help="in the split")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
