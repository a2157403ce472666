"""The losses against their formulas, and the regulariser against Eq. (3)."""

import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F  # noqa: N812

from analysis.store.errors import InputError
from trainers.model.losses import (
    binary_cross_entropy,
    check_loss,
    cross_entropy,
    feature_penalty,
    focal,
)
from trainers.registry import LOSSES, register_loss

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


def sums(name: str, z: list[float], y: list[float], e: float = 0, gamma: float = 2) -> float:
    """A loss of one sample by its definition, from probabilities and in Python's floats."""
    K = len(z)
    if name == "mse":
        return sum((a - b) ** 2 for a, b in zip(z, y, strict=True)) / 2
    y = [(1 - e) * t + e / K for t in y]
    if name == "bce":
        p = [1 / (1 + math.exp(-a)) for a in z]
        terms = zip(y, p, strict=True)
        return -sum(t * math.log(q) + (1 - t) * math.log(1 - q) for t, q in terms)
    p = [math.exp(a) / sum(map(math.exp, z)) for a in z]
    power = gamma if name == "focal" else 0
    return -sum(t * (1 - q) ** power * math.log(q) for t, q in zip(y, p, strict=True))


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("ce", {}),
        ("ce", {"label_smoothing": 0.1}),
        ("bce", {}),
        ("bce", {"label_smoothing": 0.3}),
        ("focal", {}),
        ("focal", {"gamma": 0.5}),
        ("mse", {}),
    ],
)
@pytest.mark.parametrize(("size", "K"), SHAPES)
def test_formula_for_hard_and_soft_targets(
    name: str, kwargs: dict[str, float], size: int, K: int
) -> None:
    logits, labels = batch(size, K)
    loss = LOSSES[name]
    one_hot = F.one_hot(labels, K).double()
    soft = torch.softmax(torch.sin(7 * logits), 1)
    e, gamma = kwargs.get("label_smoothing", 0), kwargs.get("gamma", 2)
    for given, targets in ((labels, one_hot), (one_hot, one_hot), (soft, soft)):
        pairs = zip(logits.tolist(), targets.tolist(), strict=True)
        expected = sum(sums(name, z, y, e, gamma) for z, y in pairs) / size
        assert float(loss(logits, given, **kwargs)) == pytest.approx(expected, rel=1e-10)
    logits.requires_grad_()
    assert gradcheck(lambda z: loss(z, labels, **kwargs), (logits,))
    assert gradcheck(lambda z: loss(z, soft, **kwargs), (logits,))
    # Classes have no order.
    swapped = loss(logits.flip(1), soft.flip(1), **kwargs)
    assert torch.allclose(swapped, loss(logits, soft, **kwargs), rtol=1e-12)


def test_soft_targets_are_linear_in_the_target() -> None:
    logits, labels = batch(4, 5)
    other = (labels + 1) % 5
    mixed = 0.3 * F.one_hot(labels, 5).double() + 0.7 * F.one_hot(other, 5).double()
    for loss in (cross_entropy, binary_cross_entropy, focal):
        expected = 0.3 * float(loss(logits, labels)) + 0.7 * float(loss(logits, other))
        assert float(loss(logits, mixed)) == pytest.approx(expected, rel=1e-12)


def test_special_cases_are_the_losses_they_generalise() -> None:
    logits, labels = batch(5, 10)
    assert torch.allclose(focal(logits, labels, gamma=0), cross_entropy(logits, labels))
    smooth = 0.8 * F.one_hot(labels, 10).double() + 0.02
    for loss in (cross_entropy, binary_cross_entropy):
        by_hand = loss(logits, smooth)
        assert torch.allclose(loss(logits, labels, label_smoothing=0.2), by_hand, rtol=1e-12)


