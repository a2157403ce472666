"""What a trial takes of a cluster, and whether there is so much. Arithmetic alone; no Ray."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from trainers.registry import InputError

AUTO: Final = "auto"
HEAD_ROOM: Final = 1.25  # over the measured peak: fragments, and what a library takes later
CONTEXT_BYTES: Final = 600 * 2**20  # of a GPU, for each process that uses it, outside PyTorch
Node = Mapping[str, float]  # a node's resources by Ray's names


@dataclass(frozen=True)
class Slot:
    """CPUs and GPUs of a trial: `workers` processes with so many of each."""

    workers: int = 1
    cpus: float = 1
    gpus: float | Literal["auto"] | None = None  # None: a whole one where there are any

    def on(self, nodes: Sequence[Node], *, shared: float = 1.0) -> "Slot":
        """The same with a number of GPUs: what None and auto (`shared`) are on these nodes."""
        if isinstance(self.gpus, float | int):
            return self
        there = any(node.get("GPU", 0) > 0 for node in nodes)
        return replace(self, gpus=(shared if self.gpus == AUTO else 1.0) if there else 0.0)

    def bundle(self) -> dict[str, float]:
        """A worker's resources by Ray's names, without those that it takes none of."""
        assert not isinstance(self.gpus, str)
        return {name: n for name, n in (("CPU", self.cpus), ("GPU", self.gpus or 0.0)) if n}


def at_once(slot: Slot, nodes: Sequence[Node]) -> int:
    """How many such trials fit on these nodes."""
    return sum(_workers_on(node, slot.bundle()) for node in nodes) // slot.workers


def _workers_on(node: Node, bundle: Mapping[str, float]) -> int:
    # Ray counts in ten-thousandths.
    return min(
        int(round(node.get(n, 0) * 1e4) // round(amount * 1e4)) for n, amount in bundle.items()
    )


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


def gpu_share(peak_bytes: int, total_bytes: int) -> float:
    """The fraction of a GPU that a trial of this peak takes: 1/k, so that k of them fit."""
    k = total_bytes // (peak_bytes * HEAD_ROOM + CONTEXT_BYTES)
    return math.floor(1e4 / max(k, 1)) / 1e4  # Ray's resolution


SLOT_KEYS: Final = {"workers": "workers", "cpus_per_worker": "cpus", "gpus_per_worker": "gpus"}
_LEAST: Final = {"workers": 1, "cpus": 0.01, "gpus": 0}


def parse_slot(keys: Mapping[str, Any], where: str) -> Slot:
    """The slot of a study's `resources` block, or of the command line. Raises InputError."""
    values: dict[str, Any] = {}
    for key, value in keys.items():
        name = SLOT_KEYS[key]
        if name == "gpus" and value == AUTO:
            values[name] = AUTO
            continue
        whole = name == "workers"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"{where}: {key}={value!r} must be {kind}")
        if not _LEAST[name] <= value < math.inf:
            raise InputError(f"{where}: {key}={value:g} must be at least {_LEAST[name]:g}")
        values[name] = value if whole else float(value)
    return Slot(**values)
