"""Which share of a GPU each trial gets. Decisions alone: `orchestrator.run` carries them out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.options import AUTO
from orchestrator.plan.ledger import Kind, Ledger
from orchestrator.plan.plan import Plan
from orchestrator.plan.slots import Node, Slot, check_fits

HEAD_ROOM: Final = 1.25  # over the measured peak: fragments, and what a library takes later
CONTEXT_BYTES: Final = 600 * 2**20  # of a GPU, for each process that uses it, outside PyTorch


def to_probe(plan: Plan, nodes: Sequence[Node], *, all_kinds: bool) -> dict[Kind, str]:
    """A trial of each kind to measure: those of unknown memory where it decides a share.

    `all_kinds`: those of unknown speed, too.
    """
    firsts = {kind: ids[0] for kind, ids in plan.kinds.items()}
    some = any(node.get("GPU", 0) for node in nodes)
    shared = {kind: i for kind, i in firsts.items() if some and plan.requests[i].gpus == AUTO}
    asked = firsts if all_kinds else shared
    costs = plan.ledger.costs
    unknown = {
        kind: i
        for kind, i in asked.items()
        if kind not in costs or (kind in shared and costs[kind].peak_memory_bytes is None)
    }
    if shared and not unknown:  # how much memory a GPU has isn't in the ledger
        return dict([next(iter(shared.items()))])
    return unknown


def slots_on(plan: Plan, nodes: Sequence[Node]) -> dict[str, Slot]:
    """What each trial that is to run takes of these nodes."""
    return {
        i: plan.requests[i].on(
            nodes,
            shared=_share(plan, kind),
            trials=len(plan.to_do),
            most=plan.trials[i].batch_size,
        )
        for kind, ids in plan.kinds.items()
        for i in ids
    }


def check_all_fit(plan: Plan, nodes: Sequence[Node]) -> None:
    """Raises InputError if any trial that is to run can never be placed on these nodes."""
    check_fits((plan.requests[i].on(nodes) for i in plan.to_do), nodes)


def _share(plan: Plan, kind: Kind) -> float:
    cost, total = plan.ledger.costs.get(kind), plan.device_memory_bytes
    if cost is None or cost.peak_memory_bytes is None or total is None:
        return 1.0
    return gpu_share(cost.peak_memory_bytes, total)


def gpu_share(peak_bytes: int, total_bytes: int) -> float:
    """The fraction of a GPU that a trial of this peak takes: 1/k, so that k of them fit."""
    k = total_bytes // (peak_bytes * HEAD_ROOM + CONTEXT_BYTES)
    return math.floor(1e4 / max(k, 1)) / 1e4  # Ray's resolution


def larger_after_oom(
    slots: Mapping[str, Slot], ledger: Ledger, ids: Iterable[str]
) -> dict[str, Slot]:
    """For each trial that found a part of a GPU too small, twice as much; a whole one at most."""
    return {
        i: replace(slots[i], gpus=min(2 * ledger.rows[i]["gpu_share"], 1.0))
        for i in ids
        if 0 < slots[i].gpus < 1 and ledger.is_owed_memory(i)
    }
