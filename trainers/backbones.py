"""Backbones from timm, fitted to small images as the paper does. The only caller of timm.

timm, and torch with it, is imported when a backbone is built, not when a study is read.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from trainers.registry import InputError, unknown

if TYPE_CHECKING:
    from torch import nn

# Names that need no look into timm, whose import takes seconds.
KNOWN: Final = ("densenet121", "resnet18", "resnet50", "ufm")
SMALL_IMAGE: Final = 64  # pixels; up to this side, stems don't down-sample as they do at 224


def check_model(name: str) -> None:
    """Raises InputError, with the nearest name, unless `name` is `ufm` or a model of timm."""
    if name in KNOWN:
        return
    import timm

    if not timm.is_model(name):
        raise unknown("model", name, ["ufm", *timm.list_models()])


def build_backbone(
    name: str, model_kwargs: Mapping[str, Any], *, channels: int, image_size: int
) -> "tuple[nn.Module, int]":
    """A timm model without its classifier, and its feature dimension d.

    It maps images (B, channels, image_size, image_size) to globally pooled features (B, d).
    Raises InputError if timm refuses the keyword arguments.
    """
    import timm

    kwargs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in model_kwargs.items()
    }
    try:
        model = timm.create_model(name, num_classes=0, in_chans=channels, **kwargs)
    except TypeError as error:
        raise InputError(f"model_kwargs={dict(model_kwargs)} don't fit {name}: {error}") from error
    if image_size <= SMALL_IMAGE:
        _fit_to_small_images(model, channels)
    num_features = model.num_features
    assert isinstance(num_features, int)  # every timm model has it
    return model, num_features


def _fit_to_small_images(model: "nn.Module", channels: int) -> None:
    """ResNet: 3x3 stride-1 stem and no max-pool. DenseNet: no max-pool behind its 7x7 stem."""
    import timm
    from torch import nn

    if isinstance(model, timm.models.ResNet) and isinstance(model.conv1, nn.Conv2d):
        width = model.conv1.out_channels
        model.conv1 = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    elif isinstance(model, timm.models.DenseNet):
        model.features.pool0 = nn.Identity()
