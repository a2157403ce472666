"""The order trials start in and how long they take, against schedules that can be seen at once."""

import itertools
import random
from collections.abc import Callable

import pytest

from orchestrator.estimate import by_kind, running_order, wall_seconds
from orchestrator.ledger import Cost, Ledger, kind_of
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("seconds", "at_once", "expected"),
    [
        ([], 2, 0.0),
        ([5.0], 4, 5.0),
        ([1.0, 1.0, 2.0], 2, 2.0),
        ([3.0, 3.0, 2.0, 2.0, 2.0], 2, 7.0),  # longest first: 3+2+2 beside 3+2; the best is 6
        ([1.0] * 10, 1, 10.0),
        ([1.0] * 10, 100, 1.0),
    ],
)
def test_wall_time(seconds: list, at_once: int, expected: float) -> None:
    assert wall_seconds(seconds, at_once) == pytest.approx(expected)


def test_wall_time_is_within_a_third_of_the_best_schedule() -> None:
    # Graham's bound for longest first: 4/3 - 1/(3m) of the optimum, here by brute force.
    draw = random.Random(0)
    for _ in range(20):
        seconds = [draw.uniform(1, 10) for _ in range(7)]
        splits = itertools.product(range(2), repeat=len(seconds))
        best = min(
            max(sum(s for s, side in zip(seconds, split, strict=True) if side == k) for k in (0, 1))
            for split in splits
        )
        assert best <= wall_seconds(seconds, 2) <= best * (4 / 3 - 1 / 6) + 1e-9


def test_a_trial_of_each_kind_first_then_the_longest(tiny: Tiny) -> None:
    configs = [
        tiny(batch_size=batch, epochs=epochs, seed=seed)
        for batch in (8, 16)
        for epochs in (2, 4)
        for seed in (0, 1)
    ]
    trials = {config.trial_id: config for config in configs}
    fast, slow = (kind_of(tiny(batch_size=batch).row()) for batch in (8, 16))
    ledger = Ledger({}, {fast: Cost(1.0, None), slow: Cost(10.0, None)})
    order = running_order(by_kind(trials, trials), trials, ledger)
    found = [(trials[i].batch_size, trials[i].epochs, trials[i].seed) for i in order]
    assert found == [
        (16, 2, 0), (8, 2, 0),  # the first of each kind, the slow kind before the fast
        (16, 4, 0), (16, 4, 1), (16, 2, 1), (8, 4, 0), (8, 4, 1), (8, 2, 1),
    ]  # fmt: skip


def test_what_was_never_measured_comes_with_the_longest(tiny: Tiny) -> None:
    configs = [tiny(batch_size=batch, seed=seed) for seed in (0, 1) for batch in (8, 16)]
    trials = {config.trial_id: config for config in configs}
    ledger = Ledger({}, {kind_of(tiny(batch_size=8).row()): Cost(3.0, None)})
    order = running_order(by_kind(trials, trials), trials, ledger)
    assert [trials[i].batch_size for i in order] == [8, 16, 8, 16]  # equals, as planned
