"""How far a sweep is and when it will end, from what it reports. Arithmetic alone; no drawing."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from orchestrator.ledger import Cost, Kind, kind_of
from trainers.config import TrialConfig

SPEED_WINDOW_S: Final = 30.0


class Meter:
    """Counts of a sweep. What a report costs doesn't grow with the number of trials."""

    def __init__(
        self, trials: Mapping[str, TrialConfig], costs: Mapping[Kind, Cost], *, now: float
    ) -> None:
        """`costs`: seconds an epoch of kinds that are known from before; `now` in seconds."""
        self._kinds = {i: kind_of(config.row()) for i, config in trials.items()}
        self._epochs = {i: config.epochs for i, config in trials.items()}
        self._left = Counter[Kind]()  # epochs
        for i, kind in self._kinds.items():
            self._left[kind] += self._epochs[i]
        self._before = costs
        self._measured: dict[Kind, tuple[float, int]] = {}  # seconds and epochs of this sweep
        self._images: deque[tuple[float, float]] = deque()  # when, how many
        self._started = now
        self.total_epochs = sum(self._epochs.values())
        self.running: dict[str, Mapping[str, Any]] = {}  # the newest row of each
        self.ended: dict[str, str] = {}  # status
        self.failed = 0  # or diverged

    def rows(self, trial_id: str, rows: Iterable[Mapping[str, Any]], *, now: float) -> None:
        """New epochs of a trial, or such as it had before and reports again."""
        kind = self._kinds[trial_id]
        reached = self.running.get(trial_id, {}).get("epoch", 0)
        for row in rows:
            self.running[trial_id] = row
            if row["epoch"] <= reached:
                continue
            if trial_id not in self.ended:
                self._left[kind] -= row["epoch"] - reached
            reached = row["epoch"]
            seconds, epochs = self._measured.get(kind, (0.0, 0))
            self._measured[kind] = seconds + row["epoch_s"], epochs + 1
            self._images.append((now, row["samples_per_s"] * row["train_s"]))

    def end(self, trial_id: str, status: str) -> None:
        """A trial has ended, also one that ended before and was tried again."""
        reached = self.running.pop(trial_id, {}).get("epoch", 0)
        if trial_id in self.ended:
            self.failed -= self.ended[trial_id] != "finished"
        else:
            self._left[self._kinds[trial_id]] -= self._epochs[trial_id] - reached
        self.ended[trial_id] = status
        self.failed += status != "finished"

    @property
    def done_epochs(self) -> int:
        """Epochs that need not run any more."""
        return self.total_epochs - self._left.total()

    def images_per_s(self, now: float) -> float:
        """Of all trials together, over the last SPEED_WINDOW_S seconds; 0 in the first one."""
        while self._images and now - self._images[0][0] > SPEED_WINDOW_S:
            self._images.popleft()
        span = min(SPEED_WINDOW_S, now - self._started)
        return sum(n for _, n in self._images) / span if span > 1 else 0.0

    def seconds_left(self) -> float | None:
        """The epochs left of each kind by the seconds one took, over the trials that run at once.

        A kind that was never seen counts as the mean of those that were. None before any was.
        """
        each = {kind: seconds / epochs for kind, (seconds, epochs) in self._measured.items()}
        each = {kind: cost.seconds_per_epoch for kind, cost in self._before.items()} | each
        known = [each[kind] for kind in self._left if kind in each]
        if not known or not self.running:
            return None
        unknown = sum(known) / len(known)
        seconds = sum(left * each.get(kind, unknown) for kind, left in self._left.items())
        return seconds / len(self.running)
