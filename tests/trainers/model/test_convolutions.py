"""Convolutions against float64, also where torch's own writes beyond its memory.

What may die by a signal runs in a child process, under this machine's instruction set and AVX2.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.model.classifier import build_model
from trainers.model.convolutions import (
    check_convolutions,
    is_strided_pointwise,
    lay_out_channels_last,
    slice_instead_of_striding,
)

ROOT = Path(__file__).parents[3]
Tiny = Callable[..., TrialConfig]

# Each line of a child's is a geometry and its largest relative error, from float64's.
GEOMETRIES = """
import torch
from torch import nn
from trainers.model.convolutions import lay_out_channels_last, slice_instead_of_striding

torch.set_num_threads(1)
for side in (8, 16, 64):
    for inputs, outputs, groups in [(1, 1, 1), (3, 3, 1), (4, 4, 1), (8, 8, 1), (15, 15, 1),
                                    (16, 16, 1), (4, 64, 1), (8, 8, 2), (4, 4, 4)]:
        for stride in [(2, 2), (2, 1), (1, 2), (4, 4)]:
            torch.manual_seed(0)
            exact = nn.Conv2d(inputs, outputs, 1, stride, groups=groups).double()
            ours = nn.Conv2d(inputs, outputs, 1, stride, groups=groups)
            ours.load_state_dict(exact.state_dict())
            slice_instead_of_striding(ours)
            lay_out_channels_last(ours)
            images = torch.randn(16, inputs, side, side)
            results = []
            for conv, x in (exact, images.double()), (ours, images):
                x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
                y = conv(x)
                y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
                results.append([y.detach(), x.grad, *(p.grad for p in conv.parameters())])
            errors = [((a - b).norm() / b.norm()).item() for b, a in zip(*results, strict=True)]
            print(side, inputs, outputs, groups, stride, max(errors))
"""
STEP = """
import sys, torch
from trainers.model.backbones import build_backbone
from trainers.model.convolutions import lay_out_channels_last, slice_instead_of_striding

