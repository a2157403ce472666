"""The losses against their formulas, and the regulariser against Eq. (3)."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from trainers.losses import binary_cross_entropy, cross_entropy, feature_penalty
from trainers.registry import LOSSES

SHAPES = [(1, 2), (3, 3), (5, 10)]


def batch(size: int, K: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size * 100 + K)
    logits = 3 * torch.randn(size, K, generator=generator, dtype=torch.float64)
    return logits, torch.randint(K, (size,), generator=generator)


@pytest.mark.parametrize(("size", "K"), SHAPES)
def test_ce_is_eq_1(size: int, K: int) -> None:
    logits, labels = batch(size, K)
    terms = [
        math.log(1 + sum(math.exp(z[j] - z[y]) for j in range(K) if j != y))
        for z, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert float(cross_entropy(logits, labels)) == pytest.approx(sum(terms) / size, rel=1e-12)


@pytest.mark.parametrize(("size", "K"), SHAPES)
def test_bce_is_eq_2_summed_over_classes(size: int, K: int) -> None:
    logits, labels = batch(size, K)
    terms = [
        math.log(1 + math.exp(-z[y]))
        + sum(math.log(1 + math.exp(z[j])) for j in range(K) if j != y)
        for z, y in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert float(binary_cross_entropy(logits, labels)) == pytest.approx(
        sum(terms) / size, rel=1e-12
    )


@pytest.mark.parametrize("name", ["ce", "bce"])
def test_one_hot_soft_targets_are_hard_targets(name: str) -> None:
    logits, labels = batch(5, 10)
    soft = torch.nn.functional.one_hot(labels, 10).double()
    loss = LOSSES[name]
    assert float(loss(logits, soft)) == pytest.approx(float(loss(logits, labels)), rel=1e-12)


def test_soft_targets_are_linear_in_the_target() -> None:
    logits, labels = batch(4, 5)
    other = (labels + 1) % 5
    one_hot = torch.nn.functional.one_hot
    mixed = 0.3 * one_hot(labels, 5).double() + 0.7 * one_hot(other, 5).double()
    for loss in (cross_entropy, binary_cross_entropy):
        expected = 0.3 * float(loss(logits, labels)) + 0.7 * float(loss(logits, other))
        assert float(loss(logits, mixed)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["ce", "bce"])
def test_gradients(name: str) -> None:
    logits, labels = batch(3, 4)
    assert gradcheck(lambda z: LOSSES[name](z, labels), (logits.requires_grad_(),))


@pytest.mark.parametrize("name", ["ce", "bce"])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_stay_finite(name: str, size: float) -> None:
    logits = torch.tensor([[size, 0.0, -size]], requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([0]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # Right and sure costs nothing (bce: log 2 for the class at 0); wrong and sure the distance:
    # ce from the largest logit, bce from 0 for the class itself and for the wrong one.
    rest = {"ce": 0.0, "bce": math.log(2)}[name]
    assert loss.item() == pytest.approx(rest if size > 0 else 2e4 + rest, rel=1e-6)


def test_penalty_is_a_sum_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    h, w, b = (torch.randn(*s, generator=generator).double() for s in ((6, 3), (4, 3), (4,)))
    value = feature_penalty(h, w, b, lambda_w=0.1, lambda_h=0.2, lambda_b=0.3)
    expected = (0.1 * (w**2).sum() + 0.2 * (h**2).sum() + 0.3 * (b**2).sum()) / 2
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    twice = feature_penalty(torch.cat([h, h]), w, b, lambda_w=0, lambda_h=0.2, lambda_b=0)
    assert float(twice) == pytest.approx(0.2 * float((h**2).sum()), rel=1e-12)
