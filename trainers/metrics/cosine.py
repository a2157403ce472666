"""Cosines of features: compactness, distinctiveness, and the raw quantities they come from.

State + merge + compute. All pairwise cosines come from the sums of unit vectors of each class, so
no N x N matrix is formed.
"""

import torch
from torch import Tensor

from trainers.metrics.by_class import add_by_class


class UnitSums:
    """Sum of the unit vectors ĥ = h/‖h‖ of each class, and the class counts.

    A zero vector has no direction: it stays zero, so its cosine with everything counts as 0.
    """

    def __init__(self, num_classes: int, num_features: int, device: torch.device) -> None:
        self.counts_K = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.sums_KD = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)

    def update(self, features_BD: Tensor, labels_B: Tensor) -> None:
        """Add a batch: float64 features and class ids."""
        add_by_class(self.counts_K, torch.ones_like(features_BD[:, 0]), labels_B)
        add_by_class(self.sums_KD, unit(features_BD), labels_B)

    def merge(self, other: "UnitSums") -> None:
        """Add other samples."""
        self.counts_K += other.counts_K
        self.sums_KD += other.sums_KD


def compute(sums: UnitSums, means_KD: Tensor) -> dict[str, Tensor]:
    """The six cosine metrics as 0-d float64 tensors; means_KD are the class means of `h`.

    With u_k = Σĥ/n_k: cos_within = mean_k ‖u_k‖² (each sample paired with itself too),
    cos_between = mean_{k<l} ⟨u_k, u_l⟩, cos_to_mean = (1/N) Σ_i ⟨ĥ_i, μ̂_{y_i}⟩ (each sample
    weighs the same), cos_means = mean_{k<l} ⟨μ̂_k, μ̂_l⟩.
    """
    centres_KD = sums.sums_KD / sums.counts_K[:, None]
    directions_KD = unit(means_KD)
    cos_within = centres_KD.square().sum(1).mean()
    cos_between = _mean_over_pairs(centres_KD)
    return {
        "cos_within": cos_within,
        "cos_between": cos_between,
        # A class without samples has no mean, and nothing to add either.
        "cos_to_mean": (sums.sums_KD * directions_KD.nan_to_num()).sum() / sums.counts_K.sum(),
        "cos_means": _mean_over_pairs(directions_KD),
        # Paper: Eqs. (47) and (48) are in a supplementary that is not public; assumed.
        "compactness": cos_within,
        "distinctiveness": (1 - cos_between) / 2,
    }


def unit(rows_ND: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero."""
    norm_N1 = rows_ND.norm(dim=1, keepdim=True)
    return rows_ND * torch.where(norm_N1 == 0, 1.0, norm_N1).reciprocal()


def _mean_over_pairs(rows_KD: Tensor) -> Tensor:
    gram_KK = rows_KD @ rows_KD.T
    return gram_KK.triu(1).sum() / (len(rows_KD) * (len(rows_KD) - 1) / 2)