def test_bce_of_two_opposite_logits_is_twice_ce_of_their_difference() -> None:
    # softplus(-a) twice; and ce of (a, -a) is softplus(-2a).
    a = torch.tensor([-3.0, 0.2, 5.0], dtype=torch.float64)
    pair = torch.stack([a, -a], 1)
    labels = torch.zeros(3, dtype=torch.int64)
    assert torch.allclose(
        binary_cross_entropy(pair, labels), 2 * cross_entropy(pair / 2, labels), rtol=1e-12
    )


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize(
    ("name", "kwargs", "right", "wrong"),
    # Right and sure costs nothing (bce: log 2 for the class at 0); wrong and sure the distance: ce
    # and focal from the largest logit, bce from 0 for the class itself and for the wrong one.
    # Smoothed targets are 0.8, 0.1, 0.1: ce is the largest logit minus the sum of y z, and bce is
    # (1 - y) |z| of the positive logit, y |z| of the negative one, and log 2.
    [
        ("ce", {}, 0, 2e4),
        ("ce", {"label_smoothing": 0.3}, 1e4 - 0.7e4, 1e4 + 0.7e4),
        ("bce", {}, math.log(2), 2e4 + math.log(2)),
        ("bce", {"label_smoothing": 0.3}, 0.3e4 + math.log(2), 1.7e4 + math.log(2)),
        ("focal", {}, 0, 2e4),
        ("focal", {"gamma": 0.5}, 0, 2e4),
        ("focal", {"gamma": 0}, 0, 2e4),
        ("mse", {}, ((1e4 - 1) ** 2 + 1e8) / 2, ((1e4 + 1) ** 2 + 1e8) / 2),
    ],
)
def test_huge_logits_stay_finite(
    name: str, kwargs: dict[str, float], right: float, wrong: float, size: float
) -> None:
    logits = torch.tensor([[size, 0.0, -size]], requires_grad=True)
    loss = LOSSES[name](logits, torch.tensor([0]), **kwargs)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert loss.item() == pytest.approx(right if size > 0 else wrong, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["ce", "bce", "focal", "mse"])
@pytest.mark.parametrize("targets", [torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5)])
def test_an_empty_batch_costs_nothing_and_has_a_graph(name: str, targets: torch.Tensor) -> None:
    weight = torch.ones(5, 3, requires_grad=True)
    loss = LOSSES[name](torch.zeros(0, 3) @ weight.T, targets)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert (weight.grad == 0).all()


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (
            "ce",
            {"label_smoothing": 1.5},
            r"^loss=ce: label_smoothing=1.5 must be .* from 0 to less than 1",
        ),
        ("bce", {"label_smoothing": 1}, r"label_smoothing=1 must be"),
        ("bce", {"label_smoothing": True}, r"label_smoothing=True must be"),
        ("ce", {"label_smoothing": "0.1"}, r"label_smoothing='0.1' must be"),
        ("focal", {"gamma": -1}, r"gamma=-1 .* finite number from 0"),
        ("focal", {"gamma": math.nan}, r"gamma=nan"),
        ("focal", {"alpha": 1}, r"\{'alpha': 1\} don't fit loss=focal: .*; it accepts gamma$"),
        ("mse", {"gamma": 1}, r"don't fit loss=mse: .*'gamma'; it accepts none$"),
        ("nce", {}, r"'nce' is not a known loss"),
    ],
)
def test_arguments_that_do_not_fit_are_told(
    name: str, kwargs: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_loss(name, kwargs, num_classes=3)


@pytest.mark.parametrize("name", ["ce", "bce", "focal", "mse"])
def test_built_in_losses_pass_the_check_without_arguments(name: str) -> None:
    check_loss(name, {}, num_classes=2)


def test_a_users_loss_is_tried_before_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))

    @register_loss("weighted")
    def weighted(logits: torch.Tensor, targets: torch.Tensor, *, weight: list) -> torch.Tensor:
        return F.cross_entropy(logits, targets, torch.tensor(weight), reduction="none")

    with pytest.raises(InputError, match=r"don't fit loss=weighted: missing .*accepts weight$"):
        check_loss("weighted", {}, num_classes=3)
    with pytest.raises(InputError, match=r"^loss=weighted .* fails on logits \(2, 3\).*Error: "):
        check_loss("weighted", {"weight": [1.0, 2.0]}, num_classes=3)
    with pytest.raises(InputError, match="loss=weighted must return the mean over the batch"):
        check_loss("weighted", {"weight": [1.0, 2.0, 3.0]}, num_classes=3)
    register_loss("mean")(lambda z, y, **kwargs: weighted(z, y, **kwargs).mean())
    check_loss("mean", {"weight": [1.0, 2.0, 3.0]}, num_classes=3)


def test_penalty_is_a_sum_over_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    h, w, b = (torch.randn(*s, generator=generator).double() for s in ((6, 3), (4, 3), (4,)))
    value = feature_penalty(h, w, b, lambda_w=0.1, lambda_h=0.2, lambda_b=0.3)
    expected = (0.1 * (w**2).sum() + 0.2 * (h**2).sum() + 0.3 * (b**2).sum()) / 2
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    twice = feature_penalty(torch.cat([h, h]), w, b, lambda_w=0, lambda_h=0.2, lambda_b=0)
    assert float(twice) == pytest.approx(0.2 * float((h**2).sum()), rel=1e-12)
