"""How long the rest of a sweep takes, learnt while it runs. Arithmetic alone; no clock.

What is left of each kind of trial times what an epoch of that kind takes, over all kinds, by how
much runs at once.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from orchestrator.plan.ledger import Kind

RECENT_S: Final = 60.0  # between two trials a slot is empty for a moment, and is one all the same


class TimeLeft(NamedTuple):
    """Time that is left, and how many kinds of trials it was guessed for."""

    seconds: float
    unmeasured: int


class EpochTimes:
    """What an epoch of each kind takes: the best that is known by now.

    All that trials took that finished since the start, by their epochs; else the epochs of those
    that run; else what was known before; else the mean of the other kinds.
    """

    def __init__(self, before: Mapping[Kind, float]) -> None:
        self._before = before
        self._epochs: dict[Kind, list[float]] = defaultdict(lambda: [0.0, 0])  # seconds, how many
        self._trials: dict[Kind, list[float]] = defaultdict(lambda: [0.0, 0])

    def epoch(self, kind: Kind, seconds: float) -> None:
        """One epoch took so long, by itself."""
        _add(self._epochs[kind], seconds, 1)

    def trial(self, kind: Kind, seconds: float, epochs: int) -> None:
        """A trial of so many epochs took so long, with all that is no epoch."""
        _add(self._trials[kind], seconds, epochs)

    def known(self, kind: Kind) -> float | None:
        """Seconds per epoch of this kind, if it was ever measured."""
        for measured in (self._trials, self._epochs):
            if kind in measured:
                seconds, count = measured[kind]
                return seconds / count
        return self._before.get(kind)

    def of(self, kinds: Iterable[Kind]) -> tuple[dict[Kind, float], int]:
        """Seconds per epoch of each kind, and how many of them are but the mean of the others.

        Nothing for any kind if none was measured.
        """
        known = {kind: self.known(kind) for kind in kinds}
        found = [cost for cost in known.values() if cost is not None]
        if not found:
            return {}, len(known)
        mean = sum(found) / len(found)
        costs = {kind: mean if cost is None else cost for kind, cost in known.items()}
        return costs, len(known) - len(found)


def _add(measured: list[float], seconds: float, count: int) -> None:
    measured[0] += seconds
    measured[1] += count


class RecentPeak:
    """The largest that a sum was within the last minute, and ever."""

    def __init__(self) -> None:
        self._value = 0.0
        self._before: deque[tuple[float, float]] = deque()  # until when it was how much
        self.largest = 0.0

    def add(self, change: float, now: float) -> None:
        """Change the sum."""
        self._before.append((now, self._value))
        self._value = round(self._value + change, 6)  # 0 at the end, after thirds of a GPU
        self.largest = max(self.largest, self._value)
        self._forget(now)

    def most(self, now: float) -> float:
        """The largest that it was lately."""
        self._forget(now)
        return max(self._value, *(value for _, value in self._before), 0.0)

    def _forget(self, now: float) -> None:
        while self._before and self._before[0][0] < now - RECENT_S:
            self._before.popleft()


class Speed:
    """Images per second over the last half minute, or the last two epochs where those are longer.

    An epoch's images come in all at once: a shorter while would hold none, or too many.
    """

    LEAST_S: Final = 30.0

    def __init__(self) -> None:
        self._epochs: deque[tuple[float, float]] = deque()  # when it ended, its images
        self._images = 0.0
        self._started: float | None = None

    def start(self, now: float) -> None:
        """A trial begins; the first time counts."""
        self._started = now if self._started is None else self._started

    def add(self, images: float, now: float) -> None:
        """An epoch has ended."""
        self._epochs.append((now, images))
        self._images += images

    def per_second(self, longest_epoch_s: float, now: float) -> float:
        """The speed now."""
        window_s = max(self.LEAST_S, 2 * longest_epoch_s)
        while self._epochs and self._epochs[0][0] < now - window_s:
            self._images -= self._epochs.popleft()[1]
        span_s = min(window_s, now - (now if self._started is None else self._started))
        return self._images / span_s if self._epochs and span_s > 1 else 0.0


class Remaining(NamedTuple):
    """What is left of a trial that runs."""

    kind: Kind
    epochs: int
    since_s: float  # how long ago its last epoch ended
    size: float


def time_left(
    epochs: Mapping[Kind, float], running: Iterable[Remaining], costs: EpochTimes, at_once: float
) -> TimeLeft | None:
    """How long it takes until all is done; None if nobody can know yet.

    Args: epochs that are left of each kind, each times the size of its trial; what runs, which is
    in `epochs` too; the sizes of the trials that run at once, summed.
    """
    to_do = {kind: left for kind, left in epochs.items() if left > 0}
    if not to_do:
        return TimeLeft(0.0, 0)
    per_epoch, unmeasured = costs.of(to_do)
    if not per_epoch or not at_once:
        return None
    work_s = sum(left * per_epoch[kind] for kind, left in to_do.items())
    longest_s = 0.0
    for rest in running:
        if not rest.epochs:
            continue  # it has trained, and writes its results
        under_way_s = min(rest.since_s, per_epoch[rest.kind])
        work_s -= under_way_s * rest.size
        longest_s = max(longest_s, rest.epochs * per_epoch[rest.kind] - under_way_s)
    return TimeLeft(max(work_s / at_once, longest_s), unmeasured)
