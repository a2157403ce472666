"""What a plan costs, from what finished trials of the same kind took. Arithmetic alone; no Ray."""

import heapq
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence

from orchestrator.plan.slots import Node, Place, Slot, free_on, give_back, take


def makespan(
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
