"""Backbones: timm's models, fitted to small images as the paper does, and `mlp`.

timm, and torch with it, is imported when a backbone is built, not when a study is read.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from analysis.store.errors import InputError, one_line

if TYPE_CHECKING:
    from torch import nn

SMALL_IMAGE: Final = 64  # pixels; up to this side, stems don't down-sample as they do at 224
MLP_HIDDEN: Final = (512, 512)  # widths of `mlp` unless model_kwargs says otherwise; the last is d

_REFUSED: Final = {
    "num_classes": "comes from the field num_classes",
    "in_chans": "comes from the field dataset",
    "img_size": "comes from the field image_size",
    "pretrained_cfg": "names files, whose contents a trial's id can't hold; see pretrained",
    "pretrained_cfg_overlay": "names files, whose contents a trial's id can't hold; see pretrained",
    "checkpoint_path": "names a file, whose contents a trial's id can't hold; see pretrained",
}


def build_backbone(
    name: str, model_kwargs: Mapping[str, Any], *, channels: int, image_size: int
) -> "tuple[nn.Module, int]":
    """A model without its classifier, and its feature dimension d.

    It maps images (B, channels, image_size, image_size) to globally pooled features (B, d).
    Raises InputError as `feature_dimension` does, and if pretrained weights can't be fetched.
    """
    d = feature_dimension(name, model_kwargs, channels=channels, image_size=image_size)
    if not model_kwargs.get("pretrained"):
        return _create(name, model_kwargs, channels, image_size), d
    try:
        return _create(name, model_kwargs, channels, image_size), d
    except Exception as error:  # the network's and the hub's errors share no base class
        raise InputError(
            f"the weights of model={name} can't be fetched ({one_line(error)}); check the "
            "network, put them into the hub's cache, or leave out pretrained"
        ) from error


def feature_dimension(
    name: str, model_kwargs: Mapping[str, Any], *, channels: int, image_size: int
) -> int:
    """d of a backbone, from a forward pass on torch's meta device: no weights, no arithmetic.

    Raises InputError if the keyword arguments don't fit, if images of this size don't, or if what
    comes out aren't globally pooled features.
    """
    for key, reason in _REFUSED.items():
        if key in model_kwargs:
            raise InputError(f"model_kwargs holds {key}, which {reason}")
    if model_kwargs.get("pretrained"):
        import timm

        if not timm.models.is_model_pretrained(name):
            raise InputError(f"model={name} has no pretrained weights; leave out pretrained")
    try:
        shape = _try_out(name, model_kwargs, channels, image_size, device="meta")
    except InputError as error:
        if "meta" not in str(error.__cause__):
            raise
        # One that looks at its numbers, of which the meta device has none.
        shape = _try_out(name, model_kwargs, channels, image_size, device="cpu")
    if len(shape) != 2:
        raise InputError(
            f"model={name} with model_kwargs={dict(model_kwargs)} gives {shape or 'no tensor'} for "
            "two images, not features (2, d); choose a global_pool, or another model"
        )
    return shape[1]


def _try_out(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int, *, device: str
) -> tuple[int, ...]:
    """The shape of what a fresh model makes of two images; () if that isn't a tensor."""
    import timm  # noqa: F401  (before the default device changes under its modules)
    import torch

    kwargs = {key: value for key, value in model_kwargs.items() if key != "pretrained"}
    given = f"model_kwargs={dict(model_kwargs)}"
    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
        try:
            model = _create(name, kwargs, channels, image_size)
        except InputError:
            raise
        except Exception as error:  # timm checks little: each model fails in its own way
            raise InputError(f"{given} don't fit {name}: {one_line(error)}") from error
        try:
            features = model.eval()(torch.zeros(2, channels, image_size, image_size))
        except Exception as error:
            raise InputError(
                f"model={name} with {given} can't take image_size={image_size} "
                f"({one_line(error)}); use larger images, other model_kwargs or another model"
            ) from error
    return tuple(features.shape) if isinstance(features, torch.Tensor) else ()


def _create(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int
) -> "nn.Module":
    if name == "mlp":
        return _mlp(channels * image_size**2, model_kwargs)
    import timm

    kwargs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in model_kwargs.items()
    }
    kwargs |= {"num_classes": 0, "in_chans": channels}
    try:
        model = timm.create_model(name, img_size=image_size, **kwargs)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
        model = timm.create_model(name, **kwargs)  # one that takes images of any size
    if image_size <= SMALL_IMAGE:
        _fit_to_small_images(model, channels)
    return model


def _mlp(inputs: int, model_kwargs: Mapping[str, Any]) -> "nn.Module":
    """Flattened images through layers of the `hidden` widths, a ReLU behind each; d is the last."""
    from torch import nn

    hidden = model_kwargs.get("hidden", MLP_HIDDEN)
    if not (
        set(model_kwargs) <= {"hidden"}
        and isinstance(hidden, list | tuple)
        and hidden
        and all(type(width) is int and width > 0 for width in hidden)
    ):
        raise InputError(
            f"model_kwargs={dict(model_kwargs)} don't fit mlp; it takes the widths of its layers, "
            "as hidden: [512, 512]"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


def _fit_to_small_images(model: "nn.Module", channels: int) -> None:
    """ResNet: 3x3 stride-1 stem and no max-pool. DenseNet: no max-pool behind its 7x7 stem.

    A ResNet's pretrained stem is lost by it: it is 7x7.
    """
    import timm
    from torch import nn

    if isinstance(model, timm.models.ResNet) and isinstance(model.conv1, nn.Conv2d):
        width = model.conv1.out_channels
        model.conv1 = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    elif isinstance(model, timm.models.DenseNet):
        model.features.pool0 = nn.Identity()
