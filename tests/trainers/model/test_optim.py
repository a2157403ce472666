"""Schedules at the epochs that the paper names, what decay touches, and timm's optimizers."""

import inspect
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
)

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.model.classifier import Head
from trainers.model.optim import build_optimizer, check_optimizer_builds, learning_rate

Tiny = Callable[..., TrialConfig]


def test_step_drops_at_30_60_80_of_100(tiny: Tiny) -> None:
    config = tiny(epochs=100)
    rates = [learning_rate(config, epoch) for epoch in range(1, 101)]
    assert rates[:30] == [0.01] * 30
    assert rates[30:60] == pytest.approx([0.002] * 30)
    assert rates[60:80] == pytest.approx([0.0004] * 20)
    assert rates[80:] == pytest.approx([0.00008] * 20)


def test_cosine_starts_at_lr_and_ends_at_1e_5(tiny: Tiny) -> None:
    config = tiny(optimizer="adamw", epochs=101)
    assert learning_rate(config, 1) == 0.001
    assert learning_rate(config, 51) == pytest.approx((0.001 + 1e-5) / 2)
    assert learning_rate(config, 101) == pytest.approx(1e-5)
    assert learning_rate(tiny(optimizer="adamw", epochs=1), 1) == 0.001
    assert learning_rate(tiny(schedule="cosine", lr=1e-5, epochs=9), 5) == 1e-5


def test_constant(tiny: Tiny) -> None:
    assert learning_rate(tiny(schedule="constant", lr=0.3), 3) == 0.3


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_warm_up_rises_in_a_straight_line_to_lr(tiny: Tiny, schedule: str) -> None:
    config = tiny(schedule=schedule, lr=0.3, epochs=100, warmup_epochs=5)
    rates = [learning_rate(config, epoch) for epoch in range(1, 101)]
    assert rates[:5] == pytest.approx([0.06, 0.12, 0.18, 0.24, 0.3])
    assert rates[5] == 0.3


def test_warm_up_leaves_steps_where_they_are_and_squeezes_the_cosine(tiny: Tiny) -> None:
    plain, warm = tiny(epochs=100), tiny(epochs=100, warmup_epochs=10)
    after = range(11, 101)
    assert [learning_rate(warm, e) for e in after] == [learning_rate(plain, e) for e in after]
    # A cosine over the 90 epochs that remain is the cosine of a trial of 90 epochs.
    warm = tiny(schedule="cosine", epochs=100, warmup_epochs=10)
    short = tiny(schedule="cosine", epochs=90)
    assert [learning_rate(warm, e + 10) for e in range(1, 91)] == [
        learning_rate(short, e) for e in range(1, 91)
    ]


