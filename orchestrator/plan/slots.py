"""What a trial takes of a cluster, and whether there is so much. Arithmetic alone; no Ray."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from analysis.store.errors import InputError
from orchestrator.options import AUTO, RESOLUTION, check_amounts

Node = Mapping[str, float]  # a node's resources by Ray's names
Place = list[int]  # the node of each worker of a trial


@dataclass(frozen=True)
class Request:
    """What a trial asks of whichever cluster it comes to: `workers` processes with so much each."""

    workers: int | Literal["auto"] = 1  # auto: as many as leave no part of the cluster idle
    cpus: float = 1.0
    gpus: float | Literal["auto"] | None = None  # None: a whole one where there are any

    def __post_init__(self) -> None:
        """Raises InputError for what NCCL would refuse: two ranks on one GPU."""
        if self.workers != 1 and self.gpus != AUTO and 0 < (self.gpus or 0) < 1:
            raise InputError(
                f"workers={self.workers} of a trial can't share a GPU "
                f"(gpus_per_worker={self.gpus}); use gpus_per_worker 1, or one worker"
            )

    def on(
        self, nodes: Sequence[Node], *, shared: float = 1.0, trials: int = 1, most: int = 1
    ) -> "Slot":
        """What the trial gets on these nodes, where None and auto are numbers.

        GPUs that are auto are `shared`, and whole for a trial of several workers. Workers that are
        auto: what `trials` that run together leave to each, up to `most`.
        """
        gpus = self.gpus
        if gpus is None or gpus == AUTO:
            there = any(node.get("GPU", 0) > 0 for node in nodes)
            gpus = (shared if gpus == AUTO and self.workers == 1 else 1.0) if there else 0.0
        alone = Slot(cpus=self.cpus, gpus=gpus)
        if self.workers == AUTO:
            return replace(alone, workers=max(min(at_once(alone, nodes) // trials, most), 1))
        return replace(alone, workers=self.workers)


@dataclass(frozen=True)
class Slot:
    """What a trial gets of a cluster: `workers` processes with so many CPUs and GPUs each."""

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    @property
    def size(self) -> float:
        """How much of the cluster it is: GPUs, or CPUs where it has none."""
        return self.workers * (self.gpus or self.cpus)

    def bundle(self) -> dict[str, float]:
        """A worker's resources by Ray's names, without those that it takes none of."""
        return {name: n for name, n in (("CPU", self.cpus), ("GPU", self.gpus)) if n}


def at_once(slot: Slot, nodes: Sequence[Node]) -> int:
    """How many such trials fit on these nodes."""
    return sum(_workers_on(node, slot.bundle()) for node in nodes) // slot.workers


def _workers_on(node: Node, bundle: Mapping[str, float]) -> int:
    return min(_units(node.get(name, 0)) // _units(amount) for name, amount in bundle.items())


def _units(amount: float) -> int:
    return round(amount / RESOLUTION)


def free_on(nodes: Sequence[Node]) -> list[dict[str, int]]:
    """What is free of each node when nothing runs, for `take`."""
    return [{name: _units(amount) for name, amount in node.items()} for node in nodes]


def take(free: list[dict[str, int]], slot: Slot, among: Iterable[int]) -> Place | None:
    """Take such a trial's share of what is free of some nodes; where. None: no room, none taken."""
    wanted, place = _wanted(slot), []
    for number in among:
        node = free[number]
        while all(node.get(name, 0) >= amount for name, amount in wanted):
            for name, amount in wanted:
                node[name] -= amount
            place.append(number)
            if len(place) == slot.workers:
                return place
    give_back(free, slot, place)
    return None


def give_back(free: list[dict[str, int]], slot: Slot, place: Place) -> None:
    """Undo `take`."""
    for number in place:
        for name, amount in _wanted(slot):
            free[number][name] += amount


@lru_cache
def _wanted(slot: Slot) -> tuple[tuple[str, int], ...]:
    """What each worker takes; the scarcest, which most often says no, first."""
    return tuple((name, _units(amount)) for name, amount in reversed(slot.bundle().items()))


def check_fits(slots: Iterable[Slot], nodes: Sequence[Node]) -> None:
    """Raises InputError for a trial that can never be placed: what it lacks, and what there is."""
    for slot in dict.fromkeys(slots):
        if at_once(slot, nodes):
            continue
        for name, amount in slot.bundle().items():
            total = sum(node.get(name, 0) for node in nodes)
            wanted = amount * slot.workers
            option = f"--{name.lower()}s-per-worker" + (" or --workers" * (slot.workers > 1))
            if wanted > total:
                raise InputError(
                    f"a trial wants {wanted:g} {name} and the cluster has {total:g}; ask for less "
                    f"with {option}"
                )
            largest = max(node.get(name, 0) for node in nodes)
            if amount > largest:
                raise InputError(
                    f"a worker wants {amount:g} {name} of one node and the largest has "
                    f"{largest:g}; ask for less with --{name.lower()}s-per-worker"
                )
        wants = " and ".join(f"{n:g} {name}" for name, n in slot.bundle().items())
        raise InputError(
            f"{slot.workers} workers of {wants} each don't fit on the cluster's {len(nodes)} "
            "nodes together; ask for less with --workers"
        )


# A request's fields by the keys of a study's `resources`, which are the options' names.
REQUEST_KEYS: Final = {
    "workers": "workers",
    "cpus_per_worker": "cpus",
    "gpus_per_worker": "gpus",
}


def parse_request(amounts: Mapping[str, Any], where: str) -> Request:
    """The request of a study's `resources` block. Raises InputError."""
    check_amounts(amounts, where=where)
    try:
        return Request(**{REQUEST_KEYS[key]: value for key, value in amounts.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
