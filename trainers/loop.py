"""The epoch loop: train, evaluate, report, and one trial from start to its last row.

How batches are made is in `data.py`, what is measured in `metrics/`, where it goes in `results.py`.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers import checkpoint, provenance
from trainers.batches import TrainBatches
from trainers.config import LAMBDAS, TrialConfig
from trainers.data import Data, Split, eval_batches, load_data
from trainers.losses import feature_penalty
from trainers.metrics import Accumulator, ScoreHistogram
from trainers.metrics.bias import alpha_bias
from trainers.models import build_model
from trainers.optim import build_optimizer, learning_rate
from trainers.registry import LOSSES
from trainers.results import CHECKPOINTS, ResultStore

Row = dict[str, Any]
MAX_FEATURES = 2000  # test samples whose features are kept for pictures


class Diverged(Exception):  # noqa: N818  (a way for a trial to end, not an error of the program)
    """The loss is no longer a finite number."""


class Trainer:
    """Model, optimizer and data of one trial; knows nothing of files."""

    def __init__(self, config: TrialConfig, data: Data, device: torch.device) -> None:
        self.config = config
        self.data = data
        self.device = device
        self.model = build_model(config, len(data.train)).to(device)
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(config, list(self.model.parameters()))
        self.batches = TrainBatches(data, config)
        self.class_means: Tensor | None = None
        self._loss = LOSSES[config.loss]
        self._lambdas = {name: getattr(config, name) for name in LAMBDAS}

    @property
    def num_features(self) -> int:
        """d, the length of a feature vector."""
        return self.model.head.weight.shape[1]

    def train_epoch(self, epoch: int) -> Row:
        """Train one epoch (1-based). Raises Diverged, naming epoch, step and learning rate."""
        lr = learning_rate(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        sizes: list[int] = []
        losses: list[Tensor] = []  # stay on the device: reading one would wait for its step
        for inputs, targets in self.batches.epoch(epoch):
            sizes.append(len(inputs))
            losses.append(self._step(inputs, targets))
        losses_S2 = torch.stack(losses).double().cpu()
        bad = (~losses_S2.isfinite().all(1)).nonzero()
        if len(bad):
            raise Diverged(
                f"the loss is not finite at epoch {epoch}, step {int(bad[0]) + 1}, lr {lr:g}"
            )
        loss, objective = torch.tensor(sizes, dtype=torch.float64) @ losses_S2 / sum(sizes)
        return {
            "epoch": epoch,
            "lr": lr,
            "train_loss": float(loss),
            "train_objective": float(objective),
            "samples": sum(sizes),
        }

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step of the optimizer; the loss and the objective before it, (2,)."""
        seen: list[Tensor] = []

        def closure() -> Tensor:  # L-BFGS calls it several times, the others once
            self.optimizer.zero_grad()
            features, logits = self.model(inputs)
            loss = objective = self._loss(logits, targets, **self.config.loss_kwargs)
            if self.config.regularizer == "features":
                head = self.model.head
                objective = loss + feature_penalty(
                    features, head.weight, head.bias, **self._lambdas
                )
            objective.backward()
            seen.append(torch.stack([loss.detach(), objective.detach()]))
            return objective

        self.optimizer.step(closure)  # pyright: ignore[reportCallIssue, reportArgumentType]
        return seen[0]

    def forward(self, split: Split) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features, logits and labels of a split in order, in evaluation mode."""
        self.model.eval()
        with torch.inference_mode():
            for inputs, labels in eval_batches(split):
                yield *self.model(self.data.prepare(inputs)), labels

    def evaluate(self) -> Row:
        """Every metric of both splits, each split in one pass, and those of the classifier."""
        train, self.class_means = self._evaluate(self.data.train, self.class_means)
        row: Row = {f"{key}_train": value for key, value in train.items() if key != "loss"}
        for name in ("bias_mean", "bias_std"):
            row[name] = row.pop(f"{name}_train")
        if self.data.test is not None:
            test, _ = self._evaluate(self.data.test, self.class_means)
            of_classifier = ("bias_mean", "bias_std", "nc2", "nc2_centered")
            row |= {f"{key}_test": v for key, v in test.items() if key not in of_classifier}
        if self.config.regularizer == "features":
            row["alpha_bias"] = self._alpha_bias(row["bias_mean"])
        return row

    def _evaluate(self, split: Split, class_means: Tensor | None) -> tuple[Row, Tensor]:
        head = self.model.head
        accumulator = Accumulator(
            head.weight.shape[0], self.num_features, class_means=class_means, device=self.device
        )
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for features, logits, labels in self.forward(split):
            accumulator.update(features, labels, head.weight, head.bias)
            total += self._loss(logits, labels, **self.config.loss_kwargs).double() * len(labels)
        return accumulator.compute() | {"loss": float(total) / len(split)}, accumulator.class_means

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

    def score_rows(self) -> list[Row]:
        """The distributions of the training set's scores, and the K biases, for Fig. 3."""
        histogram = ScoreHistogram(self.device)
        weight = self.model.head.weight.detach().double()
        for features, _, labels in self.forward(self.data.train):
            histogram.update(features.double() @ weight.T, labels)
        biases = self.model.head.bias.detach().double().tolist()
        return [
            *map(dict, histogram.rows()),
            *({"kind": "bias", "bin_left": b, "bin_right": b, "count": 1} for b in biases),
        ]

    def feature_rows(self) -> list[Row]:
        """Features of at most MAX_FEATURES test samples, chosen by the seed, for Fig. 4."""
        test = self.data.test
        if test is None:
            return []
        generator = torch.Generator().manual_seed(self.config.seed)
        chosen = torch.randperm(len(test), generator=generator)[:MAX_FEATURES].sort().values
        part = Split(test.inputs[chosen], test.labels[chosen])
        features = torch.cat([f.float().cpu() for f, _, _ in self.forward(part)])
        triples = zip(chosen.tolist(), part.labels.tolist(), features.numpy(), strict=True)
        return [{"sample_index": i, "label": y, "features": f} for i, y, f in triples]


