"""What a name of timm means for small images: pixels never seen, stems, steps that fail."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.model.backbones import AS_TIMM_HAS_IT, FITTED, create, feature_dimension, small_stem
from trainers.model.classifier import check_model_builds
from trainers.model.fit import check_fit

Tiny = Callable[..., TrialConfig]


def fit(name: str, image_size: int, model_kwargs: dict[str, Any] | None = None) -> list[str]:
    return check_fit(name, model_kwargs or {}, channels=3, image_size=image_size, on_cpu=False)


def sees_its_border(name: str, image_size: int, model_kwargs: dict[str, Any]) -> bool:
    """By the gradient of a feature: whether the last row has any."""
    model = create(name, model_kwargs, 3, image_size).eval()
    images = torch.randn(1, 3, image_size, image_size, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(images).square().sum(), images)
    return bool((gradient[..., -1, :] != 0).any())


SHORT = {"depth": 1}


@pytest.mark.parametrize(
    ("name", "image_size", "model_kwargs", "message"),
    [
        (  # 1 - (16/28)^2
            "vit_tiny_patch16_224", 28, SHORT,
            r"^model=vit_tiny_patch16_224 with .* would never see the last 12 rows and columns of "
            r"its images, 67% of their pixels: .*16 pixels wide and 16 apart.* image_size=28; use "
            r"image_size=16 or 32, or model_kwargs: \{patch_size: 14\}$",
        ),
        (  # 1 - (28/32)^2
            "vit_small_patch14_dinov2", 32, SHORT,
            r"the last 4 rows .*, 23% .* use image_size=28 or 42, or model_kwargs: \{patch_size: 8",
        ),
        ("mixer_s16_224", 28, {}, r"last 12 rows .* use image_size=16 or 32$"),
        # Its patches overlap: at 16 + 8 n pixels they come out even.
        ("pit_ti_224", 28, {}, r"last 4 rows .*16 pixels wide and 8 apart.* image_size=24 or 32"),
        ("swin_tiny_patch4_window7_224", 30, {"depths": [1] * 4}, r"last 2 rows .*=28 or 32"),
    ],
)  # fmt: skip
def test_a_border_that_is_dropped_is_told_with_the_sizes_that_fit(
    name: str, image_size: int, model_kwargs: dict[str, Any], message: str
) -> None:
    assert not sees_its_border(name, image_size, model_kwargs)
    with pytest.raises(InputError, match=message):
        fit(name, image_size, model_kwargs)


@pytest.mark.parametrize(
    ("name", "image_size", "model_kwargs"),
    [
        ("vit_tiny_patch16_224", 28, {"depth": 1, "patch_size": 14}),
        ("vit_tiny_patch16_224", 32, SHORT),
        (
            "vit_tiny_patch16_224",
            28,
            {**SHORT, "dynamic_img_size": True, "dynamic_img_pad": True},
        ),  # timm pads
        ("pit_ti_224", 32, {}),
        ("tf_efficientnet_b0", 33, {}),  # pads by itself, as TensorFlow does
        ("resnet18d", 33, {}),
    ],
)
def test_who_sees_the_whole_image_may_train(
    name: str, image_size: int, model_kwargs: dict[str, Any]
) -> None:
    assert sees_its_border(name, image_size, model_kwargs)
    fit(name, image_size, model_kwargs)


def test_a_stem_that_leaves_out_one_row_may_train() -> None:
    # 3x3 with stride 2 and no padding: of 76 pixels it reads 75.
    assert not sees_its_border("inception_v3", 76, {})
    fit("inception_v3", 76)


def test_what_fails_in_training_alone_is_told_before() -> None:
    assert feature_dimension("mvitv2_tiny", {}, channels=3, image_size=40) == 768
    message = (
        r"^model=mvitv2_tiny with .* can't take image_size=40 \(IndexError: .*\); use "
        r"image_size=64, other"
    )
    with pytest.raises(InputError, match=message):
        fit("mvitv2_tiny", 40)


def test_trying_a_step_draws_no_random_number_and_leaves_the_threads() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit("resnet18", 8, {"channels": [4, 4, 8, 8]})
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_a_large_model_is_not_built() -> None:
    fit("vit_giant_patch14_224", 224)  # 4 GB of weights


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("resnet18", 32, FITTED),
        ("resnet18", 64, FITTED),
        ("resnet18", 65, AS_TIMM_HAS_IT),
        ("densenet121", 32, FITTED),
        ("resnet18d", 32, AS_TIMM_HAS_IT),
        ("resnetv2_50", 32, AS_TIMM_HAS_IT),
        ("legacy_seresnet18", 32, AS_TIMM_HAS_IT),
        ("mlp", 32, None),
    ],
)
def test_the_row_says_which_stem_ran(name: str, image_size: int, expected: str | None) -> None:
    with torch.device("meta"):
        model = create(name, {}, 3, image_size)
    assert small_stem(model, image_size) == expected
    stems = [m for m in model.modules() if isinstance(m, nn.Conv2d)][:1]
    if expected == FITTED and not name.startswith("densenet"):
        assert stems[0].stride == (1, 1)
    elif expected == AS_TIMM_HAS_IT:
        assert stems[0].stride == (2, 2)


def test_the_plan_says_which_stems_are_not_fitted() -> None:
    told = r"model=resnet18d down-samples 32 pixels from its first layer on, as timm has it"
    assert [note[: len(told)] for note in fit("resnet18d", 32)] == [told]
    assert fit("resnet18d", 96) == []  # larger images are what timm's stems are for
    for name, kwargs in {
        "resnet18": {}, "densenet121": {}, "vit_tiny_patch16_224": SHORT,
    }.items():  # fmt: skip
        assert fit(name, 32, kwargs) == [], name


def test_the_plan_says_what_drops_features_by_default() -> None:
    notes = fit("ghostnet_050", 96)
    assert notes == [
        "model=ghostnet_050 drops 20% of its features in training, as timm has it; "
        "model_kwargs: {drop_rate: 0} keeps all"
    ]
    assert fit("ghostnet_050", 96, {"drop_rate": 0}) == []
    # It is so: in training a fifth of the features is 0, and in the remedy's form none is.
    for rate, share in (None, 0.2), (0.0, 0):
        model = create("ghostnet_050", {} if rate is None else {"drop_rate": rate}, 3, 64).train()
        model.blocks.requires_grad_(False)
        with torch.no_grad():
            model.act2 = nn.Softplus()  # else some features are 0 by themselves
            features = model(torch.randn(8, 3, 64, 64))
        assert (features == 0).float().mean().item() == pytest.approx(share, abs=0.02)


def test_notes_come_with_the_check_of_a_trial(tiny: Tiny) -> None:
    assert check_model_builds(tiny()) == []
    assert check_model_builds(tiny(model="ufm", model_kwargs={})) == []
    assert check_model_builds(tiny(model="mlp", model_kwargs={})) == []
    notes = check_model_builds(tiny(model="resnet18d", image_size=32), on_cpu=True)
    assert notes[0].startswith("model=resnet18d down-samples 32 pixels")
