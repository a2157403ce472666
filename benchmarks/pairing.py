"""Sides of a comparison timed in turn, so that all see the same machine.

A side that must not share its memory allocator or threads with the others gets a process.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

Work = Callable[[], int]  # does a round's work and returns how many items it was


@dataclass(frozen=True)
class Comparison:
    """What our side did against one peer."""

    peer: str
    ours_per_s: float  # median over the rounds
    peer_per_s: float
    ratios: list[float]  # ours over the peer's, round by round
    target: float | None  # None: told for comparison

    @property
    def ratio(self) -> float:
        """The median over the rounds: one disturbed round doesn't move it."""
        return median(self.ratios)


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
    ours: Work, peers: Mapping[str, tuple[Work, float | None]], *, rounds: int
) -> list[Comparison]:
    """Time our side and each peer, given with its target, in turn.

    An unrecorded round goes before. Every second round runs backwards, so that nobody is always
    the one that comes after a certain other.
    """
    sides = {"": ours, **{name: work for name, (work, _) in peers.items()}}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in sides if number % 2 else reversed(sides):
            rate = _rate(sides[name])
            if number > 0:
                rates[name].append(rate)
    return [
        Comparison(
            name,
            median(rates[""]),
            median(rates[name]),
            [mine / theirs for mine, theirs in zip(rates[""], rates[name], strict=True)],
            target,
        )
        for name, (_, target) in peers.items()
    ]


def _rate(work: Work) -> float:
    """Items a second of one round."""
    begin = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - begin)


def print_table(title: str, comparisons: list[Comparison]) -> None:
    """One line a peer, in images a second."""
    rounds = len(comparisons[0].ratios)
    print(f"{title}; images/s, median of {rounds} rounds")
    print(f"{'peer':<54} {'ours':>10} {'peer':>10} {'ratio':>7} {'(min to max)':>16} {'target':>7}")
    for each in comparisons:
        spread = f"({min(each.ratios):.2f} to {max(each.ratios):.2f})"
        verdict = ""
        if each.target is not None:
            verdict = f"{each.target:>7.2f} {'met' if each.ratio >= each.target else 'missed'}"
        print(
            f"{each.peer:<54} {each.ours_per_s:>10,.0f} {each.peer_per_s:>10,.0f} "
            f"{each.ratio:>7.2f} {spread:>16} {verdict}".rstrip()
        )


def print_limit(what: str, value: float, limit: float) -> None:
    """One line for what has an upper limit."""
    verdict = "met" if value <= limit else "missed"
    print(f"{what:<44} {value:>10.4g}   limit {limit:g} {verdict}")