def run_trial(
    config: TrialConfig,
    report: Callable[[Row], None],
    *,
    store: ResultStore,
    data_dir: Path = Path("data"),
    download: bool = True,
    keep_checkpoints: bool = False,
) -> Row:
    """Train one trial to its end, from its newest checkpoint if it has one.

    `report` gets every epoch's row, those restored from the checkpoint first. Returns the trial's
    row, which is in the store by then, as are its epochs and scores. A trial that fails by itself
    ends as `failed` or `diverged` with its reason; only what is wrong with the machine (OSError)
    is raised.
    """
    with store.lock(CHECKPOINTS, f".{config.trial_id}.lock", wait=True):
        before = store.read_rows("trials", config.trial_id)
        if before and before[0]["status"] == "finished":  # by whom this one waited for
            for row in store.read_rows("epochs", config.trial_id):
                report(row)
            return before[0]
        attempt = _Attempt(config, store, before[0] if before else {})
        attempt.write("running")
        try:
            attempt.restore()
            trainer = attempt.start(data_dir=data_dir, download=download, report=report)
            attempt.run(trainer, report)
            attempt.finish(trainer)
        except OSError:
            raise
        except Diverged as end:
            return attempt.give_up("diverged", str(end))
        except Exception as error:
            traceback.print_exc()  # for the worker's log; the row holds the sentence
            return attempt.give_up("failed", f"{type(error).__name__}: {error}")
        if not keep_checkpoints:
            store.remove_folder(CHECKPOINTS, config.trial_id)
        return attempt.row