class Small(torch.nn.Module):
    """A convolution, BatchNorm and the head, whose parameters have every usual shape."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 3, 3)
            self.norm = torch.nn.BatchNorm2d(3)
            self.head = Head(3, 4, bias_init_mean=1)

    def backward(self) -> None:
        images = torch.linspace(-1, 1, 5 * 64).reshape(5, 1, 8, 8)
        logits = self.head(self.norm(self.conv(images)).relu().mean((2, 3)))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0])).backward()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("regularizer", ["features", "global"])
def test_decay_touches_every_parameter_or_none(
    tiny: Tiny, optimizer: str, regularizer: str
) -> None:
    fields = {"weight_decay": 0.25} if regularizer == "global" else {}
    config = tiny(optimizer=optimizer, regularizer=regularizer, lr=0.125, **fields)
    model = Small().double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(config, list(model.parameters())).step()
    # Without a gradient both take lr * weight_decay * p off p.
    factor = 1 - 0.125 * 0.25 if regularizer == "global" else 1
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, factor * before[name], rtol=1e-12), name
        assert (before[name] != 0).any() or name == "norm.bias"


def in_timm() -> Iterator[Any]:
    """Names that any machine can train with: no package of its own, no second derivatives."""
    for name in map(str, list_optimizers()):
        info = get_optimizer_info(name)
        if not isinstance(info.opt_class, str) and not info.second_order:
            # Kron compiles its steps.
            yield pytest.param(name, marks=[pytest.mark.slow] if "kron" in name else [])


@pytest.mark.filterwarnings("ignore:.*opt_einsum")  # Kron asks for it, and works without
@pytest.mark.parametrize("name", list(in_timm()))
def test_every_optimizer_of_timm_trains_and_resumes(tiny: Tiny, name: str) -> None:
    config = tiny(
        optimizer=name, lr=1e-3, schedule="constant", regularizer="global", weight_decay=0.01
    )
    check_optimizer_builds(config)
    model = Small()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    optimizer = build_optimizer(config, parameters)
    groups = optimizer.param_groups
    assert [p for group in groups for p in group["params"]] == parameters
    assert {group["weight_decay"] for group in groups} == {0.01}

    def step(model: Small, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model.backward()
        optimizer.step()

    step(model, optimizer)
    step(model, optimizer)
    assert all(
        p.isfinite().all() and (p != s).any() for p, s in zip(parameters, start, strict=True)
    )
    # From a checkpoint, which is read with weights_only, the third step is the same.
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = Small()
    again = build_optimizer(config, list(resumed.parameters()))
    resumed.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    step(model, optimizer)
    step(resumed, again)
    for mine, theirs in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_no_decay_of_its_own_with_the_regulariser_in_the_loss(tiny: Tiny) -> None:
    config = tiny(optimizer="adamwlegacy", lr=1e-3, schedule="constant")  # its default is 0.01
    groups = build_optimizer(config, [torch.ones(2, requires_grad=True)]).param_groups
    assert [group["weight_decay"] for group in groups] == [0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"optimizer": "adamw"}, {"betas": (0.9, 0.999), "eps": 1e-8, "fused": True}),
        (
            {"optimizer": "adamw", "optimizer_kwargs": {"betas": [0.8, 0.9], "amsgrad": True}},
            {"betas": (0.8, 0.9), "amsgrad": True, "eps": 1e-8, "fused": True},
        ),
        ({"optimizer": "sgd"}, {"momentum": 0.9, "nesterov": False, "fused": True}),
        ({"optimizer": "sgd", "optimizer_kwargs": {"nesterov": True}}, {"nesterov": True}),
        (
            {"optimizer": "lbfgs", "optimizer_kwargs": {"max_iter": 7}},
            {"max_iter": 7, "line_search_fn": "strong_wolfe", "lr": 1},
        ),
        (
            {
                "optimizer": "lamb",
                "lr": 0.01,
                "schedule": "constant",
                "optimizer_kwargs": {"betas": [0.8, 0.9], "always_adapt": True},
            },
            {"betas": (0.8, 0.9), "lr": 0.01, "weight_decay": 0, "always_adapt": True},
        ),
    ],
)
def test_optimizer_kwargs_arrive(
    tiny: Tiny, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    optimizer = build_optimizer(tiny(**fields), [torch.ones(2, requires_grad=True)])
    assert expected.items() <= optimizer.param_groups[0].items()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_first_step_that_the_scaler_skips_leaves_no_trace(tiny: Tiny, optimizer: str) -> None:
    parameter = torch.ones(1000, requires_grad=True)
    other = torch.ones(1000, requires_grad=True)
    skipped, plain = (
        build_optimizer(tiny(optimizer=optimizer, precision="fp16"), [p])
        for p in (parameter, other)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(1))  # starts it
    memory = [torch.full((1000,), torch.nan) for _ in range(20)]
    del memory  # for whoever takes memory without clearing it
    parameter.grad = torch.full((1000,), torch.inf)
    scaler.step(skipped)
    scaler.update()
    assert (parameter == 1).all()
    parameter.grad = torch.full((1000,), scaler.get_scale())
    scaler.step(skipped)
    other.grad = torch.ones(1000)
    plain.step()
    assert torch.equal(parameter, other)


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "message"),
    [
        (
            "sgd",
            {"betas": [0.9, 0.99]},
            r"\{'betas': .*\} don't fit sgd: it has no 'betas'; it acc",
        ),
        ("adamw", {"betas": [1.5, 0.9]}, r"don't fit adamw: Invalid beta parameter .*1.5"),
        (
            "adamw",
            {"betas": [0.9]},
            r"adamw: betas=\[0.9\] must be like its default, \(0.9, 0.999\)",
        ),
        ("adamw", {"betas": [0.9, 0.99, 0.999]}, r"must be like its default"),
        ("sgd", {"nesterov": "x"}, r"nesterov='x' must be like its default, False"),
        ("lbfgs", {"history_size": "a"}, r"history_size='a' must be like its default, 100"),
        ("adamw", {"foreach": True}, r"don't fit adamw: .*fused"),
        ("lbfgs", {"eps": 1e-8}, r"don't fit lbfgs: it has no 'eps'; it accepts .*history_size"),
        ("lion", {"eps": 1e-8}, r"don't fit lion: it has no 'eps'; it accepts betas"),
        ("lamb", {"layer_decay": 0.5}, r"don't fit lamb: it has no 'layer_decay'"),
        ("lamb", {"params": []}, r"don't fit lamb: it has no 'params'"),
    ],
)
def test_optimizer_kwargs_that_do_not_fit_are_told(
    tiny: Tiny, optimizer: str, kwargs: dict[str, Any], message: str
) -> None:
    config = tiny(optimizer=optimizer, lr=0.1, schedule="constant", optimizer_kwargs=kwargs)
    with pytest.raises(InputError, match=message):
        check_optimizer_builds(config)


def test_optimizers_that_can_not_be_had_are_told(tiny: Tiny) -> None:
    if torch.cuda.is_available():
        pytest.skip("Apex and bitsandbytes may be there")
    config = tiny(optimizer="fusedadam", lr=0.1, schedule="constant")
    check_optimizer_builds(config)  # the workers may have it
    with pytest.raises(InputError, match=r"optimizer=fusedadam can't be had .* CUDA required"):
        build_optimizer(config, [torch.ones(2)])


def test_second_derivatives_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"optimizer=adahessian needs second derivatives"):
        tiny(optimizer="adahessian", lr=0.1, schedule="constant")


def test_lbfgs_has_no_decay(tiny: Tiny) -> None:
    config = tiny(optimizer="lbfgs", regularizer="global", weight_decay=0.1)
    with pytest.raises(InputError, match=r"weight_decay=0.1 has no effect with optimizer=lbfgs"):
        check_optimizer_builds(config)


def of_timm(name: str, gradients: list[torch.Tensor], **kwargs: Any) -> torch.Tensor:
    """A parameter after steps along these gradients."""
    # Small beside a step of Adam: else LAMBC, whose trust ratio is at most 1, has it at 1.
    parameter = torch.linspace(0.01, 0.02, 12).reshape(3, 4).requires_grad_()
    optimizer = create_optimizer_v2([parameter], opt=name, lr=0.1, **kwargs)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def test_optimizers_by_layers_are_refused_where_they_adapt_to_none(tiny: Tiny) -> None:
    gradients = [torch.linspace(-1, 1, 12).reshape(3, 4) * step for step in (0.1, 0.2)]
    sgd = of_timm("momentum", gradients, weight_decay=0)
    by_layers = ["lars", "larc", "nlars", "nlarc", "lamb", "lambc"]
    for name in by_layers:
        plain = of_timm(name, gradients, weight_decay=0)
        assert not torch.equal(plain, of_timm(name, gradients, weight_decay=0, always_adapt=True))
        assert torch.equal(plain, sgd) == (name in ("lars", "larc"))
        fields = {"optimizer": name, "lr": 0.1, "schedule": "constant"}
        with pytest.raises(
            InputError,
            match=rf"^optimizer={name} adapts to layers only with weight decay.* use "
            r"optimizer_kwargs: \{always_adapt: true\}, or regularizer=global",
        ):
            check_optimizer_builds(tiny(**fields))
        check_optimizer_builds(tiny(**fields, optimizer_kwargs={"always_adapt": True}))
        check_optimizer_builds(tiny(**fields, regularizer="global", weight_decay=0.1))
        with pytest.raises(InputError, match="adapts to layers only"):
            check_optimizer_builds(tiny(**fields, regularizer="global", weight_decay=0))


@pytest.mark.parametrize("name", list(in_timm()))
def test_no_other_optimizer_is_another_without_weight_decay(name: str) -> None:
    """From no decay to a vanishing one nothing jumps, but where the check above refuses."""
    gradients = [torch.linspace(-1, 1, 12).reshape(3, 4) * step for step in (0.1, 0.2)]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Kron asks for opt_einsum
        results = []
        for decay in (0, 1e-12):
            torch.manual_seed(0)
            results.append(of_timm(name, gradients, weight_decay=decay))
    same = torch.allclose(*results, rtol=1e-5)
    by_layers = (
        "always_adapt"
        in inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters
    )
    assert same != by_layers
