"""How far a sweep is: what runs, what has ended, how fast. No clock, no terminal.

An event costs the same whatever the number of trials; a look at all costs as much as what runs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from analysis.store.rows import EpochRow, TrialRow
from orchestrator.plan.ledger import Cost, Kind
from orchestrator.terminal.time_left import (
    EpochTimes,
    RecentPeak,
    Remaining,
    Speed,
    TimeLeft,
    time_left,
)
from trainers.config import TrialConfig

Newest = Mapping[str, Any]  # of each column the newest value: not every epoch is evaluated
MOST_LISTED: Final = 8  # of the trials that run
DELAY_S: Final = 1.0  # with which the driver may hear of things


@dataclass(frozen=True)
class Running:
    """A trial that runs, and its newest values."""

    started: float
    heard: float
    trained_s: float = 0.0  # of epochs since it started
    row: Newest = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """A sweep at one moment."""

    trials: int
    ended: int
    failed: int
    diverged: int
    running: int
    epochs: int
    epochs_done: int
    images_per_s: float
    left: TimeLeft | None
    listed: Sequence[tuple[str, Running]]  # the first of those that run


class Tally:
    """Counts what the workers report. `now` is a clock's seconds, from whatever start."""

    def __init__(
        self,
        trials: Mapping[str, TrialConfig],
        kinds: Mapping[Kind, Sequence[str]],
        *,
        sizes: Mapping[str, float],
        before: Mapping[Kind, Cost],
    ) -> None:
        """`sizes`: how much of the machine a trial takes, in any unit; `before`: known costs."""
        self.trials = trials
        self._sizes = sizes
        self._kinds = {i: kind for kind, ids in kinds.items() for i in ids}
        self._costs = EpochTimes({kind: cost.seconds_per_epoch for kind, cost in before.items()})
        self._epochs = dict.fromkeys(trials, 0)
        self._left = {
            kind: sum(trials[i].epochs * sizes[i] for i in ids) for kind, ids in kinds.items()
        }
        self._all_epochs = sum(config.epochs for config in trials.values())
        self._epochs_done = 0
        self._running: dict[str, Running] = {}
        self._ended: dict[str, str] = {}
        self._statuses: Counter[str] = Counter()
        self._at_once = RecentPeak()
        self._speed = Speed()
        self._trained_s = 0.0  # times size
        self._most_running = 0

    def started(self, trial_id: str, now: float) -> None:
        """A trial begins, or begins again."""
        if self._take_back(trial_id):
            self._advance(trial_id, 0)
        self._running[trial_id] = Running(now, now)
        self._most_running = max(self._most_running, len(self._running))
        self._at_once.add(self._sizes[trial_id], now)
        self._speed.start(now)

    def stopped(self, trial_id: str, now: float) -> None:
        """A trial runs no more; whether it will again is another matter."""
        if self._running.pop(trial_id, None):
            self._at_once.add(-self._sizes[trial_id], now)

    def rows(self, trial_id: str, rows: Iterable[EpochRow], now: float) -> None:
        """New epochs of a trial, and those from before its start, which come first."""
        if trial_id not in self._running:
            self.started(trial_id, now)
        run = self._running[trial_id]
        new = [row for row in rows if row["epoch"] > self._epochs[trial_id]]
        if not new:
            return
        trained_s = run.trained_s
        for row in reversed(new):
            if trained_s + row["epoch_s"] > now - run.started + DELAY_S:
                break  # from a checkpoint: there was no time for it since the start
            trained_s += row["epoch_s"]
            self._costs.epoch(self._kinds[trial_id], row["epoch_s"])
            self._speed.add(row["samples_per_s"] * row["train_s"], now)
        self._trained_s += (trained_s - run.trained_s) * self._sizes[trial_id]
        self._advance(trial_id, new[-1]["epoch"])
        newest = {**run.row, **new[-1]}  # not every epoch is evaluated
        self._running[trial_id] = replace(run, heard=now, trained_s=trained_s, row=newest)

    def ended(self, trial: TrialRow, now: float) -> Newest:
        """A trial's last row. Returns its newest values; none if it never had any."""
        trial_id = trial["trial_id"]
        run = self._running.get(trial_id)
        self.stopped(trial_id, now)
        wall_s = trial.get("wall_s")
        if trial["status"] == "finished" and wall_s is not None:
            epochs = self.trials[trial_id].epochs
            self._costs.trial(self._kinds[trial_id], wall_s, epochs)
        self._advance(trial_id, self.trials[trial_id].epochs)
        self._take_back(trial_id)
        self._ended[trial_id] = trial["status"]
        self._statuses[trial["status"]] += 1
        return run.row if run else {}

    def _take_back(self, trial_id: str) -> bool:
        """Forget that a trial has ended, if it had."""
        status = self._ended.pop(trial_id, None)
        if status:
            self._statuses[status] -= 1
        return status is not None

    def _advance(self, trial_id: str, epoch: int) -> None:
        more = epoch - self._epochs[trial_id]
        self._epochs[trial_id] = epoch
        self._epochs_done += more
        kind = self._kinds[trial_id]
        left = self._left[kind] - more * self._sizes[trial_id]
        self._left[kind] = round(left, 6)  # 0 at the end, after thirds of a GPU

    @property
    def number_ended(self) -> int:
        """How many trials have ended."""
        return len(self._ended)

    def state(self, now: float) -> State:
        """All that there is to show."""
        return State(
            trials=len(self.trials),
            ended=len(self._ended),
            failed=self._statuses["failed"],
            diverged=self._statuses["diverged"],
            running=len(self._running),
            epochs=self._all_epochs,
            epochs_done=self._epochs_done,
            images_per_s=self._images_per_s(now),
            left=self._time_left(now),
            listed=list(islice(self._running.items(), MOST_LISTED)),
        )

    def _images_per_s(self, now: float) -> float:
        longest_s = max(
            (run.row.get("epoch_s", 0.0) for run in self._running.values()), default=0.0
        )
        return self._speed.per_second(longest_s, now)

    def _time_left(self, now: float) -> TimeLeft | None:
        running = [
            Remaining(
                self._kinds[i],
                self.trials[i].epochs - self._epochs[i],
                now - run.heard,
                self._sizes[i],
            )
            for i, run in self._running.items()
        ]
        return time_left(self._left, running, self._costs, self._at_once.most(now))

    def busy_in_words(self, wall_s: float) -> str:
        """Which part of the time that the slots had they trained and evaluated."""
        share = self._trained_s / (self._at_once.largest * wall_s) if self._most_running else 0.0
        return f"{share:.0%} of the time, at most {self._most_running} at once"
