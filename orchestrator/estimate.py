"""What a plan costs, from what finished trials of the same kind took. Arithmetic alone; no Ray."""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.ledger import Kind, Ledger, kind_of
from orchestrator.slots import Node, Place, Slot, free_on, give_back, take
from trainers.config import TrialConfig


def by_kind(trials: Mapping[str, TrialConfig], ids: Iterable[str]) -> dict[Kind, list[str]]:
    """The ids of each kind of trial, in order."""
    kinds: dict[Kind, list[str]] = defaultdict(list)
    for i in ids:
        kinds[kind_of(trials[i].row())].append(i)
    return dict(kinds)


def running_order(
    kinds: Mapping[Kind, Sequence[str]], trials: Mapping[str, TrialConfig], ledger: Ledger
) -> list[str]:
    """A trial of each kind first, so that mistakes and costs show at once; then the longest first.

    That leaves short ones to fill the gaps at the end. A kind that was never measured counts as
    long an epoch as the longest that was; equals keep their order.
    """
    unknown = max((cost.seconds_per_epoch for cost in ledger.costs.values()), default=1.0)
    seconds: dict[str, float] = {}
    for kind, ids in kinds.items():
        cost = ledger.costs.get(kind)
        per_epoch = cost.seconds_per_epoch if cost else unknown
        seconds |= {i: per_epoch * trials[i].epochs for i in ids}
    scouts = {ids[0] for ids in kinds.values()}
    return sorted(seconds, key=lambda i: (i not in scouts, -seconds[i]))


def schedule_of(
    trials: Iterable[tuple[Slot, float]], nodes: Sequence[Node], max_concurrent: int | None = None
) -> tuple[float, int]:
    """When the last trial ends, and how many run at once at most.

    `trials`: what each takes of the nodes, and its seconds. Each starts, in their order, as soon as
    there is room for it; a smaller one doesn't wait for a larger before it. All must fit alone.
    """
    waiting: dict[Slot, deque[tuple[int, float]]] = defaultdict(deque)
    for number, (slot, seconds) in enumerate(trials):
        waiting[slot].append((number, seconds))
    free = free_on(nodes)
    running: list[tuple[float, int, Slot, Place]] = []
    everywhere = range(len(nodes))
    room: dict[Slot, Iterable[int]] = dict.fromkeys(waiting, everywhere)  # where there may be some
    now, most = 0.0, 0
    while waiting or running:
        fits = max_concurrent is None or len(running) < max_concurrent
        for slot in sorted(waiting, key=lambda slot: waiting[slot][0]) if fits else ():
            if place := take(free, slot, room[slot]):
                number, seconds = waiting[slot].popleft()
                if not waiting[slot]:
                    del waiting[slot]
                heapq.heappush(running, (now + seconds, number, slot, place))
                most = max(most, len(running))
                break
            room[slot] = ()
        else:
            now, _, slot, place = heapq.heappop(running)
            give_back(free, slot, place)
            for other in waiting:  # one worker alone has room nowhere but where some was made
                alone = other.workers == 1 and not room[other]
                room[other] = place if alone else everywhere
    return now, most
