"""What a batch is taken apart by, the samples' classes: sums a class, own scores and the others."""

import torch
from torch import Tensor


def add_by_class(sums: Tensor, rows: Tensor, labels_B: Tensor) -> None:
    """Add each sample's row (B, ...) to its class's sum in `sums` (K, ...), in place."""
    if sums.device.type == "cpu":
        sums.index_add_(0, labels_B, rows)
    else:
        sums += _one_hot(labels_B, len(sums), rows.dtype).T @ rows


def split_by_class(scores_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's score for its own class, (B, 1), and for the others, (B, K - 1).

    The others are not in order: the first column takes the place of the own class's.
    """
    own_B1 = scores_BK.gather(1, labels_B[:, None])
    others_BK = scores_BK.scatter(1, labels_B[:, None], scores_BK[:, :1])
    return own_B1, others_BK[:, 1:]


def _one_hot(labels_B: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    # Sums by this matrix are slower than index_add_ on a CPU, but on a GPU that one adds in no
    # fixed order. Not torch's one_hot, which waits for the device.
    classes_K = torch.arange(num_classes, device=labels_B.device)
    return (labels_B[:, None] == classes_K).to(dtype)
