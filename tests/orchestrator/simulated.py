"""A sweep that takes no time: its trials report to a tally, by a clock that is only counted."""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from analysis.store.rows import EpochRow, TrialRow
from orchestrator.plan.ledger import Cost, Kind, Ledger, kind_of
from orchestrator.plan.order import by_kind, running_order
from orchestrator.terminal.tally import Tally
from trainers.config import TrialConfig

START_S = 1000.0  # a clock that counts from 0 could hide a mistake


def tally_of(
    configs: Sequence[TrialConfig],
    *,
    size: Callable[[TrialConfig], float] = lambda _: 1.0,
    before: Mapping[Kind, Cost] | None = None,
) -> Tally:
    trials = {config.trial_id: config for config in configs}
    sizes = {i: size(config) for i, config in trials.items()}
    return Tally(trials, by_kind(trials, trials), sizes=sizes, before=before or {})


def epoch(number: int, seconds: float, **more: Any) -> EpochRow:
    """An epoch's row of 100 images."""
    row = {"epoch": number, "samples_per_s": 100 / seconds, "train_s": seconds, "eval_s": 0.0}
    return cast(EpochRow, {**row, "epoch_s": seconds, "train_loss": 1.0, **more})


def end(tally: Tally, trial_id: str, status: str = "finished", **more: Any) -> TrialRow:
    """The row of a trial that has ended."""
    row = {"trial_id": trial_id, **tally.trials[trial_id].row(), "num_train": 60}
    return cast(TrialRow, {**row, "status": status, "reason": None, "wall_s": 1.0, **more})


def simulate(
    tally: Tally,
    seconds: Callable[[TrialConfig], float],
    *,
    capacity: float,
    size: Callable[[TrialConfig], float] = lambda _: 1.0,
    more_s: float = 0.0,
) -> Iterator[tuple[float, str | None]]:
    """Run every trial, in the order of a sweep, as many at once as fit; each epoch is reported.

    `seconds` is asked for each epoch; a trial takes `more_s` besides, at its end. Gives the time
    of each event, and the trial that has ended with it, if one has.
    """
    trials = tally.trials
    waiting = running_order(by_kind(trials, trials), trials, Ledger({}))
    tie, events, free, now = itertools.count(), [], capacity, START_S
    while waiting or events:
        for i in list(waiting):
            if size(trials[i]) <= free:
                waiting.remove(i)
                free -= size(trials[i])
                tally.started(i, now)
                first_s = seconds(trials[i])
                heapq.heappush(events, (now + first_s, next(tie), i, 1, first_s, now))
        now, _, i, number, took_s, began = heapq.heappop(events)
        if number > trials[i].epochs:
            tally.ended(end(tally, i, wall_s=now - began), now)
            free += size(trials[i])
            yield now, i
            continue
        tally.rows(i, [epoch(number, took_s)], now)
        next_s = more_s if number == trials[i].epochs else seconds(trials[i])
        heapq.heappush(events, (now + next_s, next(tie), i, number + 1, next_s, began))
        yield now, None


def kind(config: TrialConfig) -> Kind:
    return kind_of(config.row())
