"""Whole training steps of ResNet18 at 32x32 with DA1 against bare loops and a plain script.

python -m benchmarks.train_step [--compiled]

On two cores a step takes seconds, so a round is a few of them. `--compiled` measures
`compile: true` against the plain script as it is; the compiler's minutes are in no round.

The matmul tells how much there is to gain: a step that does its multiplications as fast as one
large matrix product leaves nothing for a better loop, layout or compiler.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from benchmarks.pairing import Work, compare, in_process
from benchmarks.pil_loader import endless, pil_loader
from benchmarks.rows import Row, run
from benchmarks.synthetic import BATCH, CLASSES, SIZE, data, random_images, trial
from trainers.run.memory import keep_freed_memory
from trainers.run.ranks import Ranks
from trainers.run.trainer import COMPILE_FROM_STEPS, Trainer

PLAIN_TARGET, COMPILED_TARGET, BARE_TARGET = 1.35, 1.7, 0.97


def ours(steps: int, compiled: bool) -> Work:
    """An epoch of `steps` steps of the trainer, as a trial runs it."""
    keep_freed_memory()
    config = trial(compile=compiled, epochs=COMPILE_FROM_STEPS)  # so long that compiling pays
    trainer = Trainer(config, data(random_images(steps * BATCH)), Ranks(torch.device("cpu")))
    return lambda: trainer.train_epoch(1)["samples"]


def small_resnet18() -> nn.Module:
    """torchvision's ResNet18 with the stem for small images."""
    model = resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return model


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's, as one writes it by hand."""
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def bare_peer(steps: int) -> Work:
    """No data, no metrics: the same random batch again and again, channels_last."""
    model = small_resnet18().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = sgd(model)
    inputs = torch.randn(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (BATCH,))

    def run() -> int:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return steps * BATCH

    return run


def plain_peer(steps: int) -> Work:
    """A plain script: NCHW, PIL transforms in two workers, top-k accuracy and loss every step."""
    model = small_resnet18()
    optimizer = sgd(model)
    images = random_images(16 * BATCH)
    batches = endless(pil_loader(images, torch.randint(0, CLASSES, (len(images),))))

    def run() -> int:
        seen, loss_sum, top1, top5 = 0, 0.0, 0.0, 0.0
        for _ in range(steps):
            inputs, labels = next(batches)
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen += len(labels)
            loss_sum += loss.item() * len(labels)
            first, fifth = top_k(logits, labels)
            top1, top5 = top1 + first, top5 + fifth
        return seen

    return run


def matmul_peer(steps: int) -> Work:
    """As many multiplications as in the steps of the bare loop, in large matrix products."""
    model = small_resnet18()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, SIZE, SIZE)).sum().backward()
    side = 4096
    matrix = torch.randn(side, side)
    products = round(counter.get_total_flops() / 2 * BATCH * steps / (2 * side**3))
    images = round(products * 2 * side**3 * 2 / counter.get_total_flops())

    def run() -> int:
        for _ in range(products):
            torch.mm(matrix, matrix)
        return images

    return run


def top_k(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """How many labels are the highest of their logits, and among the five highest."""
    hits = logits.topk(5).indices == labels[:, None]
    return hits[:, :1].sum().item(), hits.sum().item()


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Ours against all peers, in processes of their own."""
    with ExitStack() as stack:

        def side(make: Callable[..., Work], *more: Any) -> Work:
            return stack.enter_context(in_process(args.threads, make, args.steps, *more))

        target = COMPILED_TARGET if args.compiled else PLAIN_TARGET
        peers: dict[str, tuple[Work, float | None]] = {
            "plain script, NCHW, PIL, .item()": (side(plain_peer), target)
        }
        peers["float32 matmul of as many multiplications"] = (side(matmul_peer), None)
        if not args.compiled:
            bare = (side(bare_peer), BARE_TARGET)
            peers["bare channels_last loop on random tensors"] = bare
        how = "compiled" if args.compiled else "eager"
        what = f"training step of ResNet18, {how}, {args.threads} threads"
        yield from compare(what, side(ours, args.compiled), peers, rounds=args.rounds)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true")
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
