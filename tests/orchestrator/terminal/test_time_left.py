"""Time left, against sweeps whose end is known."""

import random
from collections.abc import Callable

import pytest

from orchestrator.plan.ledger import Cost
from orchestrator.terminal.time_left import EpochTimes, RecentPeak, Remaining, Speed, time_left
from tests.orchestrator.simulated import START_S, kind, simulate, tally_of
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]
A, B = ("a",), ("b",)


def two_kinds(tiny: Tiny, trials: int, epochs: int = 10) -> list[TrialConfig]:
    """As many trials of batch size 8 as of 16."""
    return [
        tiny(batch_size=batch, seed=seed, epochs=epochs)
        for batch in (8, 16)
        for seed in range(trials)
    ]


def ten_times(config: TrialConfig) -> float:
    return {8: 20.0, 16: 2.0}[config.batch_size]


@pytest.mark.parametrize("capacity", [1, 2, 8])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_once_each_kind_has_finished_one_the_end_is_known(
    tiny: Tiny, capacity: int, noise: float
) -> None:
    draw = random.Random(0)
    tally = tally_of(two_kinds(tiny, 40))
    left, seen = [], set()
    for now, ended in simulate(
        tally,
        lambda config: ten_times(config) * draw.uniform(1 - noise, 1 + noise),
        capacity=capacity,
        more_s=1.0,
    ):
        seen |= {tally.trials[ended].batch_size} if ended else set()
        if len(seen) == 2:
            left.append((now, tally.state(now).left))
    over = left[-1][0]
    assert left[0][0] - START_S < 0.25 * (over - START_S)  # so early
    for now, guess in left[:-1]:
        assert guess is not None
        assert guess.unmeasured == 0
        assert guess.seconds == pytest.approx(over - now, rel=0.2, abs=30.0)  # an epoch and a half


def test_trials_of_unlike_sizes_fill_the_machine(tiny: Tiny) -> None:
    # The slow ones take all four slots, the fast ones one each. Counted by trials instead of slots,
    # one slow trial at a time would make the fast ones look four times as long.
    def size(config: TrialConfig) -> float:
        return 4.0 if config.batch_size == 8 else 1.0

    tally = tally_of(two_kinds(tiny, 10), size=size)
    seen, checked = set(), 0
    moments = []
    for now, ended in simulate(tally, ten_times, capacity=4, size=size):
        seen |= {tally.trials[ended].batch_size} if ended else set()
        if len(seen) == 2:
            moments.append((now, tally.state(now).left))
    for now, guess in moments[:-1]:
        assert guess is not None
        assert guess.seconds == pytest.approx(moments[-1][0] - now, rel=0.2, abs=30.0)
        checked += 1
    assert checked > 50


def test_kinds_that_nobody_has_seen_cost_what_the_others_do() -> None:
    costs = EpochTimes({A: 3.0})
    left = time_left({A: 10.0, B: 10.0}, [], costs, 2.0)
    assert left == (30.0, 1)
    assert time_left({B: 10.0}, [], costs, 2.0) is None  # only kinds with work left count
    costs.epoch(B, 5.0)
    assert time_left({A: 10.0, B: 10.0}, [], costs, 2.0) == (40.0, 0)


def test_what_was_measured_last_and_longest_goes_before() -> None:
    costs = EpochTimes({A: 100.0})
    assert costs.known(A) == 100.0  # by the ledger
    costs.epoch(A, 1.0)
    costs.epoch(A, 3.0)
    assert costs.known(A) == 2.0  # on this machine
    costs.trial(A, 30.0, 10)
    assert costs.known(A) == 3.0  # with what a trial takes besides its epochs
    assert costs.known(B) is None


def test_nothing_is_said_before_anything_runs_or_is_measured() -> None:
    assert time_left({A: 10.0}, [], EpochTimes({}), 2.0) is None
    assert time_left({A: 10.0}, [], EpochTimes({A: 1.0}), 0.0) is None


def test_the_last_long_trial_is_not_shared_by_idle_slots() -> None:
    costs = EpochTimes({A: 10.0, B: 1.0})
    running = [Remaining(A, epochs=8, since_s=4.0, size=1.0)]
    left = time_left({A: 8.0, B: 4.0}, running, costs, at_once=4.0)
    assert left == (8 * 10.0 - 4.0, 0)


def test_an_epoch_under_way_counts_down_but_never_beyond_its_end() -> None:
    costs = EpochTimes({A: 10.0})

    def seconds(since_s: float) -> float:
        left = time_left({A: 5.0}, [Remaining(A, 5, since_s, 1.0)], costs, 1.0)
        assert left is not None
        return left.seconds

    assert [seconds(s) for s in (0.0, 4.0, 10.0, 1000.0)] == [50.0, 46.0, 40.0, 40.0]


def test_a_ledger_tells_the_end_at_once(tiny: Tiny) -> None:
    configs = two_kinds(tiny, 10)
    before = {kind(c): Cost(ten_times(c), None) for c in configs}
    tally = tally_of(configs, before=before)
    for config in (configs[0], configs[10]):
        tally.started(config.trial_id, 0.0)
    left = tally.state(0.0).left
    assert left is not None
    assert left.seconds == pytest.approx(10 * 10 * 22.0 / 2)


def test_a_slot_between_two_trials_is_still_a_slot_for_a_minute() -> None:
    lately = RecentPeak()
    for size in (0.3333, 0.3333, 0.3333):
        lately.add(size, 0.0)
    lately.add(-0.3333, 10.0)
    assert lately.most(69.0) == pytest.approx(0.9999)
    assert lately.most(71.0) == pytest.approx(0.6666)
    lately.add(-0.3333, 71.0)
    lately.add(-0.3333, 71.0)
    assert lately.most(200.0) == 0.0
    assert lately.largest == pytest.approx(0.9999)


def test_speed_is_of_the_last_half_minute() -> None:
    speed = Speed()
    speed.start(0.0)
    for second in range(1, 101):
        speed.add(50.0 if second <= 60 else 100.0, float(second))
    assert speed.per_second(1.0, 100.0) == pytest.approx(100.0, rel=0.05)
    assert speed.per_second(1.0, 200.0) == 0.0


def test_speed_of_long_epochs_is_that_of_two() -> None:
    speed = Speed()
    speed.start(0.0)
    for end in range(600, 6001, 600):  # 10 minutes an epoch
        speed.add(6000.0, float(end))
    assert speed.per_second(600.0, 6300.0) == pytest.approx(10.0)
    assert speed.per_second(600.0, 6599.0) == pytest.approx(10.0)


def test_speed_counts_from_the_first_trial() -> None:
    speed = Speed()
    speed.start(100.0)
    speed.start(105.0)
    speed.add(1000.0, 110.0)
    assert speed.per_second(10.0, 110.0) == pytest.approx(100.0)
