"""Time left, against simulated sweeps whose end is known."""

import heapq
from collections.abc import Callable

import pytest

from orchestrator.eta import Meter
from orchestrator.ledger import Cost, kind_of
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]


def row(epoch: int, seconds: float, images: float = 100.0) -> dict:
    return {"epoch": epoch, "epoch_s": seconds, "train_s": seconds, "train_loss": 1.0,
            "samples_per_s": images / seconds}  # fmt: skip


def test_the_end_is_foreseen_once_each_kind_was_seen(tiny: Tiny) -> None:
    # Two kinds, an epoch of 1 s and of 10 s, on three slots.
    slow = [tiny(seed=s, batch_size=16, epochs=20) for s in range(9)]
    fast = [tiny(seed=s, batch_size=8, epochs=20) for s in range(30)]
    order = [slow[0], fast[0], *slow[1:], *fast[1:]]
    seconds = {c.trial_id: 10.0 if c.batch_size == 16 else 1.0 for c in order}
    trials = {c.trial_id: c for c in order}
    meter = Meter(trials, {}, now=0.0)
    waiting = iter(trials)
    events = [(seconds[i], i, 1) for i in (next(waiting), next(waiting), next(waiting))]
    heapq.heapify(events)
    foreseen, now = [], 0.0
    while events:
        now, trial_id, epoch = heapq.heappop(events)
        meter.rows(trial_id, [row(epoch, seconds[trial_id])], now=now)
        if len(meter.running) == 3:
            foreseen.append((now, meter.seconds_left()))
        if epoch < 20:
            heapq.heappush(events, (now + seconds[trial_id], trial_id, epoch + 1))
            continue
        meter.end(trial_id, "finished")
        if (following := next(waiting, None)) is not None:
            heapq.heappush(events, (now + seconds[following], following, 1))
    assert meter.done_epochs == meter.total_epochs == 39 * 20
    assert meter.running == {}
    middle = [(at, left) for at, left in foreseen if 10 < at < 0.8 * now]
    assert len(middle) > 100
    for at, left in middle:
        assert at + left == pytest.approx(now, rel=0.2)


def test_a_kind_of_earlier_sweeps_is_known_from_the_first_epoch(tiny: Tiny) -> None:
    known, new = tiny(batch_size=8, epochs=10), tiny(batch_size=16, epochs=10)
    costs = {kind_of(known.row()): Cost(6.0, None)}
    meter = Meter({c.trial_id: c for c in (known, new)}, costs, now=0.0)
    assert meter.seconds_left() is None  # nothing runs: nobody knows how many will at once
    meter.rows(new.trial_id, [row(1, 2.0)], now=2.0)
    assert meter.seconds_left() == 9 * 2.0 + 10 * 6.0


def test_a_resumed_trial_counts_its_epochs_once(tiny: Tiny) -> None:
    config = tiny(epochs=10)
    meter = Meter({config.trial_id: config}, {}, now=0.0)
    meter.rows(config.trial_id, [row(e, 1.0) for e in (1, 2, 3)], now=3.0)
    meter.rows(config.trial_id, [row(e, 1.0) for e in (1, 2, 3, 4)], now=5.0)  # as resumed
    assert meter.done_epochs == 4
    meter.end(config.trial_id, "failed")
    assert (meter.done_epochs, meter.failed) == (10, 1)
    meter.rows(config.trial_id, [row(1, 1.0)], now=6.0)  # tried again
    meter.end(config.trial_id, "finished")
    assert (meter.failed, meter.ended) == (0, {config.trial_id: "finished"})
    assert meter.done_epochs == 10


def test_speed_is_that_of_the_last_half_minute(tiny: Tiny) -> None:
    config = tiny(epochs=100)
    meter = Meter({config.trial_id: config}, {}, now=0.0)
    for epoch in range(1, 61):
        meter.rows(config.trial_id, [row(epoch, 1.0, 50.0 if epoch <= 30 else 90.0)], now=epoch)
    assert meter.images_per_s(60.0) == pytest.approx(90.0, rel=0.05)
    assert meter.images_per_s(200.0) == 0.0
