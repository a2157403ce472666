"""Samples to measure, and the accumulator fed with them in chunks; the truth is in each test."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainers.metrics.accumulator import Accumulator


class Sample(NamedTuple):
    """Features (N, D), labels (N,), weight (K, D), bias (K,)."""

    features: NDArray[Any]
    labels: NDArray[np.int64]
    weight: NDArray[Any]
    bias: NDArray[Any]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(part) for part in self)


def _draw(
    K: int, D: int, *, N: int = 60, seed: int = 0, spread: float = 1.0, imbalanced: bool = False
) -> Sample:
    """Classes about random means, all present, in shuffled order; all float32."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(1, 8, K) if imbalanced else np.ones(K)
    labels = np.concatenate([np.arange(K), rng.choice(K, N - K, p=shares / shares.sum())])
    rng.shuffle(labels)
    means = rng.normal(size=(K, D)) + 2
    features = means[labels] + spread * rng.normal(size=(N, D))
    weight = means - means.mean(0) + 0.3 * rng.normal(size=(K, D))
    return Sample(
        features.astype(np.float32),
        labels,
        weight.astype(np.float32),
        rng.normal(size=K).astype(np.float32),
    )


def _accumulate(sample: Sample, chunk: int | None = None, **options: Any) -> Accumulator:
    features, labels, weight, bias = sample.tensors()
    accumulator = Accumulator(*weight.shape, **options)
    for start in range(0, len(labels), chunk or len(labels)):
        batch = slice(start, start + (chunk or len(labels)))
        accumulator.update(features[batch], labels[batch], weight, bias)
    return accumulator


@pytest.fixture
def draw() -> Callable[..., Sample]:
    return _draw


@pytest.fixture
def accumulate() -> Callable[..., Accumulator]:
    return _accumulate


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)
