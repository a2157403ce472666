"""The door for anybody's own features: arrays in, every metric out.

Checks the arrays, whole, and feeds them to an `Accumulator` in chunks. The maths is elsewhere.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers.metrics.accumulator import Accumulator, plain
from trainers.metrics.by_class import add_by_class
from trainers.metrics.collapse import Frame

Array: TypeAlias = NDArray[Any] | Tensor

# Numbers in a chunk of features: 8 MiB of float64, which keeps memory small, and so many that
# other costs of a chunk are small beside it.
_CHUNK_NUMBERS = 2**20


def from_features(
    features: Array, labels: Array, weight: Array, bias: Array, *, num_classes: int | None = None
) -> dict[str, float]:
    """Every metric of a set of features under the classifier z = Wh - b; the bias is SUBTRACTED.

    Args: features (N, D), integer labels (N,) in 0..K-1, weight (K, D), bias (K,), as numpy arrays
    or torch tensors; num_classes, if given, is checked to be K. Computed in float64 on the device
    of `features`, a chunk at a time, so a memory-mapped array is never held whole. It is read
    twice: the class means must be known before nc4 can look at the first sample.
    Returns: the metrics of `analysis.store.schema` by name, without split suffix; a metric that the
    samples cannot give, as nc1 where a class has none, is NaN.
    Raises: ValueError for shapes that do not go together, labels out of range, no samples, K < 2.
    """
    _check(features, labels, weight, bias, num_classes)
    device = features.device if isinstance(features, Tensor) else torch.device("cpu")
    labels_N = _integers(labels, device, num_classes=weight.shape[0])
    weight_KD, bias_K = _float64(weight, device), _float64(bias, device)
    with plain(device):
        frame = Frame(_class_means(features, labels_N, weight_KD.shape))
        accumulator = Accumulator(*weight_KD.shape, frame=frame, device=device)
        for batch_BD, labels_B in _batches(features, labels_N):
            accumulator.update(batch_BD, labels_B, weight_KD, bias_K)
    return accumulator.compute()


def _class_means(features: Array, labels_N: Tensor, shape: torch.Size) -> Tensor:
    """Class means (K, D); NaN where a class has no sample."""
    sums_KD = torch.zeros(shape, dtype=torch.float64, device=labels_N.device)
    counts_K = torch.zeros_like(sums_KD[:, 0])
    for batch_BD, labels_B in _batches(features, labels_N):
        add_by_class(sums_KD, batch_BD, labels_B)
        add_by_class(counts_K, torch.ones_like(batch_BD[:, 0]), labels_B)
    return sums_KD / counts_K[:, None]


def _batches(features: Array, labels_N: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Features in float64 and labels, a chunk at a time, each in the memory of the one before."""
    rows = min(len(labels_N), max(1, _CHUNK_NUMBERS // features.shape[1]))
    buffer_BD = torch.empty(rows, features.shape[1], dtype=torch.float64, device=labels_N.device)
    for start in range(0, len(labels_N), rows):
        part, labels_B = features[start : start + rows], labels_N[start : start + rows]
        batch_BD = buffer_BD[: len(labels_B)]
        if isinstance(part, Tensor):
            batch_BD.copy_(part)
        else:  # not torch: it warns of read-only arrays and refuses foreign byte orders
            np.copyto(batch_BD.numpy(), part)
        yield batch_BD, labels_B


def _check(
    features: Array, labels: Array, weight: Array, bias: Array, num_classes: int | None
) -> None:
    shapes = {
        "features": tuple(features.shape),
        "labels": tuple(labels.shape),
        "weight": tuple(weight.shape),
        "bias": tuple(bias.shape),
    }
    given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if [len(shape) for shape in shapes.values()] != [2, 1, 2, 1]:
        raise ValueError(
            f"got {given}; give features (N, D), labels (N,), weight (K, D), bias (K,)"
        )
    (N, D), (K, D_weight) = shapes["features"], shapes["weight"]
    if shapes["labels"] != (N,) or shapes["bias"] != (K,) or D_weight != D:
        raise ValueError(
            f"got {given}, which do not go together; give features (N, D), labels (N,), "
            "weight (K, D), bias (K,) with the same N, D and K"
        )
    if N == 0 or D == 0:
        raise ValueError(f"got {given}; at least one sample of one feature is needed, add samples")
    if K < 2:
        raise ValueError(f"got {given}; at least 2 classes are needed, give weight a row per class")
    if num_classes is not None and num_classes != K:
        raise ValueError(
            f"num_classes={num_classes}, but weight has {K} rows; leave num_classes out, or give "
            "a weight with one row per class"
        )


def _integers(labels: Array, device: torch.device, *, num_classes: int) -> Tensor:
    kind = str(labels.dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")):
        raise ValueError(f"labels are {kind}; give integer class ids 0..{num_classes - 1}")
    if isinstance(labels, Tensor):
        labels_N = labels.detach().to(device, torch.int64)
    else:
        labels_N = torch.from_numpy(np.array(labels, dtype=np.int64)).to(device)
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels range from {low} to {high}, but weight has {num_classes} rows, so "
            f"0..{num_classes - 1} is accepted; renumber the labels or give weight a row per class"
        )
    return labels_N


def _float64(array: Array, device: torch.device) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach().to(device, torch.float64)
    # A copy: torch warns of read-only arrays and refuses foreign byte orders and negative strides.
    return torch.from_numpy(np.array(array, dtype=np.float64)).to(device)
