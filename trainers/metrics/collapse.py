"""Neural collapse: class moments, and nc1, nc2, nc3, nc4 and cdnv from them.

State + merge + compute. Everything is float64 and about a reference point per class, so that a
spread inside a class of 1e-6 of the class means keeps its digits. Angles are in `cosine`.
Shapes: N samples, B batch, K classes, D features.
"""

import math

import torch
from torch import Tensor

from trainers.metrics.by_class import add_by_class

EPS = torch.finfo(torch.float64).eps
ROUNDING = 1e-5  # of a feature vector's length: what a forward pass in float32 may make of one


class Frame:
    """Class means known before a pass over their very samples, and the space of their differences.

    nc1 and nc4 look at nothing outside of that space: a few coordinates stand for D features.
    """

    def __init__(self, means_KD: Tensor) -> None:
        known_KD = means_KD[means_KD.isfinite().all(1)]
        differences_DR = (known_KD[1:] - known_KD[:1]).T
        self.means_KD = means_KD
        self.rows_RD = torch.linalg.qr(differences_DR).Q.T.contiguous()  # orthonormal
        self.means_KR = self.coordinates(means_KD)

    def coordinates(self, rows: Tensor) -> Tensor:
        """Coordinates (..., R) of rows (..., D); their differences are exact in the space alone."""
        return rows @ self.rows_RD.T


class ClassMoments:
    """First and second moments of each class, and their pooled scatter matrix.

    With r_k the first sample of class k, and x = h - r_k: counts n_k, sums m_k = Σ x, squares
    q_k = Σ ‖x‖², scatter T = Σ x xᵀ over all classes.
    Then Σ_i (h_i - μ_{y_i})(h_i - μ_{y_i})ᵀ = T - Σ_k m_k m_kᵀ / n_k, where little cancels, since
    m_k / n_k is of the size of the spread and not of the mean. Also where r_k is an outlier: it is
    one of the samples, so the variance along r_k - μ_k is at least 1/n_k of what is subtracted.
    Source: the shifted-data algorithm and its merging, Chan, Golub and LeVeque 1983.

    With a frame, r_k is the class mean, and the scatter is of x's coordinates in it: R² numbers.
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        device: torch.device,
        frame: Frame | None = None,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        size = len(frame.rows_RD) if frame else num_features
        self.frame = frame
        self.counts_K = zeros(num_classes)
        self.reference_KD = frame.means_KD if frame else zeros(num_classes, num_features)
        self.sums_KD = zeros(num_classes, num_features)
        self.squares_K = zeros(num_classes)
        self.scatter_RR = zeros(size, size)

    def update(self, features_BD: Tensor, points_BR: Tensor, labels_B: Tensor) -> None:
        """Add a batch: float64 features, their coordinates in the frame, and class ids.

        Without a frame the coordinates are the features themselves.
        """
        if self.frame is None:
            self._refer(features_BD, labels_B)
        shifted_BD = self.reference_KD.index_select(0, labels_B)
        torch.sub(features_BD, shifted_BD, out=shifted_BD)  # allocating another takes as long
        add_by_class(self.counts_K, torch.ones_like(shifted_BD[:, 0]), labels_B)
        add_by_class(self.squares_K, shifted_BD.norm(dim=1).square(), labels_B)
        if self.frame is None:
            add_by_class(self.sums_KD, shifted_BD, labels_B)
            shifted_BR = shifted_BD
        else:  # about the class means the sums are 0
            shifted_BR = points_BR - self.frame.means_KR.index_select(0, labels_B)
        self.scatter_RR.addmm_(shifted_BR.T, shifted_BR)

    def merge(self, other: "ClassMoments") -> None:
        """Add the moments of other samples, moved exactly to this side's points; not with a frame.

        With δ_k = r'_k - r_k: m += m' + n'δ, q += q' + 2δ·m' + n'‖δ‖² and
        T += T' + Σ_k (m'δᵀ + δm'ᵀ + n'δδᵀ).
        """
        ours_K1, theirs_K1 = (self.counts_K > 0)[:, None], (other.counts_K > 0)[:, None]
        delta_KD = other.reference_KD - self.reference_KD
        delta_KD = torch.where(ours_K1 & theirs_K1, delta_KD, 0.0)
        moved_KD = other.counts_K[:, None] * delta_KD
        cross_DD = other.sums_KD.T @ delta_KD
        self.scatter_RR += other.scatter_RR + cross_DD + cross_DD.T + moved_KD.T @ delta_KD
        self.squares_K += other.squares_K + (delta_KD * (2 * other.sums_KD + moved_KD)).sum(1)
        self.sums_KD += other.sums_KD + moved_KD
        self.reference_KD = torch.where(ours_K1, self.reference_KD, other.reference_KD)
        self.counts_K += other.counts_K

    def class_means(self) -> Tensor:
        """Class means μ_k, (K, D); a row of NaN where the class has no sample."""
        return self.reference_KD + self.sums_KD / self.counts_K[:, None]

    def class_variances(self) -> Tensor:
        """σ_k² = (1/n_k) Σ ‖h - μ_k‖², (K,); NaN where the class has no sample."""
        inner_K = self.squares_K - self.sums_KD.square().sum(1) / self.counts_K
        return (inner_K / self.counts_K).clamp(min=0.0)

    def is_constant(self) -> Tensor:
        """Whether neither classes nor samples differ by more than float32's rounding, 0-d bool."""
        there_K = self.counts_K > 0
        means_KD = self.class_means()[there_K]
        size = means_KD.norm(dim=1).max()
        between = (means_KD - means_KD.mean(0)).norm(dim=1).max()
        within = self.class_variances()[there_K].max().sqrt()
        return torch.maximum(between, within) <= ROUNDING * size

    def variance_along(self, directions_VR: Tensor) -> Tensor:
        """vᵀ Σ_W v for each row v, given by its `coordinates`, (V,)."""
        total_V = ((directions_VR @ self.scatter_RR) * directions_VR).sum(1)
        sums_KR = self.coordinates(self.sums_KD)
        between_V = ((directions_VR @ sums_KR.T).square() / self.counts_K).sum(1)
        return ((total_V - between_V) / self.counts_K.sum()).clamp(min=0.0)

    def _refer(self, features_BD: Tensor, labels_B: Tensor) -> None:
        """Set the reference point of each class that is new."""
        # Decided on the device: asking the host which classes are new would wait for the GPU.
        size = len(labels_B)
        first_K = torch.full_like(self.counts_K, size, dtype=torch.int64)
        samples_B = torch.arange(size, device=labels_B.device)
        first_K.scatter_reduce_(0, labels_B, samples_B, "amin")
        new_K1 = ((self.counts_K == 0) & (first_K < size))[:, None]
        first_KD = features_BD[first_K.clamp(max=size - 1)]
        self.reference_KD = torch.where(new_K1, first_KD, self.reference_KD)

    def coordinates(self, rows: Tensor) -> Tensor:
        """Coordinates of rows (..., D) in the frame, (..., R); without one the rows themselves."""
        return self.frame.coordinates(rows) if self.frame else rows


