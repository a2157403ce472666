"""Whether a backbone suits its images, beyond giving features: that it sees them whole and trains.

Tried before a sweep starts, so that a trial doesn't find it out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.store.errors import InputError
from trainers.model.backbones import (
    FITTED,
    SMALL_IMAGE,
    MisfitError,
    does_not_fit,
    feature_dimension,
    forward,
    is_of_timm,
    small_stem,
    untrained,
)
from trainers.model.convolutions import (
    check_convolutions,
    lay_out_channels_last,
    slice_instead_of_striding,
)

# Up to these a step is tried on the CPU: below a second, and less memory than a trial takes.
MOST_FLOPS: Final = 10**10  # of the forward pass of two images
MOST_WEIGHTS: Final = 10**8


class _Edge(NamedTuple):
    """Of a convolution that reads the image: the rows that it drops at the lower edge."""

    lost: int
    kernel: int
    stride: int


def check_fit(
    name: str, model_kwargs: Mapping[str, Any], *, channels: int, image_size: int, on_cpu: bool
) -> list[str]:
    """What a backbone does that its name doesn't say, each in a line.

    Raises InputError if a backbone drops the border of its images, or can't take a step.

    With `on_cpu`, for trials that train on one like this machine's, also if torch computes one of
    its convolutions wrongly. Costs a second; a large model's step isn't tried.
    """
    device, model = "meta", None
    with suppress(MisfitError):
        model = untrained(name, model_kwargs, channels, image_size, device="meta")
    if model is None:  # one that looks at its weights
        device = "cpu"
        model = untrained(name, model_kwargs, channels, image_size, device=device)
    edges, flops = _run(model, channels, image_size, device=device)
    if edges and (edge := min(edges)).lost:
        raise _drops_border(name, model_kwargs, channels, image_size, edge)
    with _one_thread():
        if on_cpu:
            check_convolutions(name, model)
        weights = sum(p.numel() for p in model.parameters())
        small = weights <= MOST_WEIGHTS and flops <= MOST_FLOPS
        # A user's own may have operations for GPUs alone.
        if small and (on_cpu or is_of_timm(model)):
            _check_step(name, model_kwargs, channels, image_size)
    return _notes(name, model_kwargs, image_size, model, edges)


def _notes(
    name: str,
    model_kwargs: Mapping[str, Any],
    image_size: int,
    model: nn.Module,
    edges: Sequence[_Edge],
) -> list[str]:
    notes: list[str] = []
    # Patches, which don't overlap, are chosen with the model.
    strides = [each.stride for each in edges if each.kernel > each.stride]
    fitted = small_stem(model, image_size) == FITTED
    if image_size <= SMALL_IMAGE and strides and min(strides) > 1 and not fitted:
        notes.append(
            f"model={name} down-samples {image_size} pixels from its first layer on, as timm has "
            "it; ResNets with a stem of one convolution and DenseNets are fitted to small images "
            "(column small_stem)"
        )
    rate = getattr(model, "drop_rate", None)
    if rate and "drop_rate" not in model_kwargs:
        notes.append(
            f"model={name} drops {rate:.0%} of its features in training, as timm has it; "
            "model_kwargs: {drop_rate: 0} keeps all"
        )
    return notes


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is tried here is too small to share, and cores that others use would be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_step(name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int) -> None:
    """Train on two images: the meta device knows no index that is out of range."""
    model = untrained(name, model_kwargs, channels, image_size, device="cpu")
    slice_instead_of_striding(model)
    lay_out_channels_last(model)
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(2, channels, image_size, image_size)
        try:
            model.train()(images.contiguous(memory_format=torch.channels_last)).sum().backward()
        except Exception as error:  # each model fails in its own way
            raise does_not_fit(
                name,
                model_kwargs,
                channels=channels,
                image_size=image_size,
                error=MisfitError(error, built=True),
            ) from error


def _run(
    model: nn.Module, channels: int, image_size: int, *, device: str
) -> tuple[list[_Edge], int]:
    """An edge for each convolution that reads the image itself, and the operations of two images.

    A convolution without padding whose pixels overlap may leave out one row, as Inception's do.
    """
    edges: list[_Edge] = []

    def look(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs[0].shape == (2, channels, image_size, image_size):
            (kernel, _), (stride, _) = conv.kernel_size, conv.stride
            before = conv.padding[0] if isinstance(conv.padding, tuple) else 0
            lost = image_size + before - (output.shape[-2] - 1) * stride - kernel
            edges.append(_Edge(lost if lost > (kernel > stride) else 0, kernel, stride))

    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    handles = [each.register_forward_hook(look) for each in convolutions]
    # One that looks at its numbers has shown before that it runs elsewhere.
    with suppress(MisfitError), FlopCounterMode(display=False) as flops:
        forward(model, channels, image_size, device=device)
    for handle in handles:
        handle.remove()
    return edges, flops.get_total_flops()


def _drops_border(
    name: str, model_kwargs: Mapping[str, Any], channels: int, image_size: int, edge: _Edge
) -> InputError:
    share = 1 - (1 - edge.lost / image_size) ** 2
    below = image_size - edge.lost
    remedy = f"image_size={below} or {below + edge.stride}"
    for patch in range(edge.kernel - 1, 1, -1):
        if image_size % patch == 0:
            kwargs = {**model_kwargs, "patch_size": patch}
            with suppress(InputError):
                feature_dimension(name, kwargs, channels=channels, image_size=image_size)
                remedy += f", or model_kwargs: {{patch_size: {patch}}}"
            break
    return InputError(
        f"model={name} with model_kwargs={dict(model_kwargs)} would never see the last {edge.lost} "
        f"rows and columns of its images, {share:.0%} of their pixels: its patches, {edge.kernel} "
        f"pixels wide and {edge.stride} apart, don't come out even at image_size={image_size}; use "
        f"{remedy}"
    )
