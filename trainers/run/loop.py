"""One trial from its start, or its newest checkpoint, to its last row in the store.

What an epoch does is in `trainer.py`; how several processes share a trial in `ranks.py`.
"""

import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

from analysis.store.errors import InputError, one_line
from analysis.store.results import CHECKPOINTS, ResultStore
from analysis.store.rows import EpochRow, TrialRow, begun
from analysis.store.schema import Status
from trainers.config import TrialConfig
from trainers.data.splits import Data, load_data
from trainers.run import checkpoint, provenance
from trainers.run.compiling import again_if_cache_is_damaged
from trainers.run.device import device_name, peak_memory_bytes, take_share
from trainers.run.failures import (
    DeviceLostError,
    Diverged,
    Ending,
    ending_of,
    is_device_fault,
    own_code,
)
from trainers.run.memory import keep_freed_memory
from trainers.run.ranks import RankLostError, Ranks, alone, lost_rank
from trainers.run.trainer import Trainer

Report = Callable[[EpochRow], None]


def run_trial(
    config: TrialConfig,
    report: Report,
    *,
    store: ResultStore,
    data_dir: Path = Path("data"),
    download: bool = True,
    data_stamp: str = "",
    keep_checkpoints: bool = False,
    ranks: Ranks | None = None,
    gpu_share: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrialRow:
    """Train one trial to its end, from its newest checkpoint if it has one.

    `report` gets every epoch's row, those restored from the checkpoint first. Returns the trial's
    row, which is in the store by then, as are its epochs and scores. A trial that fails by itself
    ends as `failed` or `diverged` with its reason; only what is wrong with the machine (OSError)
    is raised. Asked before each epoch, `should_stop` ends the call where a later one goes on; the
    row's status is `running` then. `data_stamp` is `stamp_of` the data, if it is known.

    With several `ranks` each of them calls this; the main one alone reports and writes, except that
    a rank which fails by itself writes why, since the main one only sees that it is gone.
    """
    ranks = ranks or alone()
    if ranks.device.type == "cpu":
        keep_freed_memory()
    lock = store.lock(CHECKPOINTS, f".{config.trial_id}.lock", wait=True)
    with lock if ranks.is_main else nullcontext(lambda: None) as check_lock:
        before = ranks.from_main(store.trial(config.trial_id))
        if before and before["status"] == "finished":  # by whom this one waited for
            for row in store.epochs(config.trial_id) if ranks.is_main else []:
                report(row)
            return before
        attempt = _Attempt(config, store, ranks, before, check_lock, gpu_share, keep_checkpoints)
        try:
            load = partial(load_data, config, data_dir=data_dir, download=download)
            load = partial(load, device=ranks.device, stamp=data_stamp)
            train = partial(attempt.train, report, should_stop, load)
            trainer = again_if_cache_is_damaged(train, ranks) if config.compile else train()
            if attempt.state.epoch < config.epochs:
                attempt.write("running")
                return ranks.from_main(attempt.row)
            attempt.finish(trainer)
        except OSError:  # the machine's
            raise
        except Diverged as end:
            ending = Ending("diverged", str(end))
            return ranks.from_main(attempt.give_up("diverged", ending))
        except Exception as error:
            if ranks.world_size > 1 and lost_rank(error):
                raise RankLostError(f"a rank of {config.trial_id} is gone: {error}") from error
            if is_device_fault(error) and not attempt.lost_its_device:
                raise attempt.lose_device(error) from error
            if not isinstance(error, InputError):
                attempt.row["traceback"] = traceback.format_exc()
            ending = ending_of(error, config, gpu_share=gpu_share)
            return attempt.give_up("failed", ending)
        return ranks.from_main(attempt.row)


class _Attempt:
    """One try at a trial: its state between epochs and its row."""

    def __init__(
        self,
        config: TrialConfig,
        store: ResultStore,
        ranks: Ranks,
        before: TrialRow | None,
        check_lock: Callable[[], None],
        gpu_share: float | None,
        keep_checkpoints: bool,
    ) -> None:
        self.keep_checkpoints = keep_checkpoints
        self.config = config
        self.store = store
        self.ranks = ranks
        self.check_lock = check_lock
        self.device = ranks.device
        self.state = checkpoint.State(config.trial_id)
        self.begun = self.started = time.perf_counter()
        self.lost_its_device = bool(before and before.get("failure") == "device")  # an attempt ago
        started_at = before.get("started_at") if before else None
        attempts = before.get("attempts") if before else None
        self.row: TrialRow = {
            **begun(config.trial_id, config.row()),
            "world_size": ranks.world_size,
            "device": device_name(self.device),
            "gpu_share": gpu_share,
            **provenance.versions(),
            "started_at": started_at or datetime.now(UTC),
            "attempts": (attempts or 0) + 1,
        }

    def restore(self) -> None:
        """Take up the newest checkpoint that is whole."""
        self.state = checkpoint.load(self.store, self.config.trial_id)
        self.started = self.begun - self.state.wall_s

    def train(
        self, report: Report, should_stop: Callable[[], bool], load: Callable[[], Data]
    ) -> Trainer:
        """From the newest checkpoint to the last epoch, or until it is asked to stop."""
        self.restore()
        self.write("running")
        trainer = self.start(load, report)
        self.run(trainer, report, should_stop)
        return trainer

    def start(self, load: Callable[[], Data], report: Report) -> Trainer:
        """Build what is trained, as it was after the last epoch in the checkpoint."""
        take_share(self.device, self.row.get("gpu_share"))
        data = load()
        self._check_same(data.fingerprint)
        with own_code():
            trainer = Trainer(self.config, data, self.ranks)
        if self.state.epoch:
            trainer.load_state(vars(self.state))
        for row in self.state.rows if self.ranks.is_main else []:
            report(row)
        self.row.update(
            {
                "batch_norm": trainer.batch_norm,
                "small_stem": trainer.small_stem,
                "num_features": trainer.num_features,
                "num_train": len(data.train),
                "num_test": len(data.test) if data.test is not None else 0,
                "data_fingerprint": data.fingerprint,
            }
        )
        return trainer

    def _check_same(self, fingerprint: str | None) -> None:
        """Start anew if the data are others than the checkpoint's.

        Raises InputError if ranks have different data.
        """
        if (of_main := self.ranks.from_main(fingerprint)) != fingerprint:
            raise InputError(
                f"the data of {self.config.dataset} differ between the machines of a trial "
                f"({of_main} and {fingerprint}); give all of them the same --data-dir"
            )
        if self.state.data_fingerprint not in (None, fingerprint):
            if self.ranks.is_main:
                print(
                    f"{self.config.trial_id}: the data of {self.config.dataset} have changed since "
                    f"epoch {self.state.epoch}; starting anew",
                    file=sys.stderr,
                )
            self.state = checkpoint.State(self.config.trial_id)
            self.started = self.begun
        self.state.data_fingerprint = fingerprint

    def run(self, trainer: Trainer, report: Report, should_stop: Callable[[], bool]) -> None:
        """The epochs that are left. No checkpoint after the last: the results follow at once."""
        config = self.config
        for epoch in range(self.state.epoch + 1, config.epochs + 1):
            if self.ranks.from_main(self.ranks.is_main and should_stop()):
                return
            with own_code():
                row = self._epoch(trainer, epoch)
            self.state.rows.append(row)
            self.state.epoch = epoch
            if self.ranks.is_main:
                if epoch < config.epochs:
                    self._save(trainer)
                report(row)

    def _epoch(self, trainer: Trainer, epoch: int) -> EpochRow:
        begin = time.perf_counter()
        done = trainer.train_epoch(epoch)
        trained = time.perf_counter()
        last = epoch == self.config.epochs
        is_due = last or epoch <= self.config.eval_dense or epoch % self.config.eval_every == 0
        metrics = trainer.evaluate(with_scores=last) if is_due else {}
        end = time.perf_counter()
        row: EpochRow = {
            "trial_id": self.config.trial_id,
            "epoch": epoch,
            "lr": done["lr"],
            "train_loss": done["train_loss"],
            "train_objective": done["train_objective"],
            "samples_per_s": done["samples"] / (trained - begin),
            "train_s": trained - begin,
            "eval_s": end - trained,
            "epoch_s": end - begin,
        }
        return cast(EpochRow, {**row, **metrics})

    def _save(self, trainer: Trainer) -> None:
        self.check_lock()
        vars(self.state).update(trainer.state())
        self.state.wall_s = time.perf_counter() - self.started
        checkpoint.save(self.store, self.state)

    def finish(self, trainer: Trainer) -> None:
        """Write everything; the trial's row last, since it says that the rest is there."""
        scores = trainer.score_rows()
        if not self.ranks.is_main:
            return
        self.check_lock()
        with_features = self.config.regularizer == "global"
        features = trainer.feature_rows() if with_features else []
        for table, rows in (("scores", scores), ("features", features)):
            if rows:
                self.store.write_rows(table, self.config.trial_id, rows)
        self._close("finished", None)
        self._drop_checkpoints()

    def give_up(self, status: Status, ending: Ending) -> TrialRow:
        """Write the epochs so far and why there are no more.

        Ranks diverge together, and leave that to the main one. One that failed writes for it.
        """
        ending = ending._replace(reason=" ".join(ending.reason.split()))
        if self.ranks.is_main:
            self._close(status, ending)
            self._drop_checkpoints(ending)
        elif status == "failed":
            self.state = checkpoint.load(self.store, self.config.trial_id)  # the main rank's rows
            self._close(status, ending)
            self._drop_checkpoints(ending)
            raise RankLostError(f"rank {self.ranks.rank} failed: {ending.reason}")
        return self.row

    def lose_device(self, error: Exception) -> DeviceLostError:
        """Leave the trial to another process, and perhaps another GPU; what to raise."""
        reason = f"{one_line(error)} (on {socket.gethostname()})"
        self.write("running", Ending("device", reason))
        return DeviceLostError(reason)

    def _close(self, status: Status, ending: Ending | None) -> None:
        self.check_lock()
        self.store.write_rows("epochs", self.config.trial_id, self.state.rows)
        self.write(status, ending)

    def _drop_checkpoints(self, ending: Ending | None = None) -> None:
        """Remove what no later attempt takes up: one with more of a GPU goes on from there."""
        owed = ending and ending.failure == "out_of_memory" and (self.row.get("gpu_share") or 1) < 1
        if not (owed or self.keep_checkpoints):
            self.store.remove_folder(CHECKPOINTS, self.config.trial_id)

    def write(self, status: Status, ending: Ending | None = None) -> None:
        """Write the trial's row as of now."""
        if status == "running" and not self.ranks.is_main:
            return
        rows = self.state.rows
        train_s = sum(row["train_s"] for row in rows)
        trained = sum(row["samples_per_s"] * row["train_s"] for row in rows)
        self.row.update(
            {
                "status": status,
                "reason": ending and ending.reason,
                "failure": ending and ending.failure,
                "epochs_done": self.state.epoch,
                "wall_s": time.perf_counter() - self.started,
                "train_s": train_s,
                "eval_s": sum(row["eval_s"] for row in rows),
                "samples_per_s": trained / train_s if train_s else None,
                "peak_memory_bytes": peak_memory_bytes(self.device),
            }
        )
        self.store.write_rows("trials", self.config.trial_id, [self.row])