def compute(moments: ClassMoments, weight_KD: Tensor) -> dict[str, Tensor]:
    """nc1, nc2, nc3, nc2_centered, nc2_means and cdnv, each a 0-d float64 tensor."""
    means_KD = moments.class_means()
    global_mean_D = (moments.counts_K @ means_KD) / moments.counts_K.sum()
    centred_KD = _unless_rounding(means_KD - global_mean_D, means_KD)
    return {
        "nc1": nc1(moments, means_KD, centred_KD),
        "nc2": etf_distance(weight_KD @ weight_KD.T),
        "nc3": etf_distance(weight_KD @ centred_KD.T),
        "nc2_centered": _centred_nc2(weight_KD),
        "nc2_means": _centred_nc2(means_KD),
        "cdnv": cdnv(means_KD, moments.class_variances()),
    }


def nc1(moments: ClassMoments, means_KD: Tensor, centred_KD: Tensor) -> Tensor:
    """trace(Σ_W Σ_B⁺) / K: within-class over between-class variability; 0 at full collapse.

    With M the rows μ_k - μ_G = U diag(σ) Vᵀ, Σ_B = MᵀM/K has the pseudo-inverse
    K Σ_v v vᵀ / σ_v², so nc1 = Σ_v (vᵀ Σ_W v) / σ_v²: the factors K cancel, and no D x D
    inverse is formed.
    The rank of M is at most K - 1, as Σ_k n_k (μ_k - μ_G) = 0; of these, singular values that
    rounding alone explains are left out. NaN where nothing separates the classes.
    Source: NC1 of Papyan et al. 2020 in the form of Zhu et al. 2021.
    """
    missing = torch.full_like(centred_KD[0, 0], math.nan)
    if not bool(centred_KD.isfinite().all()):  # svd refuses NaN
        return missing
    points_KR = moments.coordinates(centred_KD)
    _, sigma_V, directions_VR = torch.linalg.svd(points_KR, full_matrices=False)
    rank = min(len(sigma_V), len(centred_KD) - 1)
    sigma_V, directions_VR = sigma_V[:rank], directions_VR[:rank]
    size = torch.maximum(sigma_V[0], means_KD.norm(dim=1).max())
    kept_V = sigma_V > max(centred_KD.shape) * EPS * size
    ratio_V = moments.variance_along(directions_VR) / sigma_V.square()
    return torch.where(kept_V.any(), torch.where(kept_V, ratio_V, 0.0).sum(), missing)


