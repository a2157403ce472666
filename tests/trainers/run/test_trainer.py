"""What surrounds a step and an evaluation, as on a GPU."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data.splits import load_data
from trainers.run import device as device_module
from trainers.run import trainer as trainer_module
from trainers.run.device import allow_tf32, check_has_tf32
from trainers.run.ranks import Ranks
from trainers.run.trainer import Trainer

Tiny = Callable[..., TrialConfig]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def flags() -> Iterator[None]:
    """torch's own defaults before, and none of these tests' after."""
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    yield
    allow_tf32(False)


def start(config: TrialConfig) -> Trainer:
    data = load_data(config, data_dir=Path("nowhere"), download=False, device=CPU)
    return Trainer(config, data, Ranks(CPU))


def seen_in(trainer: Trainer) -> list[tuple[bool, bool, bool]]:
    """Whether it trains, and whether matrix products and convolutions are in TF32, each pass."""
    seen = []

    def hook(model: nn.Module, *_: object) -> None:
        backends = torch.backends
        flags = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
        seen.append((model.training, *flags))

    trainer.model.register_forward_hook(hook)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "tf32"])
def test_only_steps_that_ask_for_it_are_in_tf32(
    tiny: Tiny, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "check_has_tf32", lambda _: None)
    asked = precision == "tf32"
    trainer = start(tiny(precision=precision, regularizer="global"))
    seen = seen_in(trainer)
    trainer.train_epoch(1)
    trainer.evaluate(with_scores=True)
    trainer.feature_rows()
    trainer.train_epoch(2)
    assert {*seen} == {(True, asked, asked), (False, False, False)}
    assert not torch.backends.cudnn.allow_tf32


def test_tf32_ends_with_a_step_that_fails(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "check_has_tf32", lambda _: None)
    trainer = start(tiny(precision="tf32"))

    def fail(*_: object) -> None:
        assert torch.backends.cuda.matmul.allow_tf32
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer, "_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train_epoch(1)
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("capability", "has_it"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_tf32_needs_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_it: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(device_module, "device_name", lambda _: "Some GPU")
    if has_it:
        check_has_tf32(torch.device("cuda"))
        return
    with pytest.raises(InputError, match="Ampere or later, not Some GPU; use fp32"):
        check_has_tf32(torch.device("cuda"))


def test_tf32_on_a_cpu_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"precision=tf32 needs a GPU .*, not cpu; use fp32"):
        start(tiny(precision="tf32"))
    assert tiny(precision="tf32").trial_id != tiny().trial_id


def test_nothing_after_an_evaluation_is_in_inference_mode(tiny: Tiny) -> None:
    trainer = start(tiny())
    for features, _, _ in trainer.forward(trainer.data.train):
        assert not torch.is_inference_mode_enabled()
        assert features.is_inference()
        break
    assert not torch.is_inference_mode_enabled()
    assert nn.Linear(2, 2)(torch.ones(1, 2)).requires_grad
