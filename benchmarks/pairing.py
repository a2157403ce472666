"""Sides of a comparison timed in turn, so that all see the same machine.

A side that must not share its memory allocator or threads with the others gets a process.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from benchmarks.rows import Row

Work = Callable[[], int]  # does a round's work and returns how many items it was


@contextmanager
def in_process(threads: int, make: Callable[..., Work], *args: Any) -> Iterator[Work]:
    """The work that `make(*args)` gives, in a process of its own; it waits between rounds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, threads, make, *args))
    process.start()
    there.close()

    def work() -> int:
        here.send("round")
        return here.recv()

    try:
        yield work
    finally:
        here.close()
        process.join()


def _serve(rounds: Connection, threads: int, make: Callable[..., Work], *args: Any) -> None:
    torch.set_num_threads(threads)
    work = make(*args)
    while True:
        try:
            rounds.recv()
        except EOFError:  # nobody asks any more
            return
        rounds.send(work())


def compare(
    what: str,
    ours: Work,
    peers: Mapping[str, tuple[Work, float | None]],
    *,
    rounds: int,
    unit: str = "images/s",
    warm: bool = True,
) -> list[Row]:
    """Time our side and each peer, given with its target, in turn.

    An unrecorded round goes before, unless the sides are whole programs that start cold anyway.
    Every second round runs backwards, so that nobody is always the one that comes after a certain
    other.
    """
    sides = {"": ours, **{name: work for name, (work, _) in peers.items()}}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    per = {"s": 1, "h": 3600}[unit.rpartition("/")[2]]
    for number in range(0 if warm else 1, rounds + 1):
        for name in sides if number % 2 else reversed(sides):
            rate = per * _rate(sides[name])
            if number > 0:
                rates[name].append(rate)
    return [
        Row(
            what,
            median(rates[""]),
            unit,
            target,
            peer=name,
            theirs=median(rates[name]),
            ratios=[mine / theirs for mine, theirs in zip(rates[""], rates[name], strict=True)],
        )
        for name, (_, target) in peers.items()
    ]


def _rate(work: Work) -> float:
    """Items a second of one round."""
    begin = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - begin)
