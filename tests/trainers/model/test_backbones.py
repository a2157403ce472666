"""Sizes of backbones by formula, and what a backbone that doesn't fit its images says."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from torch import nn

from analysis.store.errors import InputError
from trainers.model.backbones import build_backbone, feature_dimension
from trainers.names import check_model

RGB = {"channels": 3, "image_size": 32}


def parameters(name: str, model_kwargs: dict[str, Any], **images: int) -> tuple[int, int]:
    """Their number and d, without allocating them."""
    with torch.device("meta"):
        backbone, d = build_backbone(name, model_kwargs, **{**RGB, **images})
    return sum(p.numel() for p in backbone.parameters()), d


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """A convolution without bias and the BatchNorm behind it."""
    return inputs * outputs * kernel**2 + 2 * outputs


def resnet(blocks: list[int], *, bottleneck: bool) -> int:
    """Backbone parameters of a ResNet with a 3x3 stem, by He et al. 2016, Table 1."""
    total, inputs = conv(3, 64, 3), 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        outputs = 4 * width if bottleneck else width
        for block in range(count):
            if bottleneck:
                total += conv(inputs, width, 1) + conv(width, width, 3) + conv(width, outputs, 1)
            else:
                total += conv(inputs, width, 3) + conv(width, width, 3)
            if block == 0 and inputs != outputs:
                total += conv(inputs, outputs, 1)
            inputs = outputs
    return total


def densenet121() -> int:
    """Backbone parameters by Huang et al. 2017, Table 1: growth 32, bottlenecks of 128."""
    total, width = conv(3, 64, 7), 64
    for stage, count in enumerate([6, 12, 24, 16]):
        for _ in range(count):  # BatchNorm, 1x1 to 128, BatchNorm, 3x3 to 32
            total += 2 * width + 128 * width + 2 * 128 + 128 * 32 * 9
            width += 32
        if stage < 3:
            total += 2 * width + width * width // 2
            width //= 2
    return total + 2 * width


def transformer(width: int) -> int:
    """A block of attention and a 4 times wider MLP, with biases and two LayerNorms."""
    attention = 4 * (width**2 + width)
    return attention + (8 * width**2 + 5 * width) + 4 * width


def vit(width: int, depth: int, patch: int, image_size: int) -> int:
    """By Dosovitskiy et al. 2021, without the classifier."""
    tokens = (image_size // patch) ** 2 + 1
    embedding = 3 * patch**2 * width + width
    return embedding + width + tokens * width + depth * transformer(width) + 2 * width


def swin(width: int, depths: list[int], heads: list[int], *, window: int, patch: int) -> int:
    """By Liu et al. 2021, without the classifier, on 32x32; windows are no larger than the map."""
    side, total = 32 // patch, 3 * patch**2 * width + width + 2 * width
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        if stage:  # patch merging: LayerNorm and a linear layer from 4 to 2 widths
            total += 2 * 4 * width + 4 * width * 2 * width
            width, side = 2 * width, side // 2
        positions = (2 * min(window, side) - 1) ** 2
        total += depth * (transformer(width) + positions * count)
    return total + 2 * width


@pytest.mark.parametrize(
    ("name", "model_kwargs", "expected"),
    [
        ("resnet18", {}, (resnet([2, 2, 2, 2], bottleneck=False), 512)),
        ("resnet50", {}, (resnet([3, 4, 6, 3], bottleneck=True), 2048)),
        ("densenet121", {}, (densenet121(), 1024)),
        ("vit_tiny_patch16_224", {"patch_size": 4}, (vit(192, 12, 4, 32), 192)),
        ("vit_small_patch16_224", {"patch_size": 8, "depth": 6}, (vit(384, 6, 8, 32), 384)),
        (
            "swin_tiny_patch4_window7_224",
            {"patch_size": 2, "window_size": 4},
            (swin(96, [2, 2, 6, 2], [3, 6, 12, 24], window=4, patch=2), 768),
        ),
        ("mlp", {}, (3072 * 512 + 512 + 512 * 512 + 512, 512)),
        ("mlp", {"hidden": [7]}, (3072 * 7 + 7, 7)),
    ],
)
def test_parameters_and_features(
    name: str, model_kwargs: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert parameters(name, model_kwargs) == expected


def test_image_size_and_channels_reach_the_model() -> None:
    kwargs = {"patch_size": 4, "embed_dim": 8, "num_heads": 2, "depth": 1}
    name = "vit_tiny_patch16_224"
    grey = parameters(name, kwargs, channels=1, image_size=16)
    rgb = parameters(name, kwargs, channels=3, image_size=16)
    large = parameters(name, kwargs, channels=1, image_size=64)
    assert rgb[0] - grey[0] == 2 * 4 * 4 * 8
    assert large[0] - grey[0] == (16**2 - 4**2) * 8


@pytest.mark.parametrize(
    ("name", "model_kwargs"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2}),
        ("swin_tiny_patch4_window7_224", {"patch_size": 2, "window_size": 4, "depths": [1] * 4}),
        # Its num_features is 960; what comes out is wider by its last convolution.
        ("mobilenetv3_large_100", {}),
        ("convnext_atto", {}),
    ],
)
def test_real_features_are_as_found_on_the_meta_device(
    name: str, model_kwargs: dict[str, Any]
) -> None:
    backbone, d = build_backbone(name, model_kwargs, **RGB)
    features = backbone(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, d)
    assert features.isfinite().all()


def test_mlp_is_relu_layers_on_flat_images() -> None:
    backbone, d = build_backbone("mlp", {"hidden": [6, 5]}, channels=2, image_size=4)
    images = torch.randn(3, 2, 4, 4)
    first, second = (m for m in backbone.modules() if isinstance(m, nn.Linear))
    by_hand = torch.relu(images.reshape(3, 32) @ first.weight.T + first.bias)
    by_hand = torch.relu(by_hand @ second.weight.T + second.bias)
    assert d == 5
    assert torch.allclose(backbone(images), by_hand, atol=1e-6)
    as_seen_in_training = images.to(memory_format=torch.channels_last)
    assert torch.allclose(backbone(as_seen_in_training), by_hand, atol=1e-6)


def test_finding_the_dimension_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    assert feature_dimension("resnet18", {}, **RGB) == 512
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "model_kwargs", "image_size", "message"),
    [
        ("mlp", {"width": 3}, 32, r"\{'width': 3\} don't fit mlp; it takes .* hidden: \[512, 512"),
        ("mlp", {"hidden": []}, 32, r"'hidden': \[\]\} don't fit mlp"),
        ("mlp", {"hidden": [0]}, 32, r"don't fit mlp"),
        ("mlp", {"hidden": 64}, 32, r"don't fit mlp"),
        ("mlp", {"pretrained": True}, 32, r"model=mlp has no pretrained weights"),
        ("resnet18", {"width": 3}, 32, r"\{'width': 3\} don't fit resnet18: TypeError.*'width'"),
        ("resnet18", {"num_classes": 3}, 32, r"holds num_classes, which comes .* num_classes"),
        ("resnet18", {"in_chans": 3}, 32, r"holds in_chans, which comes from the field dataset"),
        ("vit_tiny_patch16_224", {"img_size": 32}, 32, r"holds img_size.* field image_size"),
        (
            "resnet18",
            {"checkpoint_path": "a.pth"},
            32,
            r"holds checkpoint_path, which names a file",
        ),
        ("vit_tiny_patch16_224", {"embed_dim": 100}, 32, r"'embed_dim': 100\} don't fit vit_tiny"),
        (
            "vit_tiny_patch16_224",
            {"patch_size": 64},
            32,
            r"^model=vit_tiny_patch16_224 with .* can't take image_size=32 \(.*Kernel size.* use ",
        ),
        (  # 75 pixels are its least
            "inception_v3",
            {},
            32,
            r"model=inception_v3 with .* can't take image_size=32 \(.*Kernel.*; use image_size=96,",
        ),
        (
            "xcit_nano_12_p16_224",
            {},
            28,
            r"image_size=28 \(AssertionError: .+\); use image_size=64",
        ),
        (
            "hgnetv2_b0",
            {"global_pool": "x"},
            28,
            r"\{'global_pool': 'x'\} don't fit hgnetv2_b0: \w",
        ),
        ("resnet18", {"pretrained": False}, 32, r"pretrained=False, which is the default"),
        ("resnet18", {"cache_dir": "x"}, 32, r"holds cache_dir, which changes nothing in training"),
        ("resnet18", {"scriptable": True}, 32, r"holds scriptable, which changes nothing"),
        ("resnet18", {"exportable": True}, 32, r"holds exportable, which changes nothing"),
        ("resnet18", {"no_jit": True}, 32, r"holds no_jit, which changes nothing"),
        ("resnet18.a1_in1k", {}, 32, r"trains as model=resnet18 under a second id; use model=res"),
        ("resnet18", {"global_pool": ""}, 32, r"gives \(2, 512, 4, 4\) .* choose a global_pool"),
        ("resnet18", {"features_only": True}, 32, r"gives no tensor for two images"),
        ("botnet50ts_256", {"pretrained": True}, 32, r"botnet50ts_256 has no pretrained weights"),
    ],
)
def test_what_does_not_fit_is_told(
    name: str, model_kwargs: dict[str, Any], image_size: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_backbone(name, model_kwargs, channels=3, image_size=image_size)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("mpl", "did you mean 'mlp'"),
        ("resnet18.a1_in2k", "did you mean 'resnet18.a1_in1k'"),
    ],
)
def test_unknown_names_are_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        check_model(name)


@pytest.mark.parametrize("name", ["mlp", "ufm", "resnet18.a1_in1k", "swin_tiny_patch4_window7_224"])
def test_known_names(name: str) -> None:
    check_model(name)


@pytest.fixture
def of_the_user() -> Iterator[str]:
    """A model of the user's own in timm's registry, which reads a number out of its weights."""

    class Own(nn.Module):
        def __init__(self, num_classes: int, in_chans: int, scale: float) -> None:
            super().__init__()
            self.linear = nn.Linear(in_chans, 6)
            self.scale = scale / self.linear.weight.norm().item()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scale * self.linear(images.mean((2, 3)))

    def own_net(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        for ignored in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            kwargs.pop(ignored, None)
        return Own(**kwargs)

    own_net.__module__ = __name__
    timm.models.register_model(own_net)
    yield "own_net"
    registry = sys.modules["timm.models._registry"]
    registry._model_entrypoints.pop("own_net")


def test_a_model_that_looks_at_its_numbers_is_tried_on_the_cpu(of_the_user: str) -> None:
    backbone, d = build_backbone(of_the_user, {"scale": 2}, **RGB)
    assert d == 6
    assert backbone(torch.randn(4, 3, 32, 32)).shape == (4, 6)
    with pytest.raises(InputError, match=r"don't fit own_net: TypeError: .*'scale'"):
        build_backbone(of_the_user, {}, **RGB)


def test_weights_that_can_not_be_fetched_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def without_network(name: str, *, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            raise ConnectionError("no route\nto the hub")
        return create(name, **kwargs)

    monkeypatch.setattr(timm, "create_model", without_network)
    kwargs = {"pretrained": True}
    assert feature_dimension("resnet18", kwargs, **RGB) == 512  # fetches nothing
    message = (
        r"weights of model=resnet18 can't be fetched \(ConnectionError: no route to the hub\);"
    )
    with pytest.raises(InputError, match=message):
        build_backbone("resnet18", kwargs, **RGB)
