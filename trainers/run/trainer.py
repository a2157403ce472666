"""One trial's model, optimizer and data, and what is done with them: train, evaluate, measure.

Knows nothing of files and of how a trial ends: that is in `loop.py`. Every rank of a trial has a
Trainer of its own and calls the same methods in the same order.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from analysis.store.alpha_bias import alpha_bias
from analysis.store.rows import FeatureRow, Metrics, ScoreRow
from analysis.store.schema import BIAS_METRICS, WEIGHT_METRICS
from trainers.config import LAMBDAS, TrialConfig
from trainers.data.batches import Batch, TrainBatches
from trainers.data.splits import Data, Split, eval_batches
from trainers.metrics.accumulator import Accumulator
from trainers.metrics.scores import ScoreHistogram
from trainers.metrics.uniform import STEPS_PER_UNIT
from trainers.model.backbones import small_stem
from trainers.model.classifier import build_model
from trainers.model.convolutions import lay_out_channels_last, slice_instead_of_striding
from trainers.model.losses import feature_penalty
from trainers.model.optim import build_optimizer, learning_rate
from trainers.registry import LOSSES
from trainers.run.compiling import compile_net
from trainers.run.device import allow_tf32, check_has_tf32, tf32
from trainers.run.failures import Diverged
from trainers.run.ranks import Ranks, synchronise_batch_norm, wrap

MAX_FEATURES = 2000  # test samples whose features are kept for pictures
# A shorter trial isn't compiled although it asks for it: that costs a minute, or seconds where a
# trial of the same kind has filled the compiler's cache on this machine.
COMPILE_FROM_STEPS = 1000
DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


_OF_CLASSIFIER = {metric.name for metric in (*WEIGHT_METRICS, *BIAS_METRICS)}


def will_compile(config: TrialConfig, num_train: int) -> bool:
    """Whether a trial that asks for it has steps enough to be worth compiling."""
    each_pass = math.ceil(num_train / config.batch_size)
    steps = config.epochs * config.passes_per_epoch * each_pass
    return config.compile and steps >= COMPILE_FROM_STEPS


class TrainedEpoch(TypedDict):
    """What an epoch of training tells: part of its `EpochRow`, and how many samples it took."""

    epoch: int
    lr: float
    train_loss: float
    train_objective: float
    samples: int


class Trainer:
    """What one process of a trial trains with."""

    def __init__(self, config: TrialConfig, data: Data, ranks: Ranks) -> None:
        self.config = config
        self.data = data
        self.ranks = ranks
        allow_tf32(False)  # everywhere but in steps that ask for it
        if config.precision == "tf32":
            check_has_tf32(ranks.device)
        self.model = build_model(config, len(data.train)).to(ranks.device)
        self.small_stem = small_stem(self.model.backbone, config.image_size)
        if ranks.device.type == "cpu":
            slice_instead_of_striding(self.model)
        self.batch_norm = synchronise_batch_norm(self.model, config.model, ranks)
        # The compiler chooses a layout by itself, and L-BFGS flattens gradients as they lie.
        if not config.compile and config.optimizer != "lbfgs":
            lay_out_channels_last(self.model)
        self.optimizer = build_optimizer(config, list(self.model.parameters()))
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "fp16")
        self.batches = TrainBatches(data, config, ranks.rank, ranks.world_size)
        self.class_means: Tensor | None = None
        self.scores = ScoreHistogram(ranks.device)  # of the training set, filled when asked
        self.threshold_curve: list[tuple[float, int]] = []  # of the test set, likewise
        self._net = self._net_of_whole_batches = wrap(self.model, ranks)
        if will_compile(config, len(data.train)):
            self.compile_steps()
        self._loss = LOSSES[config.loss]
        self._lambdas = {name: getattr(config, name) for name in LAMBDAS}

    def compile_steps(self) -> None:
        """Compile the steps of whole batches, when the first of them comes."""
        self._net_of_whole_batches = compile_net(self._net)

    @property
    def num_features(self) -> int:
        """d, the length of a feature vector."""
        return self.model.head.weight.shape[1]

    def train_epoch(self, epoch: int) -> TrainedEpoch:
        """Train one epoch (1-based). Raises Diverged, naming epoch, step and learning rate."""
        lr = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        sizes: list[int] = []
        losses: list[Tensor] = []  # stay on the device: reading one would wait for its step
        with tf32(self.config.precision == "tf32"):
            for batch in self.batches.epoch(epoch):
                sizes.append(batch.global_size)
                losses.append(self._step(batch))
        losses_S2 = self.ranks.add_up(torch.stack(losses).double()).cpu()
        bad = (~losses_S2.isfinite().all(1)).nonzero()
        if len(bad):
            raise Diverged(
                f"the loss is not finite at epoch {epoch}, step {int(bad[0]) + 1}, lr {lr:g}"
            )
        # A last step can spoil the weights after the last loss.
        if not get_total_norm(self.model.parameters(), math.inf).isfinite():
            raise Diverged(f"the weights are not finite after epoch {epoch}, lr {lr:g}")
        loss, objective = torch.tensor(sizes, dtype=torch.float64) @ losses_S2 / sum(sizes)
        return {
            "epoch": epoch,
            "lr": lr,
            "train_loss": float(loss),
            "train_objective": float(objective),
            "samples": sum(sizes),
        }

    def _step(self, batch: Batch) -> Tensor:
        """One step of the optimizer; this rank's part of the loss and objective before it, (2,)."""
        if not isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.zero_grad()
            parts = self._backward(batch)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return parts
        seen: list[Tensor] = []

        def closure() -> Tensor:  # called several times, to the global objective each time
            self.optimizer.zero_grad()
            seen.append(self._backward(batch))
            return self.ranks.add_up(seen[-1][1].clone())

        try:
            self.optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        except IndexError as error:  # of torch's line search, where it meets nothing finite
            if torch.stack(seen).isfinite().all():
                raise
            raise Diverged("the objective is not finite anywhere along a step") from error
        return seen[0]

    def _backward(self, batch: Batch) -> Tensor:
        """Gradients of the global objective; this rank's part of the loss and objective, (2,).

        The parts of all ranks add up to loss and objective of the global batch. DDP averages
        gradients over the ranks, so each rank's part is multiplied by their number.
        """
        config, head, world_size = self.config, self.model.head, self.ranks.world_size
        size = len(batch.inputs)
        whole = size == self._whole_batch
        dtype = DTYPES[config.precision]
        with torch.autocast(self.ranks.device.type, dtype, enabled=dtype is not None):
            net = self._net_of_whole_batches if whole else self._net
            features, logits = net(batch.inputs)
        loss = self._loss(logits, batch.targets, **config.loss_kwargs)
        loss = objective = loss * (size / batch.global_size)
        if config.regularizer == "features":
            objective = loss + feature_penalty(
                features,
                head.weight,
                head.bias,
                lambda_w=self._lambdas["lambda_w"] / world_size,
                lambda_h=self._lambdas["lambda_h"],  # a sum over the samples of all ranks
                lambda_b=self._lambdas["lambda_b"] / world_size,
            )
        self.scaler.scale(objective * world_size).backward()
        return torch.stack([loss.detach(), objective.detach()])

    @property
    def _whole_batch(self) -> int:
        """Samples of this rank in all batches but the last. Others are not worth compiling for."""
        share = self.ranks.share(self.config.batch_size)
        return share.stop - share.start

    def forward(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, logits and labels of a split in order, in evaluation mode and in float32.

        Also where training runs in 16 bits: there rounding alone would hide a deep collapse.
        """
        self.model.eval()
        for inputs, labels in eval_batches(split):
            yield *self._infer(inputs), labels

    @torch.inference_mode()
    def _infer(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.model(self.data.prepare(inputs))

    def evaluate(self, *, with_scores: bool = False) -> Metrics:
        """Every metric of both splits, each split in one pass; empty but on the main rank.

        `with_scores` fills `scores` in the pass over the training set, and `threshold_curve` after
        that over the test set.
        """
        self.ranks.copy_buffers(self.model)
        histogram = self.scores if with_scores else None
        train, accumulator = self._evaluate(self.data.train, self.class_means, histogram)
        if self.class_means is None and self.ranks.is_main and accumulator.is_constant:
            warnings.warn(
                f"model={self.config.model} gives the same features for every image of the "
                "training set: nothing can be learnt from them; stop the trial, and use larger "
                "images or another model",
                stacklevel=2,
            )
        means = self.ranks.from_main(accumulator.class_means)
        self.class_means = means.to(self.ranks.device)
        test: Metrics = {}
        if self.data.test is not None:
            test, accumulator = self._evaluate(self.data.test, self.class_means)
            if with_scores and self.ranks.is_main:
                self.threshold_curve = accumulator.threshold_curve()
        if not self.ranks.is_main:
            return {}
        row: Metrics = {f"{key}_train": value for key, value in train.items() if key != "loss"}
        for metric in BIAS_METRICS:
            row[metric.name] = row.pop(f"{metric.name}_train")
        row |= {f"{key}_test": v for key, v in test.items() if key not in _OF_CLASSIFIER}
        if self.config.regularizer == "features":
            row["alpha_bias"] = self._alpha_bias(row["bias_mean"])
        return row

    def _evaluate(
        self,
        split: Split,
        class_means: Tensor | None,
        histogram: ScoreHistogram | None = None,
    ) -> tuple[Metrics, Accumulator]:
        """Metrics of a split, and what they are made of: on the main rank of all ranks' samples."""
        head, device = self.model.head, self.ranks.device
        accumulator = Accumulator(
            head.weight.shape[0], self.num_features, class_means=class_means, device=device
        )
        loss = torch.zeros((), dtype=torch.float64, device=device)
        for features, logits, labels in self.forward(self._part(split)):
            accumulator.update(features, labels, head.weight, head.bias)
            loss += self._loss(logits, labels, **self.config.loss_kwargs).double() * len(labels)
            if histogram is not None:
                histogram.update(features.double() @ head.weight.double().T, labels)
        accumulator = self._merged(accumulator)
        loss = self.ranks.add_up(loss)
        metrics = accumulator.compute() if self.ranks.is_main else {}
        return metrics | {"loss": float(loss) / len(split)}, accumulator

    def _merged(self, mine: Any) -> Any:
        """All ranks' accumulators in one, on the main rank; on the others their own."""
        if self.ranks.world_size == 1:
            return mine
        first, *others = self.ranks.gather(mine.to("cpu"))
        for other in others:
            first.merge(other)
        return first

    def _part(self, split: Split) -> Split:
        """This rank's samples of a split: every sample is one rank's, none is repeated."""
        share = self.ranks.share(len(split))
        return Split(split.inputs[share], split.labels[share])

    def _alpha_bias(self, bias_mean: float) -> float:
        weight = self.model.head.weight.detach().double()
        num_classes = len(weight)
        return alpha_bias(
            bias_mean,
            float(weight.square().sum()),
            num_classes=num_classes,
            n=min(self.config.batch_size, len(self.data.train)) / num_classes,
            **self._lambdas,
        )

    def score_rows(self) -> list[ScoreRow]:
        """The distributions in `scores` of all ranks, and the K biases, for Fig. 3.

        With them the `threshold_curve`, a bin from each threshold to the next.
        """
        first, *others = self.ranks.gather(self.scores)
        for other in others:
            first.merge(other)
        step = 1 / STEPS_PER_UNIT
        biases = self.model.head.bias.detach().double().tolist()
        bins = [
            *(
                (row["kind"], row["bin_left"], row["bin_right"], row["count"])
                for row in first.rows()
            ),
            *(("bias", b, b, 1) for b in biases),
            *(("uniform", t, t + step, n) for t, n in self.threshold_curve),
        ]
        return [
            {"trial_id": self.config.trial_id, "kind": kind, "bin_left": left, "bin_right": right,
             "count": count}
            for kind, left, right, count in bins
        ]  # fmt: skip

    def feature_rows(self) -> list[FeatureRow]:
        """Features of at most MAX_FEATURES test samples, chosen by the seed, for Fig. 4."""
        test = self.data.test
        if test is None:
            return []
        generator = torch.Generator().manual_seed(self.config.seed)
        chosen = torch.randperm(len(test), generator=generator)[:MAX_FEATURES].sort().values
        part = Split(test.inputs[chosen], test.labels[chosen])
        features = torch.cat([f.float().cpu() for f, _, _ in self.forward(part)])
        triples = zip(chosen.tolist(), part.labels.tolist(), features.numpy(), strict=True)
        return [
            {"trial_id": self.config.trial_id, "sample_index": i, "label": y, "features": f}
            for i, y, f in triples
        ]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, by the names of `checkpoint.State`."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "class_means": self.class_means,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Become what `state()` was taken of."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.class_means = state["class_means"]
