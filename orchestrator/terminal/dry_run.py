"""The plan as a person reads it: the trials, what each kind takes, and what all will cost."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pyarrow import fs

from analysis.store.errors import InputError
from analysis.store.results import KEPT, ResultStore
from analysis.store.schema import TABLES
from orchestrator.options import AUTO
from orchestrator.plan.ledger import Kind
from orchestrator.plan.makespan import makespan
from orchestrator.plan.packing import slots_on
from orchestrator.plan.plan import Plan
from orchestrator.plan.recorded import shared_fields
from orchestrator.plan.slots import Node, Request, Slot, check_fits
from orchestrator.terminal.words import counted, duration
from trainers.config import TrialConfig
from trainers.machine import usable_cpus, usable_gpus

START_S: Final = 15.0  # until the first trial trains: Ray, and PyTorch in each worker


def this_machine() -> list[Node]:
    """What there is to run on, as far as it is known without Ray: what `connect` would start."""
    return [{"CPU": float(usable_cpus()), "GPU": float(usable_gpus() or 0)}]


def show_plan(
    plan: Plan,
    store: ResultStore,
    *,
    nodes: Sequence[Node],
    max_concurrent: int | None = None,
    quiet: bool = False,
) -> None:
    """Print what would happen on these nodes. By print: rich takes seconds for 10,000 lines.

    `max_concurrent`: trials at once, if not as many as fit; `quiet`: don't list the trials.
    """
    if not quiet:
        _list_trials(plan)
    print(f"{counted(len(plan.trials), 'trial')}, {_done(plan)}, {len(plan.to_do):,} to run")
    if plan.to_do:
        estimates = _estimates(plan, store, nodes=nodes, max_concurrent=max_concurrent)
        print(*_kinds(plan, nodes), *estimates, sep="\n")


def _done(plan: Plan) -> str:
    """How many need not run, and which of these are no success."""
    left = {*plan.to_do}
    ended = Counter(plan.ledger.status(i) for i in plan.trials if i not in left)
    bad = [f"{ended[status]} {status}" for status in ("failed", "diverged") if ended[status]]
    return f"{plan.done:,} done" + (f" ({', '.join(bad)})" if bad else "")


def _list_trials(plan: Plan) -> None:
    """What all have alike, then a line for each with what sets it apart."""
    rows = {i: config.row() for i, config in plan.trials.items()}
    alike = shared_fields(rows) if len(rows) > 1 else {}
    if alike:
        print(f"{'all':22} {_axes(alike)}")
    for i, row in rows.items():
        own = {k: v for k, v in row.items() if k not in alike}
        print(f"{i} {plan.ledger.status(i) or 'new':9} {_axes(own)}")


def _axes(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in fields.items() if v is not None)


def _kinds(plan: Plan, nodes: Sequence[Node]) -> Iterator[str]:
    """A line for each kind of trial and request that is to run."""
    for kind, ids in plan.kinds.items():
        config, cost = plan.trials[ids[0]], plan.ledger.costs.get(kind)
        for request in dict.fromkeys(plan.requests[i] for i in ids):
            count = sum(plan.requests[i] == request for i in ids)
            line = f"  {count} x {name_of_kind(config)}: {_takes(request, nodes)}"
            yield line + (f", {cost.seconds_per_epoch:.3g} s an epoch" if cost else "")
        if words := compiling_in_words(plan, kind):
            yield f"    {words}"


def compiling_in_words(plan: Plan, kind: Kind) -> str | None:
    """Whether a trial of a kind that compiles gains what that costs; None if none was probed."""
    cost, epochs = plan.ledger.costs.get(kind), plan.trials[plan.kinds[kind][0]].epochs
    if not cost or not cost.compiling:
        return None
    plain_s = cost.compiling["plain_seconds_per_epoch"]
    compile_s = cost.compiling["compile_s"]
    saved_s = plain_s - cost.seconds_per_epoch
    facts = f"{plain_s / cost.seconds_per_epoch:.2f} times as fast, {compile_s:.0f} s to compile"
    if saved_s * epochs <= compile_s:
        return f"compile: does not pay in {counted(epochs, 'epoch')}: {facts}"
    return f"compile: pays after {counted(math.ceil(compile_s / saved_s), 'epoch')}: {facts}"


def name_of_kind(config: TrialConfig) -> str:
    """A kind of trials in a few words, by one of them."""
    augment = "" if config.augment == "none" else f" {config.augment}"
    return (
        f"{config.dataset} {config.model} {config.optimizer}{augment} batch {config.batch_size} "
        f"{config.precision}"
    )


def _takes(request: Request, nodes: Sequence[Node]) -> str:
    measured = request.gpus == AUTO  # what a dry run doesn't, unless it probes
    gpus = "a measured share of a GPU" if measured else f"{request.on(nodes).gpus:g} GPU"
    return f"{request.workers} x ({request.cpus:g} CPU, {gpus})"


def _estimates(
    plan: Plan, store: ResultStore, *, nodes: Sequence[Node], max_concurrent: int | None
) -> Iterator[str]:
    """Time and disk; or what of these nodes is too small, or for which kinds nobody knows."""
    slots = slots_on(plan, nodes)
    try:
        check_fits(slots.values(), nodes)
    except InputError as error:
        yield f"estimated wall time: none here (--address auto asks the running cluster): {error}"
        yield _disk(plan, store)
        return
    costs = plan.ledger.costs
    seconds = {
        i: (costs[kind].seconds_per_epoch if kind in costs else 1.0)
        * plan.ledger.epochs_left(i, plan.trials[i].epochs)
        for kind, ids in plan.kinds.items()
        for i in ids
    }
    each = ((slots[i], seconds[i]) for i in plan.to_do)
    wall_s, together = makespan(each, nodes, max_concurrent)
    unknown = [plan.trials[ids[0]] for kind, ids in plan.kinds.items() if kind not in costs]
    if unknown:
        yield (
            f"estimated wall time: unknown; no finished trial of {len(unknown)} of "
            f"{counted(len(plan.kinds), 'kind')} (for example {name_of_kind(unknown[0])}) is in "
            "the results; --probe runs a few steps of each"
        )
    else:
        yield (
            f"estimated wall time: {duration(START_S + wall_s)} with at most {together} at once, "
            f"from the time per epoch of {_basis(plan)}"
        )
        yield _use(slots, seconds)
    yield _disk(plan, store)
    yield from _checkpoints(plan, together)


def _basis(plan: Plan) -> str:
    earlier = "earlier trials of the same kind"
    probed = sum(kind in plan.ledger.probed for kind in plan.kinds)
    if not probed:
        return earlier
    steps = f"a few steps of {counted(probed, 'kind')}"
    return steps if probed == len(plan.kinds) else f"{steps} and {earlier}"


def _use(slots: Mapping[str, Slot], seconds: Mapping[str, float]) -> str:
    cpu_s = sum(s * slots[i].workers * slots[i].cpus for i, s in seconds.items())
    gpu_s = sum(s * slots[i].workers * slots[i].gpus for i, s in seconds.items())
    hours = f"{gpu_s / 3600:.3g} GPU-hours, " if gpu_s else ""
    return f"estimated use: {hours}{cpu_s / 3600:.3g} CPU-hours"


def _disk(plan: Plan, store: ResultStore) -> str:
    """What the results will take: by the results that are there, or by a probe."""
    if finished := sum(plan.ledger.status(i) == "finished" for i in plan.ledger.rows):
        more = _stored_bytes(store) / finished * len(plan.to_do)
        took = f"as the {counted(finished, 'finished trial')} there took"
        return f"estimated disk: {_megabytes(more)} of results, {took}"
    costs = ((plan.ledger.probed.get(kind), len(ids)) for kind, ids in plan.kinds.items())
    sizes = [cost.results_bytes * count for cost, count in costs if cost and cost.results_bytes]
    if len(sizes) == len(plan.kinds):
        return f"estimated disk: {_megabytes(sum(sizes))} of results"
    return "estimated disk: unknown; no trial has finished in the results, and --probe tells it too"


def _checkpoints(plan: Plan, together: int) -> Iterator[str]:
    """What checkpoints take while so many trials run together, as a probe says."""
    costs = (plan.ledger.probed.get(kind) for kind in plan.kinds)
    if largest := max((cost.checkpoint_bytes or 0 for cost in costs if cost), default=0):
        most = KEPT * largest * together
        yield f"  and while it runs {_megabytes(most)} of checkpoints, {KEPT} of each running trial"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.3g} MB" if size < 1e9 else f"{size / 1e9:,.3g} GB"


def _stored_bytes(store: ResultStore) -> int:
    """The size of all tables."""
    size = 0
    for table in TABLES:
        selector = fs.FileSelector(store.path(table), allow_not_found=True)
        size += sum(file.size or 0 for file in store.filesystem.get_file_info(selector))
    return size
