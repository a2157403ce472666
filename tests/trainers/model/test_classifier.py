"""Backbones at 32x32 in the paper's form, the head's sign and initialisation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.model.classifier import Head, build_model, check_model_builds

Tiny = Callable[..., TrialConfig]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "num_features", "parameters"),
    [  # backbone and head; ResNet: torchvision's 11,689,512 - stem 7x7 + stem 3x3 - head + head
        ("resnet18", 512, 11_689_512 - 7 * 7 * 3 * 64 + 3 * 3 * 3 * 64 - 513_000 + 5_130),
        ("resnet50", 2048, 25_557_032 - 7 * 7 * 3 * 64 + 3 * 3 * 3 * 64 - 2_049_000 + 20_490),
        ("densenet121", 1024, 7_978_856 - 1_025_000 + 10_250),
    ],
)
def test_backbones_of_the_paper(tiny: Tiny, model: str, num_features: int, parameters: int) -> None:
    config = tiny(dataset="cifar10", model=model, model_kwargs={}, samples_per_class=None)
    net = build_model(config, num_train=1).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters
    features, logits = net(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, num_features)
    assert logits.shape == (2, 10)
    assert (features >= 0).all()  # behind the last ReLU


def test_resnet_keeps_resolution_in_its_stem(tiny: Tiny) -> None:
    net = build_model(tiny(), num_train=1)
    stem = net.backbone.conv1
    assert isinstance(stem, torch.nn.Conv2d)
    assert (stem.kernel_size, stem.stride) == ((3, 3), (1, 1))
    assert isinstance(net.backbone.maxpool, torch.nn.Identity)


def test_keyword_arguments_that_do_not_fit_are_told(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"model_kwargs=.*'width'.* don't fit resnet18"):
        build_model(tiny(model_kwargs={"width": 3}), num_train=1)


def test_bias_is_subtracted() -> None:
    head = Head(3, 2, bias_init_mean=0)
    h = torch.randn(5, 3)
    assert torch.allclose(head(h), h @ head.weight.T - head.bias)


def test_bias_starts_around_its_mean() -> None:
    torch.manual_seed(0)
    bias = Head(16, 10_000, bias_init_mean=5).bias.detach()
    assert bias.min() >= 5 - 0.25
    assert bias.max() <= 5 + 0.25
    assert bias.mean().item() == pytest.approx(5, abs=0.01)
    assert bias.std().item() == pytest.approx(0.5 / 12**0.5, rel=0.02)


def test_the_seed_alone_decides_the_start_and_no_generator_is_touched(tiny: Tiny) -> None:
    before = torch.get_rng_state()
    first, second = (build_model(tiny(loss=loss), 1).state_dict() for loss in ("ce", "bce"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = build_model(tiny(seed=1), 1).state_dict()
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_free_features_belong_to_their_samples() -> None:
    fields = {"dataset": "labels", "samples_per_class": 3, "num_classes": 4, "model": "ufm"}
    config = TrialConfig.parse(
        {**fields, "loss": "ce", "optimizer": "lbfgs", "model_kwargs": {"num_features": 5}}
    )
    check_model_builds(config)
    net = build_model(config, num_train=12)
    features, logits = net(torch.tensor([7, 2]))
    assert torch.equal(features, net.state_dict()["backbone.features"][[7, 2]])
    assert logits.shape == (2, 4)


@pytest.mark.parametrize(
    "model_kwargs",
    [{"num_feature": 5}, {"num_features": 0}, {"num_features": 2.5}, {"num_features": True}],
)
def test_free_features_take_their_dimension_only(tiny: Tiny, model_kwargs: dict[str, Any]) -> None:
    config = tiny(model="ufm", model_kwargs=model_kwargs)
    with pytest.raises(
        InputError, match=r"model_kwargs=\{.*\} don't fit ufm; it takes num_features"
    ):
        check_model_builds(config)
    with pytest.raises(InputError, match="don't fit ufm"):
        build_model(config, num_train=3)


def test_the_check_allocates_no_weights(tiny: Tiny) -> None:
    wide = {"hidden": [10**6, 10**6]}  # 4 TB
    check_model_builds(tiny(model="mlp", model_kwargs=wide))


def test_the_check_uses_the_images_of_the_dataset(tiny: Tiny) -> None:
    check_model_builds(tiny())
    check_model_builds(tiny(model="mlp", model_kwargs={"hidden": [4]}))
    with pytest.raises(InputError, match=r"model=inception_v3 .* can't take image_size=8"):
        check_model_builds(tiny(model="inception_v3", model_kwargs={}))


@pytest.mark.parametrize(
    ("model", "model_kwargs", "num_features"),
    [
        ("mlp", {"hidden": [16, 12]}, 12),
        ("vit_tiny_patch16_224", {"patch_size": 4, "depth": 2}, 192),
        ("swin_tiny_patch4_window7_224", {"patch_size": 1, "window_size": 4}, 768),
    ],
)
def test_other_backbones_start_from_the_seed_and_train(
    tiny: Tiny, model: str, model_kwargs: dict[str, Any], num_features: int
) -> None:
    config = tiny(model=model, model_kwargs=model_kwargs)
    net, same = build_model(config, 1), build_model(config, 1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), same.parameters(), strict=True))
    features, logits = net(torch.randn(3, 1, 8, 8))
    assert features.shape == (3, num_features)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
