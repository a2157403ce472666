"""How convolutions lie in memory, and on a CPU those that torch gets wrong, and a check of all.

Up to torch 2.14.1 at least, oneDNN's backward pass of a 1x1 convolution with a stride, in
channels_last and with fewer input channels than a vector register holds (16 with AVX-512, 8 with
AVX2), writes beyond its memory: the process dies by a signal, or the gradients are wrong without a
word. https://github.com/uxlfoundation/oneDNN/issues/6035
"""

import copy
import math
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from analysis.store.errors import InputError

TOLERANCE: Final = 1e-3  # of a norm; float32 is off by 1e-6, what was seen of wrong ones by 0.16 up
TINY: Final = 1e-30  # under a norm of 0
BATCH: Final = 2
SIDE: Final = 8  # pixels, at least


def lay_out_channels_last(model: nn.Module) -> None:
    """Lay out what has the rank of images as convolutions are fastest, in place.

    `nn.Module.to` would refuse a model that has parameters of rank 5, as LambdaNetworks have.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)


def slice_instead_of_striding(model: nn.Module) -> None:
    """Let 1x1 convolutions read every s-th pixel by a slice and convolve with stride 1, in place.

    That is the same by definition, avoids oneDNN's fault in every layout and at any number of
    channels, and costs nothing measurable. Names, parameters and their start stay as they are.
    """
    for _, conv in _convolutions(model):
        if is_strided_pointwise(conv):
            conv.register_forward_pre_hook(partial(_slice, _pair(conv.stride)))
            conv.stride = (1, 1)


def is_strided_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution only picks pixels: a 1x1 kernel, some stride, no padding."""
    pads = isinstance(conv.padding, tuple) and any(conv.padding)
    return _pair(conv.kernel_size) == (1, 1) and _pair(conv.stride) != (1, 1) and not pads


def check_convolutions(name: str, model: nn.Module) -> None:
    """Compare every kind of convolution in a model, as it would train on this CPU, with float64.

    `model` may be on torch's meta device. Each kind is tried at its real numbers of channels on a
    few pixels of noise, forward and backward, but for those that `slice_instead_of_striding`
    replaces, which aren't run as they are: they could end this process.
    Raises InputError, naming the model and the layer, where a result is wrong.
    """
    seen: set[tuple[object, ...]] = set()
    with torch.random.fork_rng(devices=[]):
        for layer, conv in _convolutions(model):
            kind = _kind(conv)
            if kind in seen:
                continue
            seen.add(kind)
            error = _error(conv)
            if not error < TOLERANCE:  # also NaN
                raise InputError(
                    f"model={name}: torch {torch.__version__} computes its convolution {layer} "
                    f"wrongly on this CPU (off by {error:.1g} of its size from float64); train it "
                    "on a GPU, use another model or other widths, or another version of torch"
                )


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, module


def _kind(conv: nn.Conv2d) -> tuple[object, ...]:
    """What decides how a convolution is computed, but for the size of its images."""
    return (
        type(conv),
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        conv.bias is not None,
    )


def _error(conv: nn.Conv2d) -> float:
    """The largest relative error of a convolution's output and gradients on noise."""
    generator = torch.Generator().manual_seed(0)
    conv = _on_cpu(conv, generator)
    slice_instead_of_striding(conv)
    exact = copy.deepcopy(conv).double()
    side = max(
        SIDE,
        *(
            d * (k - 1) + 1
            for d, k in zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True)
        ),
    )
    images = torch.randn(BATCH, conv.in_channels, side, side, generator=generator)
    lay_out_channels_last(conv)
    ours = _results(conv, images.contiguous(memory_format=torch.channels_last))
    theirs = [each.detach() for each in _results(exact, images.double())]
    return max(
        float((a.detach().double() - b).norm() / b.norm().clamp_min(TINY))
        for a, b in zip(ours, theirs, strict=True)
    )


def _results(conv: nn.Conv2d, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of images and parameters for noise as the output's."""
    images.requires_grad_()
    output = conv(images)
    noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    wanted = [images, *(p for p in conv.parameters() if p.requires_grad)]
    return [output, *torch.autograd.grad(output, wanted, noise.to(output))]


def _on_cpu(conv: nn.Conv2d, generator: torch.Generator) -> nn.Conv2d:
    """A copy with numbers of its own: a model on the meta device has none."""
    conv = copy.deepcopy(conv).to_empty(device="cpu")
    fan_in = math.prod(conv.weight.shape[1:])
    with torch.no_grad():
        for tensor in (*conv.parameters(), *conv.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(std=fan_in**-0.5, generator=generator)
    return conv


def _slice(stride: tuple[int, int], _conv: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    images, *others = inputs
    return (images[..., :: stride[0], :: stride[1]], *others)


def _pair(value: Any) -> tuple[int, int]:
    """Both of a setting that may be given once."""
    return (value, value) if isinstance(value, int) else tuple(value)
