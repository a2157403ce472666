"""The streaming form of all metrics: the families put together, batch by batch, worker by worker.

What a family computes stands in its own file; here are devices, precision and checks of shapes.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from trainers.metrics import collapse, cosine
from trainers.metrics.collapse import ClassMoments, Frame, NearestMean
from trainers.metrics.cosine import UnitSums
from trainers.metrics.scores import Moments, ScoreMoments, of_biases
from trainers.metrics.uniform import Thresholds, predict

_FAMILIES = (ClassMoments, Frame, NearestMean, UnitSums, Thresholds, ScoreMoments, Moments)


class Accumulator:
    """Every metric of one split, over batches of features; memory O(K·D + D² + N).

    Sums are float64 whatever the features are, `update` never waits for the device, and merging
    accumulators of disjoint samples equals one over all of them. Pickles, so workers can send it.

    class_means, (K, D), are the means that nc4 classifies by; without them nc4 is NaN.
    frame, for who can read the samples twice as `from_features` can, has the class means of these
    very samples: nc4 classifies by them, and nc1 costs O(B·K·D) a batch instead of O(B·D²).
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        class_means: Tensor | None = None,
        frame: Frame | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_classes < 2 or num_features < 1:
            raise ValueError(
                f"num_classes={num_classes}, num_features={num_features}: at least 2 classes and "
                "1 feature are needed; check the classifier's weight, (K, D)"
            )
        self.num_classes, self.num_features = num_classes, num_features
        self.device = torch.device(device)
        self.num_samples = 0
        self._weight_KD: Tensor | None = None
        self._bias_K: Tensor | None = None
        with plain(self.device):
            self._strays = torch.zeros((), dtype=torch.int64, device=self.device)
            self._frame = frame
            self._moments = ClassMoments(num_classes, num_features, self.device, frame)
            self._units = UnitSums(num_classes, num_features, self.device)
            self._thresholds = Thresholds(self.device)
            self._scores = ScoreMoments(self.device)
            means = frame.means_KR if frame else self._checked_means(class_means)
            self._nearest = NearestMean(means, self.device)

    def update(self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Add a batch: features (B, D), integer labels (B,), and the classifier z = Wh - b.

        The classifier, weight (K, D) and bias (K,), must be the same in all updates of a pass.
        A label outside 0..K-1 is reported by `compute`, since looking now would wait for the GPU.
        Raises: ValueError if shapes do not go together or labels are not integers.
        """
        self._check_shapes(features, labels, weight, bias)
        with plain(self.device):
            weight_KD, bias_K = self._float64(weight), self._float64(bias)
            self._weight_KD, self._bias_K = weight_KD, bias_K
            if len(labels):
                features_BD = features.detach().to(self.device, torch.float64)
                labels_B = labels.detach().to(self.device, torch.int64)
                self._add(features_BD, labels_B, weight_KD, bias_K)

    def threshold_curve(self) -> list[tuple[float, int]]:
        """Samples that one threshold for all separates, by threshold; see `Thresholds.curve`."""
        return self._thresholds.curve()

    def merge(self, other: "Accumulator") -> None:
        """Add another accumulator over other samples, same classifier and class_means.

        Raises: ValueError if the numbers of classes or features differ, or for one with a frame.
        """
        ours, theirs = (
            (a.num_classes, a.num_features, a._nearest.means_KD is not None) for a in (self, other)
        )
        if ours != theirs:
            raise ValueError(
                f"cannot merge accumulators with (num_classes, num_features, has class_means) "
                f"{ours} and {theirs}; build both with the same arguments"
            )
        if self._frame or other._frame:
            raise ValueError(
                "an accumulator with a frame can't be merged; give class_means instead"
            )
        with plain(self.device):
            other = other if other.device == self.device else other.to(self.device)
            self.num_samples += other.num_samples
            self._strays += other._strays
            if self._weight_KD is None:
                self._weight_KD, self._bias_K = other._weight_KD, other._bias_K
            self._moments.merge(other._moments)
            self._units.merge(other._units)
            self._thresholds.merge(other._thresholds)
            self._scores.merge(other._scores)
            self._nearest.merge(other._nearest)

    def compute(self) -> dict[str, float]:
        """All metrics by name, without split suffix; NaN where the samples cannot give one.

        Raises: ValueError if there was no update, or a label was outside 0..K-1.
        """
        if self._weight_KD is None or self._bias_K is None:
            raise ValueError("no batch was added; call update before compute")
        if strays := int(self._strays):
            raise ValueError(
                f"{strays} labels are outside 0..{self.num_classes - 1}; "
                "renumber the classes, or give the classifier one row per class"
            )
        with plain(self.device):
            values = {
                **self._thresholds.compute(),
                **collapse.compute(self._moments, self._weight_KD),
                **self._nearest.compute(),
                **cosine.compute(self._units, self._moments.class_means()),
                **self._scores.compute(),
                **of_biases(self._bias_K),
            }
            return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    @property
    def class_means(self) -> Tensor:
        """Class means so far, (K, D) float64; a row of NaN where a class has no sample."""
        with plain(self.device):
            return self._moments.class_means()

    @property
    def is_constant(self) -> bool:
        """Whether all samples so far have the same features, up to the rounding of float32."""
        with plain(self.device):
            return bool(self._moments.is_constant())

    def to(self, device: torch.device | str) -> "Accumulator":
        """A copy on another device; nothing is shared with this one."""
        with plain(torch.device(device)):
            moved = copy.copy(self)
            for name, value in vars(self).items():
                setattr(moved, name, _moved(value, torch.device(device)))
            moved.device = torch.device(device)
            return moved

    def _add(
        self, features_BD: Tensor, labels_B: Tensor, weight_KD: Tensor, bias_K: Tensor
    ) -> None:
        self.num_samples += len(labels_B)
        known_B = labels_B.clamp(0, self.num_classes - 1)  # a stray must not end a GPU's process
        self._strays += (known_B != labels_B).sum()
        if self._frame is None:
            scores_BK, points_BR = features_BD @ weight_KD.T, features_BD
        else:  # one product is faster than two
            both = features_BD @ torch.cat([weight_KD, self._frame.rows_RD]).T
            scores_BK, points_BR = both.tensor_split([self.num_classes], dim=1)
        logits_BK = scores_BK - bias_K
        predicted_B = predict(logits_BK)
        self._moments.update(features_BD, points_BR, known_B)
        self._units.update(features_BD, known_B)
        self._thresholds.update(logits_BK, known_B, predicted_B)
        self._scores.update(scores_BK, known_B)
        self._nearest.update(points_BR, predicted_B)

    def _float64(self, tensor: Tensor) -> Tensor:
        # A copy: the caller may train on before `compute`.
        return tensor.detach().to(self.device, torch.float64, copy=True)

    def _checked_means(self, class_means: Tensor | None) -> Tensor | None:
        expected = (self.num_classes, self.num_features)
        if class_means is None:
            return None
        if class_means.shape != expected:
            raise ValueError(
                f"class_means has shape {tuple(class_means.shape)}, expected {expected}; "
                "give another accumulator's class_means"
            )
        return self._float64(class_means)

    def _check_shapes(self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> None:
        K, D = self.num_classes, self.num_features
        expected = {"features": (len(labels), D), "weight": (K, D), "bias": (K,)}
        given = {"features": features, "weight": weight, "bias": bias}
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}; "
                "give integer class ids of shape (B,)"
            )
        for name, tensor in given.items():
            if tensor.shape != expected[name]:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, expected {expected[name]}; "
                    f"this accumulator is for {K} classes and {D} features"
                )


@contextlib.contextmanager
def plain(device: torch.device) -> Iterator[None]:
    """Run outside autograd, inference mode and autocast, so that state is plain and float64.

    Inference mode is switched off since its tensors could not be updated outside of it later.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


def _moved(state: Any, device: torch.device) -> Any:
    """A deep copy of our own nested state with all its tensors on the device."""
    if isinstance(state, Tensor):
        return state.to(device, copy=True)
    if isinstance(state, list):
        return [_moved(item, device) for item in state]
    if isinstance(state, _FAMILIES):
        moved = copy.copy(state)
        for name, value in vars(state).items():
            setattr(moved, name, _moved(value, device))
        return moved
    return state
