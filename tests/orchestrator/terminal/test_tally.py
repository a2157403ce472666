"""Counting what workers report: starts, ends, trials that come back, and time well spent."""

from collections.abc import Callable

import pytest

from orchestrator.terminal.tally import MOST_LISTED, State
from tests.orchestrator.simulated import START_S, end, epoch, simulate, tally_of
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]


def counts(state: State) -> tuple[int, int, int, int, int]:
    return (state.ended, state.failed, state.diverged, state.running, state.epochs_done)


def test_a_sweep_is_counted_from_start_to_end(tiny: Tiny) -> None:
    tally = tally_of([tiny(seed=seed) for seed in range(3)])  # of 3 epochs
    a, b, c = tally.trials
    assert counts(tally.state(0.0)) == (0, 0, 0, 0, 0)
    tally.started(a, 0.0)
    tally.started(b, 0.0)
    assert counts(tally.state(0.0)) == (0, 0, 0, 2, 0)
    tally.rows(a, [epoch(1, 1.0), epoch(2, 1.0)], 2.0)
    tally.rows(b, [epoch(1, 2.0)], 2.0)
    assert counts(tally.state(2.0)) == (0, 0, 0, 2, 3)
    tally.ended(end(tally, a, "diverged"), 2.5)
    tally.started(c, 2.5)
    tally.ended(end(tally, c, "failed"), 3.0)
    tally.rows(b, [epoch(2, 2.0), epoch(3, 2.0)], 6.0)
    tally.ended(end(tally, b), 6.0)
    assert counts(tally.state(6.0)) == (3, 1, 1, 0, 9)
    assert tally.state(6.0).left == (0.0, 0)


def test_a_trial_whose_worker_died_runs_again_and_no_epoch_counts_twice(tiny: Tiny) -> None:
    tally = tally_of([tiny()])
    (a,) = tally.trials
    tally.started(a, 0.0)
    tally.rows(a, [epoch(1, 10.0)], 10.0)
    tally.stopped(a, 15.0)
    assert counts(tally.state(15.0)) == (0, 0, 0, 0, 1)
    tally.started(a, 20.0)
    tally.rows(a, [epoch(1, 10.0), epoch(2, 10.0)], 30.0)
    assert counts(tally.state(30.0)) == (0, 0, 0, 1, 2)
    assert tally.busy_in_words(30.0) == "67% of the time, at most 1 at once"


def test_a_trial_that_ended_and_begins_anew_counts_once(tiny: Tiny) -> None:
    # As one does that ran out of memory and gets a larger share.
    tally = tally_of([tiny()])
    (a,) = tally.trials
    tally.started(a, 0.0)
    tally.ended(end(tally, a, "failed"), 1.0)
    assert counts(tally.state(1.0)) == (1, 1, 0, 0, 3)
    tally.started(a, 2.0)
    assert counts(tally.state(2.0)) == (0, 0, 0, 1, 0)
    tally.rows(a, [epoch(n, 1.0) for n in (1, 2, 3)], 5.0)
    tally.ended(end(tally, a), 5.0)
    assert counts(tally.state(5.0)) == (1, 0, 0, 0, 3)


def test_epochs_of_a_checkpoint_count_as_done_but_not_as_speed(tiny: Tiny) -> None:
    tally = tally_of([tiny(epochs=100)])
    (a,) = tally.trials
    tally.started(a, 0.0)
    tally.rows(a, [epoch(n, 10.0) for n in range(1, 52)], 12.0)  # the last of them alone is new
    state = tally.state(12.0)
    assert state.epochs_done == 51
    assert state.images_per_s == pytest.approx(100 / 12)
    assert tally.busy_in_words(12.0).startswith("83% ")


def test_an_epoch_without_evaluation_keeps_the_values_of_the_last(tiny: Tiny) -> None:
    tally = tally_of([tiny()])
    (a,) = tally.trials
    tally.started(a, 0.0)
    tally.rows(a, [epoch(1, 1.0, accuracy_test=0.5)], 1.0)
    tally.rows(a, [epoch(2, 1.0, train_loss=0.25)], 2.0)
    ((_, run),) = tally.state(2.0).listed
    assert (run.row["epoch"], run.row["train_loss"], run.row["accuracy_test"]) == (2, 0.25, 0.5)
    assert tally.ended(end(tally, a), 3.0)["accuracy_test"] == 0.5


def test_a_trial_that_no_worker_could_start_has_no_values(tiny: Tiny) -> None:
    tally = tally_of([tiny()])
    (a,) = tally.trials
    assert tally.ended(end(tally, a, "failed", reason="no worker", wall_s=None), 0.0) == {}
    assert tally.busy_in_words(1.0) == "0% of the time, at most 0 at once"


def test_only_the_first_that_run_are_shown(tiny: Tiny) -> None:
    tally = tally_of([tiny(seed=seed) for seed in range(MOST_LISTED + 3)])
    for i in tally.trials:
        tally.started(i, 0.0)
    state = tally.state(0.0)
    assert state.running == MOST_LISTED + 3
    assert [i for i, _ in state.listed] == list(tally.trials)[:MOST_LISTED]


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_slots_are_busy_for_the_part_of_the_time_that_trials_train(
    tiny: Tiny, capacity: int
) -> None:
    # 3 epochs of 10 s and 10 s besides, 8 times, evenly over the slots: three quarters.
    tally = tally_of([tiny(seed=seed) for seed in range(8)])
    *_, (now, _) = simulate(tally, lambda _: 10.0, capacity=capacity, more_s=10.0)
    assert now - START_S == 40.0 * 8 / capacity
    assert tally.busy_in_words(now - START_S) == f"75% of the time, at most {capacity} at once"
