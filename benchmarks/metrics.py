"""Metrics of given features against two ways to compute them, and beside the forward pass.

python -m benchmarks.metrics
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.pairing import Work, compare
from benchmarks.rows import Row, run
from benchmarks.synthetic import SIZE, trial
from trainers.data.splits import EVAL_PIXELS
from trainers.metrics.accumulator import Accumulator
from trainers.metrics.features import from_features
from trainers.metrics.uniform import most_covered
from trainers.model.classifier import build_model

Sample = tuple[Tensor, Tensor, Tensor, Tensor]  # features, labels, weight, bias
FEATURES = 512
LOOPED = 200  # samples that the loop is timed on; each further one costs the same
BATCH = EVAL_PIXELS // SIZE**2  # of an evaluation pass
TEST_SET = 10_000  # samples of a pass, whose one `compute` is shared out over its batches
MOST_COST, MOST_MIB = 0.05, 64


def draw(count: int, num_classes: int) -> Sample:
    """Half-collapsed classes. Drawn in place, so that the process's peak memory is its size."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (count,), generator=generator)
    means = torch.randn(num_classes, FEATURES, generator=generator)
    features = torch.empty(count, FEATURES).normal_(std=0.3, generator=generator)
    for part, ids in zip(features.split(1000), labels.split(1000), strict=True):
        part += 1 + means[ids]
    weight = means + 0.1 * torch.randn(means.shape, generator=generator)
    return features, labels, weight, torch.randn(num_classes, generator=generator)


def separate_passes(
    features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, float]:
    """All metrics in float64, one pass after the other, each as its formula stands."""
    h, W, b = features.double(), weight.double(), bias.double()
    N, K = len(h), len(W)
    means = torch.stack([h[labels == k].mean(0) for k in range(K)])
    M = means - h.mean(0)
    # Covariances.
    within = torch.zeros(h.shape[1], h.shape[1], dtype=torch.float64)
    variances = torch.zeros(K, dtype=torch.float64)
    for k in range(K):
        inner = h[labels == k] - means[k]
        within += inner.T @ inner / N
        variances[k] = inner.square().sum(1).mean()
    between = M.T @ M / K
    pair_variances = (variances[:, None] + variances) / 2
    # Norms.
    unit = h / h.norm(dim=1, keepdim=True)
    directions = means / means.norm(dim=1, keepdim=True)
    centres = torch.stack([unit[labels == k].mean(0) for k in range(K)])
    cos_within, cos_between = centres.square().sum(1).mean(), over_pairs(centres @ centres.T)
    # Scores.
    scores = h @ W.T
    logits, own = scores - b, labels[:, None] == torch.arange(K)
    positive, negative = scores[own], scores[~own]
    predicted = logits.argmax(1)
    covered, threshold = most_covered(logits.masked_fill(own, -torch.inf).amax(1), logits[own])
    values = {
        "accuracy": (predicted == labels).double().mean(),
        "uniform_accuracy": covered / N,
        "uniform_threshold": threshold,
        "nc1": torch.trace(within @ torch.linalg.pinv(between, rtol=1e-9, hermitian=True)) / K,
        "nc2": from_etf(W @ W.T),
        "nc3": from_etf(W @ M.T),
        "nc4": (torch.cdist(h, means).argmin(1) == predicted).double().mean(),
        "nc2_centered": from_etf((W - W.mean(0)) @ (W - W.mean(0)).T),
        "nc2_means": from_etf((means - means.mean(0)) @ (means - means.mean(0)).T),
        "cdnv": over_pairs(pair_variances / torch.cdist(means, means).square()),
        "cos_within": cos_within,
        "cos_between": cos_between,
        "cos_to_mean": (unit * directions[labels]).sum(1).mean(),
        "cos_means": over_pairs(directions @ directions.T),
        "compactness": cos_within,
        "distinctiveness": (1 - cos_between) / 2,
        "s_pos_mean": positive.mean(),
        "s_pos_std": positive.std(correction=0),
        "s_neg_mean": negative.mean(),
        "s_neg_std": negative.std(correction=0),
        "bias_mean": b.mean(),
        "bias_std": b.std(correction=0),
    }
    return {name: float(value) for name, value in values.items()}


def over_pairs(table_KK: Tensor) -> Tensor:
    """The mean over pairs of different classes of a symmetric table."""
    rows, columns = torch.triu_indices(len(table_KK), len(table_KK), 1)
    return table_KK[rows, columns].mean()


def from_etf(gram_KK: Tensor) -> Tensor:
    """How far a Gram matrix is from a simplex ETF's, both of norm 1."""
    K = len(gram_KK)
    etf_KK = (torch.eye(K, dtype=torch.float64) - 1 / K) / (K - 1) ** 0.5
    return (gram_KK / gram_KK.norm() - etf_KK).norm()