torch.set_num_threads(1)
name, side, kwargs = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
model, _ = build_backbone(name, kwargs, channels=3, image_size=side)
slice_instead_of_striding(model)
lay_out_channels_last(model)
images = torch.randn(4, 3, side, side).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    model(images).square().sum().backward()
print(all(p.grad.isfinite().all() for p in model.parameters()))
"""


def in_a_child(code: str, isa: str | None, *arguments: str) -> str:
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, (child.returncode, child.stdout[-300:], child.stderr[-2000:])
    return child.stdout


@pytest.mark.parametrize("isa", [None, "AVX2"])
def test_strided_pointwise_convolutions_are_those_of_float64(isa: str | None) -> None:
    lines = in_a_child(GEOMETRIES, isa).splitlines()
    assert len(lines) == 3 * 9 * 4
    # One weight is a sum over all pixels, which may cancel; what torch got wrong was off by 0.16.
    assert [line for line in lines if not float(line.rsplit(" ", 1)[1]) < 1e-3] == []


@pytest.mark.slow
@pytest.mark.parametrize("isa", [None, "AVX2"])
@pytest.mark.parametrize(
    ("name", "side", "kwargs"),
    [
        ("resnet18", 64, {"channels": [4, 4, 8, 8]}),
        ("repvgg_a0", 96, {}),
        ("mobileone_s0", 96, {}),
    ],
)
def test_models_that_died_take_steps(
    isa: str | None, name: str, side: int, kwargs: dict[str, Any]
) -> None:
    assert in_a_child(STEP, isa, name, str(side), repr(kwargs)).split()[-1] == "True"


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(4, 8, 1, 2), True),
        (nn.Conv2d(4, 8, 1, (2, 1)), True),
        (nn.Conv2d(4, 8, 1, (1, 3), groups=4, bias=False), True),
        (nn.Conv2d(4, 8, 1), False),
        (nn.Conv2d(4, 8, 1, 2, padding=1), False),
        (nn.Conv2d(4, 8, 2, 2), False),
        (nn.Conv2d(4, 8, (1, 3), 2), False),
    ],
)
@pytest.mark.parametrize("side", [7, 8])
def test_slicing_is_the_same_by_definition(conv: nn.Conv2d, expected: bool, side: int) -> None:
    sliced = copy.deepcopy(conv)
    slice_instead_of_striding(sliced)
    assert is_strided_pointwise(conv) == expected
    assert (sliced.stride != conv.stride) == expected
    images = torch.randn(2, 4, side, side).double()
    assert torch.allclose(sliced.double()(images), conv.double()(images), rtol=1e-12)


@pytest.mark.parametrize(
    "name", ["resnetv2_50x1_bit", "tf_efficientnet_b0", "resnet26", "repvgg_a0"]
)
def test_models_keep_their_names_and_values_and_what_they_compute(name: str) -> None:
    model = timm.create_model(name, num_classes=0).double().eval()
    sliced = copy.deepcopy(model)
    slice_instead_of_striding(sliced)
    before, after = model.state_dict(), sliced.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(is_strided_pointwise(m) for m in sliced.modules() if isinstance(m, nn.Conv2d))
    images = torch.randn(1, 3, 65, 65).double()
    with torch.no_grad():
        assert torch.allclose(model(images), sliced(images), rtol=1e-9)


def test_only_what_has_the_rank_of_images_is_laid_out() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)
            self.volume = nn.Conv3d(4, 4, 3)

    odd = Odd()
    parameters = dict(odd.named_parameters())
    lay_out_channels_last(odd)
    assert dict(odd.named_parameters()) == parameters  # the very same
    assert odd.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert odd.volume.weight.is_contiguous()


class Wrong(nn.Conv2d):
    """Right in float64, and in float32 as a broken kernel is: output or gradient are off."""

    gradient = False

    def forward(self, input: Tensor) -> Tensor:
        off = 0.0 if input.dtype == torch.float64 else 0.01
        weight = self.weight + off * (self.weight - self.weight.detach() if self.gradient else 1)
        return F.conv2d(input, weight, self.bias, self.stride, self.padding)


class WrongGradient(Wrong):
    gradient = True


@pytest.mark.parametrize("kind", [Wrong, WrongGradient])
def test_a_convolution_that_is_computed_wrongly_is_refused(kind: type[nn.Conv2d]) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(kind(8, 8, 3)))
    before = torch.get_rng_state()
    message = (
        rf"^model=own: torch {torch.__version__.replace('+', '.')} computes its convolution 1\.0 "
        r"wrongly on this CPU \(off by 0\.0.* from float64\); train it on a GPU, use another"
    )
    with pytest.raises(InputError, match=message):
        check_convolutions("own", model)
    assert torch.equal(torch.get_rng_state(), before)


def test_each_kind_of_convolution_is_tried_once_and_never_as_it_crashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[tuple[int, int, tuple[int, ...]]] = []
    run = nn.Conv2d._conv_forward

    def recorded(conv: nn.Conv2d, images: Tensor, *arguments: Any) -> Tensor:
        tried.append((conv.in_channels, conv.kernel_size[0], conv.stride))
        return run(conv, images, *arguments)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", recorded)
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=0)
    check_convolutions("resnet18", model)
    widths = (64, 128, 256)
    strided = [(width, 3, (2, 2)) for width in widths] + [(width, 1, (1, 1)) for width in widths]
    plain = [(width, 3, (1, 1)) for width in (*widths, 512)]
    assert sorted(tried) == sorted(2 * [(3, 7, (2, 2)), *plain, *strided])  # ours and float64's


@pytest.mark.parametrize("model", ["lambda_resnet26t", "resnet18"])
def test_a_trial_on_a_cpu_trains_in_this_form(tiny: Tiny, model: str) -> None:
    from trainers.data.splits import Data, Split
    from trainers.run.ranks import alone
    from trainers.run.trainer import Trainer

    if torch.cuda.is_available():
        pytest.skip("for CPUs")
    kwargs: dict[str, Any] = {"model_kwargs": {}} if model != "resnet18" else {}
    config = tiny(model=model, image_size=32, **kwargs)
    images = torch.randint(256, (16, 32, 32, 1), dtype=torch.uint8)
    split = Split(images, torch.arange(16) % 10)
    data = Data(split, split, torch.tensor([127.0]), torch.tensor([70.0]))
    trainer = Trainer(config, data, alone())
    convolutions = [m for m in trainer.model.modules() if isinstance(m, nn.Conv2d)]
    assert not any(map(is_strided_pointwise, convolutions))
    plain = [m for m in build_model(config, 1).modules() if isinstance(m, nn.Conv2d)]
    assert any(map(is_strided_pointwise, plain))
    assert trainer.train_epoch(1)["train_loss"] > 0
