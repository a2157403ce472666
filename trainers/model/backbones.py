"""Backbones: timm's models, fitted to small images as the paper does, and `mlp`.

timm, and torch with it, is imported when a backbone is built, not when a study is read.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from analysis.store.errors import InputError, one_line

if TYPE_CHECKING:
    from torch import nn

SMALL_IMAGE: Final = 64  # pixels; up to this side, stems don't down-sample as they do at 224
SIZES: Final = (64, 96, 128, 224)  # pixels, tried in turn for a model that can't take smaller ones
FITTED: Final = "fitted"  # in the column small_stem
AS_TIMM_HAS_IT: Final = "as timm has it"
MLP_HIDDEN: Final = (512, 512)  # widths of `mlp` unless model_kwargs says otherwise; the last is d

_REFUSED: Final = {
    "num_classes": "comes from the field num_classes",
    "in_chans": "comes from the field dataset",
    "img_size": "comes from the field image_size",
    "pretrained_cfg": "names files, whose contents a trial's id can't hold; see pretrained",
    "pretrained_cfg_overlay": "names files, whose contents a trial's id can't hold; see pretrained",
    "checkpoint_path": "names a file, whose contents a trial's id can't hold; see pretrained",
    **dict.fromkeys(
        ("cache_dir", "exportable", "no_jit", "scriptable"),
        "changes nothing in training and would give it a second id; leave it out",
    ),
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
        return create(name, model_kwargs, channels, image_size), d
    try:
        return create(name, model_kwargs, channels, image_size), d
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
    _check_kwargs(name, model_kwargs)
    try:
        shape = _shape(name, model_kwargs, channels, image_size)
    except MisfitError as error:
        raise does_not_fit(
            name, model_kwargs, channels=channels, image_size=image_size, error=error
        ) from error
    if len(shape) != 2:
        raise InputError(
            f"model={name} with model_kwargs={dict(model_kwargs)} gives {shape or 'no tensor'} for "
            "two images, not features (2, d); choose a global_pool, or another model"
        )
    return shape[1]


class MisfitError(Exception):
    """A model can't be built, or fails at two images of zeros; its cause says why."""

    def __init__(self, cause: Exception, *, built: bool) -> None:
        text = one_line(cause)
        super().__init__(text.removesuffix(":"))  # an assertion often says nothing
        self.built = built


def does_not_fit(
    name: str, model_kwargs: Mapping[str, Any], *, channels: int, image_size: int, error: Exception
) -> InputError:
    """What is wrong with a model that fails, and the smallest larger images that it can take."""
    given, size = f"model_kwargs={dict(model_kwargs)}", None
    for size in (each for each in SIZES if each > image_size):
        with suppress(MisfitError):
            _shape(name, model_kwargs, channels, size)
            break
    else:
        if not getattr(error, "built", True):
            return InputError(f"{given} don't fit {name}: {error}")
        size = None
    larger = f"image_size={size}" if size else "larger images"
    return InputError(
        f"model={name} with {given} can't take image_size={image_size} ({error}); use {larger}, "
        "other model_kwargs or another model"
    )


def _check_kwargs(name: str, model_kwargs: Mapping[str, Any]) -> None:
    """Refuse what other fields decide, and what would give one training two ids."""
    for key, reason in _REFUSED.items():
        if key in model_kwargs:
            raise InputError(f"model_kwargs holds {key}, which {reason}")
    untagged, _, tag = name.partition(".")
    if tag and "pretrained" not in model_kwargs:
        raise InputError(
            f"model={name} names weights, and without them trains as model={untagged} under a "
            f"second id; use model={untagged}, or model_kwargs: {{pretrained: true}}"
        )
    if not model_kwargs.get("pretrained", True):
        raise InputError(
            "model_kwargs holds pretrained=False, which is the default and would give one training "
            "a second id; leave it out"
        )
    if "pretrained" in model_kwargs:
        import timm

        if not timm.models.is_model_pretrained(name):
            raise InputError(f"model={name} has no pretrained weights; leave out pretrained")


def _shape(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int
) -> tuple[int, ...]:
    """The shape of what a fresh model makes of two images; () if that isn't a tensor."""
    import torch

    try:
        model = untrained(name, model_kwargs, channels, image_size, device="meta")
        features = forward(model, channels, image_size, device="meta")
    except MisfitError as error:
        if "meta" not in str(error.__cause__):
            raise
        # One that looks at its numbers, of which the meta device has none.
        model = untrained(name, model_kwargs, channels, image_size, device="cpu")
        features = forward(model, channels, image_size, device="cpu")
    return tuple(features.shape) if isinstance(features, torch.Tensor) else ()


def untrained(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int, *, device: str
) -> "nn.Module":
    """A fresh model on a device, without pretrained weights and without drawing from the seed.

    Raises InputError if it is `mlp` and refuses its arguments, MisfitError if it is timm's.
    """
    import timm  # noqa: F401  (before the default device changes under its modules)
    import torch

    kwargs = {key: value for key, value in model_kwargs.items() if key != "pretrained"}
    with torch.random.fork_rng(devices=[]), torch.device(device):
        try:
            return create(name, kwargs, channels, image_size)
        except InputError:
            raise
        except Exception as error:  # timm checks little: each model fails in its own way
            raise MisfitError(error, built=False) from error


def forward(model: "nn.Module", channels: int, image_size: int, *, device: str) -> object:
    """What a model gives for two images of zeros, in evaluation mode."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
        try:
            return model.eval()(torch.zeros(2, channels, image_size, image_size))
        except Exception as error:
            raise MisfitError(error, built=True) from error


def create(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int
) -> "nn.Module":
    """A model in the form that it trains in. Raises whatever timm raises."""
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


def is_of_timm(model: "nn.Module") -> bool:
    """Whether a model is timm's own, not one that a user registered there, and not `mlp`."""
    return type(model).__module__.startswith("timm.")


def small_stem(model: "nn.Module", image_size: int | None) -> str | None:
    """Whether a model of timm is fitted to small images, as a trial's row says; None for others.

    An axis over both kinds compares strides as well: 32 pixels end as 4 x 4 in `resnet18`, which
    the paper fits, and as one in `resnet18d`, whose id has always meant timm's own form.
    """
    import timm
    from torch import nn

    if not is_of_timm(model):
        return None
    resnet = isinstance(model, timm.models.ResNet) and isinstance(model.conv1, nn.Conv2d)
    of_the_paper = resnet or isinstance(model, timm.models.DenseNet)
    small = image_size is not None and image_size <= SMALL_IMAGE
    return FITTED if small and of_the_paper else AS_TIMM_HAS_IT


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