def numpy_loop(sample: Sample) -> Work:
    """The within-class covariance alone: an outer product a sample, in NumPy's float64."""
    features, labels, means = sample[0].numpy(), sample[1].numpy(), class_means(sample).numpy()

    def loop() -> int:
        within = np.zeros((FEATURES, FEATURES))
        for h, k in zip(features[:LOOPED], labels[:LOOPED], strict=True):
            inner = h.astype(np.float64) - means[k]
            within += np.outer(inner, inner)
        return LOOPED

    return loop


def torch_loop(sample: Sample) -> Work:
    """The same in PyTorch, which shares each product out over the threads."""
    features, labels, means = *sample[:2], class_means(sample)

    def loop() -> int:
        within = torch.zeros(FEATURES, FEATURES, dtype=torch.float64)
        for h, k in zip(features[:LOOPED], labels[:LOOPED].tolist(), strict=True):
            inner = h.double() - means[k]
            within += torch.outer(inner, inner)
        return LOOPED

    return loop


def class_means(sample: Sample) -> Tensor:
    """Class means (K, D) in float64."""
    features, labels, weight, _ = sample
    return torch.stack([features[labels == k].double().mean(0) for k in range(len(weight))])


def given_features(what: str, sample: Sample, *, rounds: int) -> list[Row]:
    """`from_features` against both peers, after a check that they agree."""
    count = len(sample[0])
    ours, theirs = from_features(*sample), separate_passes(*sample)
    differing = {
        name: (value, theirs.get(name))
        for name, value in ours.items()
        if abs(value - theirs[name]) > 1e-6 * abs(value)
    }
    if differing or ours.keys() != theirs.keys():
        raise AssertionError(f"the peer computes something else: {differing}")

    def passes() -> int:
        return len(separate_passes(*sample)) and count

    peers = {
        "outer product a sample, NumPy": (numpy_loop(sample), 100.0),
        "outer product a sample, PyTorch": (torch_loop(sample), None),
        "separate passes in float64": (passes, 3.0),
    }
    return compare(what, lambda: len(from_features(*sample)) and count, peers, rounds=rounds)


def peak_extra_mib(count: int, num_classes: int, threads: int) -> float:
    """How far `from_features` raises the peak of a process that holds the features; on Linux."""
    torch.set_num_threads(threads)
    sample = draw(count, num_classes)
    features, labels, weight, bias = sample
    from_features(features[:1000], labels[:1000], weight, bias)  # loads libraries
    before = _peak_kib()
    from_features(*sample)
    return (_peak_kib() - before) / 1024


def _peak_kib() -> int:
    # Not getrusage: its maximum of a new process is that of the one which started it.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def cost_of_forward(num_classes: int, *, rounds: int) -> float:
    """Time of a batch's metrics over that of its forward pass, ResNet18 at 32x32 in float32."""
    model = build_model(trial(), BATCH).eval().to(memory_format=torch.channels_last)
    inputs = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    sample = draw(BATCH * 20, num_classes)
    weight, bias = sample[2:]
    accumulator = Accumulator(num_classes, FEATURES, class_means=weight)
    forward: list[float] = []
    metrics: list[float] = []
    batches = list(zip(sample[0].split(BATCH), sample[1].split(BATCH), strict=True))
    with torch.inference_mode():
        for number in range(rounds + 1):
            begin = time.perf_counter()
            model(inputs)
            middle = time.perf_counter()
            accumulator.update(*batches[number % len(batches)], weight, bias)
            end = time.perf_counter()
            if number > 0:
                forward.append(middle - begin)
                metrics.append(end - middle)
    for features, labels in batches:
        accumulator.update(features, labels, weight, bias)
    begin = time.perf_counter()
    accumulator.compute()
    shared_out = (time.perf_counter() - begin) * BATCH / TEST_SET
    return (median(metrics) + shared_out) / median(forward)


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """Time, memory and share of the forward pass, for few and many classes."""
    torch.set_num_threads(args.threads)
    for num_classes in (10, 100):
        sample = draw(args.samples, num_classes)
        what = f"K={num_classes}, {args.samples:,} features of {FEATURES}, {args.threads} threads"
        yield from given_features(f"metrics, {what}", sample, rounds=args.rounds)
        del sample
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            arguments = (args.samples, num_classes, args.threads)
            mib = pool.apply(peak_extra_mib, arguments)
        yield Row(f"extra memory of metrics, {what}", mib, "MiB", MOST_MIB)
        cost = cost_of_forward(num_classes, rounds=args.rounds)
        yield Row(f"metrics over the forward pass, K={num_classes}", cost, "", MOST_COST)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
