"""The plan as a person reads it: the trials, what each kind takes, and what all will cost."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs
from rich.console import Console

from analysis.schema import TABLES
from orchestrator.estimate import wall_seconds
from orchestrator.packing import slots_on
from orchestrator.plan_file import shared_fields
from orchestrator.planning import Plan
from orchestrator.progress import counted, duration
from orchestrator.slots import Node, Slot, at_once
from trainers.config import TrialConfig
from trainers.results import KEPT, ResultStore


def this_machine() -> list[Node]:
    """What there is to run on, as far as it is known without Ray."""
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return [{"CPU": float(os.cpu_count() or 1), "GPU": float(gpus)}]


def show_plan(
    plan: Plan,
    args: argparse.Namespace,
    store: ResultStore,
    console: Console,
    nodes: Sequence[Node],
) -> None:
    """Print what would happen on these nodes."""
    if not console.quiet:
        _list_trials(plan)
    for line in (
        f"{len(plan.trials)} trials, {plan.done} done, {len(plan.to_do)} to run",
        *_kinds(plan, nodes),
        *_costs(plan, args, nodes),
        *_disk(plan, args, store, nodes),
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _list_trials(plan: Plan) -> None:
    """What all have alike, then a line for each with what sets it apart."""
    rows = {i: config.row() for i, config in plan.trials.items()}
    alike = shared_fields(rows) if len(rows) > 1 else {}
    if alike:
        print(f"{'all':22} {_axes(alike)}")  # print, since thousands of lines take rich seconds
    for i, row in rows.items():
        own = {k: v for k, v in row.items() if k not in alike}
        print(f"{i} {plan.ledger.status(i) or 'new':9} {_axes(own)}")


def _axes(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in fields.items() if v is not None)


def _kinds(plan: Plan, nodes: Sequence[Node]) -> Iterator[str]:
    """A line for each kind of trial and slot that is to run."""
    for kind, ids in plan.kinds.items():
        config, cost = plan.trials[ids[0]], plan.ledger.costs.get(kind)
        for slot in dict.fromkeys(plan.slots[i] for i in ids):
            count = sum(plan.slots[i] == slot for i in ids)
            line = f"  {count} x {_name(config)}: {_takes(slot, nodes)}"
            yield line + (f", {cost.seconds_per_epoch:.3g} s an epoch" if cost else "")


def _name(config: TrialConfig) -> str:
    augment = "" if config.augment == "none" else f" {config.augment}"
    return (
        f"{config.dataset} {config.model} {config.optimizer}{augment} batch {config.batch_size} "
        f"{config.precision}"
    )


def _takes(slot: Slot, nodes: Sequence[Node]) -> str:
    gpus = slot.gpus
    if gpus is None:
        gpus = slot.on(nodes).gpus
    shown = "a measured share of a GPU" if isinstance(gpus, str) else f"{gpus:g} GPU"
    return f"{slot.workers} x ({slot.cpus:g} CPU, {shown})"


def _costs(plan: Plan, args: argparse.Namespace, nodes: Sequence[Node]) -> Iterator[str]:
    """Wall time and CPU- or GPU-hours, or for which kinds nobody knows."""
    if not plan.to_do:
        return
    unknown = [
        plan.trials[ids[0]] for kind, ids in plan.kinds.items() if kind not in plan.ledger.costs
    ]
    if unknown:
        yield (
            f"estimated wall time: unknown; no finished trial of {len(unknown)} of "
            f"{counted(len(plan.kinds), 'kind')} (for example {_name(unknown[0])}) is in the "
            "results; --probe runs a few steps of each"
        )
        return
    seconds: dict[str, float] = {}
    for kind, ids in plan.kinds.items():
        seconds |= {
            i: plan.ledger.costs[kind].seconds_per_epoch * plan.trials[i].epochs for i in ids
        }
    slots, together = slots_on(plan, nodes), _together(plan, args, nodes)
    probed = sum(kind in plan.ledger.probed for kind in plan.kinds)
    basis = "finished trials of the same kind"
    if probed:
        basis = f"a few steps of {counted(probed, 'kind')}" + (
            f" and {basis}" * (probed < len(plan.kinds))
        )
    yield (
        f"estimated wall time: {duration(wall_seconds(seconds.values(), together))} with "
        f"{together} at once, from the time per epoch of {basis}"
    )
    cpu_s = sum(s * int(slots[i].workers) * slots[i].cpus for i, s in seconds.items())
    gpu_s = sum(s * int(slots[i].workers) * float(slots[i].gpus or 0) for i, s in seconds.items())
    hours = f"{gpu_s / 3600:.3g} GPU-hours, " if gpu_s else ""
    yield f"estimated use: {hours}{cpu_s / 3600:.3g} CPU-hours"


def _together(plan: Plan, args: argparse.Namespace, nodes: Sequence[Node]) -> int:
    """How many trials run at once, be they all of the largest kind."""
    fitting = min(at_once(slot, nodes) for slot in {*slots_on(plan, nodes).values()})
    return max(min(fitting, args.max_concurrent or fitting, len(plan.to_do)), 1)


def _disk(
    plan: Plan, args: argparse.Namespace, store: ResultStore, nodes: Sequence[Node]
) -> Iterator[str]:
    """What results and checkpoints will take: by the results that are there, or by a probe."""
    if not plan.to_do:
        return
    costs = {kind: plan.ledger.probed.get(kind) for kind in plan.kinds}
    probed = {
        i: cost.results_bytes
        for kind, cost in costs.items()
        for i in plan.kinds[kind]
        if cost and cost.results_bytes
    }
    trials, size = _stored(store)
    if trials:
        more = size / trials * len(plan.to_do)
        yield f"estimated disk: {_megabytes(more)} of results, as the {trials} trials there took"
    elif len(probed) == len(plan.to_do):
        yield f"estimated disk: {_megabytes(sum(probed.values()))} of results"
    largest = max((cost.checkpoint_bytes or 0 for cost in costs.values() if cost), default=0)
    if largest:
        most = KEPT * largest * _together(plan, args, nodes)
        yield f"  and while it runs {_megabytes(most)} of checkpoints, {KEPT} of each running trial"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"


def _stored(store: ResultStore) -> tuple[int, int]:
    """How many trials there are, and the bytes of all tables."""
    trials, size = 0, 0
    for table in TABLES:
        selector = fs.FileSelector(store.path(table), allow_not_found=True)
        files = store.filesystem.get_file_info(selector)
        size += sum(file.size or 0 for file in files)
        trials += len(files) if table == "trials" else 0
    return trials, size
