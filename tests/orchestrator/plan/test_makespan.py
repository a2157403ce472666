"""The order trials start in and how long they take, against schedules that can be seen at once."""

import itertools
import random
from collections.abc import Callable

import pytest

from orchestrator.plan.ledger import Cost, Ledger, kind_of
from orchestrator.plan.makespan import makespan
from orchestrator.plan.order import by_kind, running_order
from orchestrator.plan.slots import Slot
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("seconds", "cpus", "expected"),
    [
        ([], 2, (0.0, 0)),
        ([5.0], 4, (5.0, 1)),
        ([2.0, 1.0, 1.0], 2, (2.0, 2)),
        ([3.0, 3.0, 2.0, 2.0, 2.0], 2, (7.0, 2)),  # 3+2+2 beside 3+2; the best is 6
        ([1.0] * 10, 1, (10.0, 1)),
        ([1.0] * 10, 100, (1.0, 10)),
    ],
)
def test_trials_that_are_alike(seconds: list, cpus: int, expected: tuple) -> None:
    assert makespan([(Slot(gpus=0), s) for s in seconds], [{"CPU": cpus}]) == expected


SMALL, WIDE, PAIR = Slot(gpus=0), Slot(cpus=3, gpus=0), Slot(workers=2, cpus=2, gpus=0)


@pytest.mark.parametrize(
    ("trials", "nodes", "limit", "expected"),
    [
        # The wide one fills three of four CPUs: a small one beside it, then four at once.
        ([(WIDE, 4.0), *[(SMALL, 2.0)] * 6], [4], None, (6.0, 4)),
        # What is too wide for now lets those behind it go first.
        ([(SMALL, 1.0), (WIDE, 2.0), (SMALL, 1.0)], [3], None, (3.0, 2)),
        # Two workers of two CPUs: on one node, or one on each.
        ([(PAIR, 3.0), (PAIR, 3.0)], [4], None, (6.0, 1)),
        ([(PAIR, 3.0), (PAIR, 3.0)], [2, 2, 4], None, (3.0, 2)),
        ([(PAIR, 3.0)], [3, 3], None, (3.0, 1)),
        ([(Slot(gpus=0.3333), 1.0)] * 7, [9], None, (3.0, 3)),  # of the one GPU
        ([(SMALL, 1.0)] * 6, [8], 2, (3.0, 2)),
    ],
)
def test_trials_are_packed_onto_the_nodes(
    trials: list, nodes: list, limit: int | None, expected: tuple
) -> None:
    there = [{"CPU": float(cpus), "GPU": 1.0} for cpus in nodes]
    assert makespan(trials, there, limit) == expected


def test_wall_time_is_within_a_third_of_the_best_schedule() -> None:
    # Graham's bound for longest first: 4/3 - 1/(3m) of the optimum, here by brute force.
    draw = random.Random(0)
    for _ in range(20):
        seconds = sorted((draw.uniform(1, 10) for _ in range(7)), reverse=True)
        splits = itertools.product(range(2), repeat=len(seconds))
        best = min(
            max(sum(s for s, side in zip(seconds, split, strict=True) if side == k) for k in (0, 1))
            for split in splits
        )
        found, _ = makespan([(SMALL, s) for s in seconds], [{"CPU": 2}])
        assert best - 1e-9 <= found <= best * (4 / 3 - 1 / 6) + 1e-9


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