def etf_distance(gram_KK: Tensor) -> Tensor:
    """‖G/‖G‖_F - (I - 11ᵀ/K)/√(K-1)‖_F: 0 if G is a simplex ETF's, NaN if G = 0.

    nc2 with G = WWᵀ, nc3 with G = WM. Source: the paper's NC2 and NC3, after Zhu et al. 2021.
    """
    size = len(gram_KK)
    etf_KK = torch.eye(size, dtype=gram_KK.dtype, device=gram_KK.device) - 1 / size
    return (gram_KK / gram_KK.norm() - etf_KK / math.sqrt(size - 1)).norm()


def cdnv(means_KD: Tensor, variances_K: Tensor) -> Tensor:
    """Mean over class pairs of (σ_k² + σ_l²) / (2‖μ_k - μ_l‖²); inf where two means coincide.

    Source: class-distance normalised variance, Galanti, György and Hutter 2022.
    """
    # By differences: ‖a‖² + ‖b‖² - 2ab loses the distance of close means.
    distance_KK = torch.cdist(means_KD, means_KD, compute_mode="donot_use_mm_for_euclid_dist")
    k, l = torch.triu_indices(len(means_KD), len(means_KD), 1, device=means_KD.device)  # noqa: E741
    return ((variances_K[k] + variances_K[l]) / (2 * distance_KK[k, l].square())).mean()


class NearestMean:
    """nc4: how often the nearest class mean and the classifier name the same class.

    The means must be known beforehand: those of an earlier pass, or of this one in a second pass.
    Without them, or with a class's mean missing, nc4 is NaN. Features and means may both be given
    by their coordinates in a `Frame`. Source: NC4 of Papyan et al. 2020.
    """

    def __init__(self, class_means_KD: Tensor | None, device: torch.device) -> None:
        self.means_KD = class_means_KD
        self.agreed = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0

    def update(self, features_BD: Tensor, predicted_B: Tensor) -> None:
        """Add a batch: float64 features, and the classes by `uniform.predict`."""
        self.count += len(features_BD)
        if self.means_KD is None:
            return
        centre_D = self.means_KD.mean(0)  # a common offset of all features would cost digits
        means_KD = self.means_KD - centre_D
        half_K = means_KD.square().sum(1) / 2
        closeness_BK = torch.addmm(-half_K, features_BD - centre_D, means_KD.T)
        self.agreed += (closeness_BK.argmax(1) == predicted_B).sum()

    def merge(self, other: "NearestMean") -> None:
        """Add the counts of other samples, taken against the same means."""
        self.agreed += other.agreed
        self.count += other.count

    def compute(self) -> dict[str, Tensor]:
        """nc4 as a 0-d float64 tensor."""
        if self.means_KD is None:
            return {"nc4": torch.full_like(self.agreed, math.nan)}
        complete = self.means_KD.isfinite().all()
        return {"nc4": torch.where(complete, self.agreed / self.count, math.nan)}


def _centred_nc2(rows_KD: Tensor) -> Tensor:
    centred_KD = _unless_rounding(rows_KD - rows_KD.mean(0), rows_KD)
    return etf_distance(centred_KD @ centred_KD.T)


def _unless_rounding(centred_KD: Tensor, rows_KD: Tensor) -> Tensor:
    """The centred rows; NaN where all rows are one, and only rounding would be normalised."""
    real = centred_KD.norm() > max(rows_KD.shape) * EPS * rows_KD.norm()
    return torch.where(real, centred_KD, math.nan)