class _Attempt:
    """One try at a trial: its state between epochs and its row."""

    def __init__(self, config: TrialConfig, store: ResultStore, before: Row) -> None:
        self.config = config
        self.store = store
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.state = checkpoint.State(config.trial_id)
        self.started = time.perf_counter()
        self.row: Row = {
            "trial_id": config.trial_id,
            **config.row(),
            "world_size": 1,
            "device": provenance.device_name(self.device),
            **provenance.versions(),
            "started_at": before.get("started_at") or datetime.now(UTC),
            "attempts": (before.get("attempts") or 0) + 1,
        }

    def restore(self) -> None:
        """Take up the newest checkpoint. Raises ValueError if it is not this trial's."""
        self.state = checkpoint.load(self.store, self.config.trial_id)
        self.started -= self.state.wall_s

    def start(self, *, data_dir: Path, download: bool, report: Callable[[Row], None]) -> Trainer:
        """Build what is trained, as it was after the last epoch in the checkpoint."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        data = load_data(self.config, data_dir=data_dir, download=download, device=self.device)
        trainer = Trainer(self.config, data, self.device)
        if self.state.epoch:
            trainer.model.load_state_dict(self.state.model)
            trainer.optimizer.load_state_dict(self.state.optimizer)
            trainer.class_means = self.state.class_means
        for row in self.state.rows:
            report(row)
        self.row |= {
            "num_features": trainer.num_features,
            "num_train": len(data.train),
            "num_test": len(data.test) if data.test is not None else 0,
        }
        return trainer

    def run(self, trainer: Trainer, report: Callable[[Row], None]) -> None:
        """The epochs that are left. No checkpoint after the last: the results follow at once."""
        config = self.config
        for epoch in range(self.state.epoch + 1, config.epochs + 1):
            row = self._epoch(trainer, epoch)
            self.state.rows.append(row)
            self.state.epoch = epoch
            if epoch < config.epochs:
                self._save(trainer)
            report(row)

    def _epoch(self, trainer: Trainer, epoch: int) -> Row:
        begin = time.perf_counter()
        row = trainer.train_epoch(epoch)
        trained = time.perf_counter()
        samples = row.pop("samples")
        if epoch % self.config.eval_every == 0 or epoch == self.config.epochs:
            row |= trainer.evaluate()
        end = time.perf_counter()
        return {
            "trial_id": self.config.trial_id,
            **row,
            "samples_per_s": samples / (trained - begin),
            "train_s": trained - begin,
            "eval_s": end - trained,
            "epoch_s": end - begin,
        }

    def _save(self, trainer: Trainer) -> None:
        self.state.model = trainer.model.state_dict()
        self.state.optimizer = trainer.optimizer.state_dict()
        self.state.class_means = trainer.class_means
        self.state.wall_s = time.perf_counter() - self.started
        checkpoint.save(self.store, self.state)

    def finish(self, trainer: Trainer) -> None:
        """Write everything; the trial's row last, since it says that the rest is there."""
        for table, rows in (
            ("scores", trainer.score_rows()),
            ("features", trainer.feature_rows() if self.config.regularizer == "global" else []),
        ):
            if rows:
                trial_id = self.config.trial_id
                self.store.write_rows(
                    table, trial_id, [{"trial_id": trial_id, **row} for row in rows]
                )
        self._close("finished", None)

    def give_up(self, status: str, reason: str) -> Row:
        """Write the epochs so far and why there are no more."""
        self._close(status, " ".join(reason.split()))
        return self.row

    def _close(self, status: str, reason: str | None) -> None:
        self.store.write_rows("epochs", self.config.trial_id, self.state.rows)
        self.write(status, reason)

    def write(self, status: str, reason: str | None = None) -> None:
        """Write the trial's row as of now."""
        rows = self.state.rows
        train_s = sum(row["train_s"] for row in rows)
        trained = sum(row["samples_per_s"] * row["train_s"] for row in rows)
        self.row |= {
            "status": status,
            "reason": reason,
            "epochs_done": self.state.epoch,
            "wall_s": time.perf_counter() - self.started,
            "train_s": train_s,
            "eval_s": sum(row["eval_s"] for row in rows),
            "samples_per_s": trained / train_s if train_s else None,
            "peak_memory_bytes": provenance.peak_memory_bytes(self.device),
        }
        self.store.write_rows("trials", self.config.trial_id, [self.row])
