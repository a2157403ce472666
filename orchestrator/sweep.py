"""Entry point: studies -> trials -> Ray Tune -> Parquet -> tables. Run it twice, and it carries on.

`ray submit` copies this one file and runs it alone: all else it imports from the installed package.
"""

import argparse
import gc
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from rich.console import Console

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports: nothing to save or to show

from analysis.store.command_line import run_main
from analysis.store.errors import InputError, WriteError
from analysis.store.location import without_password
from analysis.store.locks import SWEEP_LOCK
from analysis.store.results import ResultStore
from orchestrator.options import parse_args
from orchestrator.plan.ledger import forget, read_ledger
from orchestrator.plan.packing import larger_after_oom, slots_on, to_probe
from orchestrator.plan.plan import Plan, check_plan, make_plan
from orchestrator.plan.recorded import continue_command, read_plan, write_plan
from orchestrator.plan.slots import Node, Slot, check_fits, resources
from orchestrator.run import interrupt
from orchestrator.run import tune as schedule
from orchestrator.run.nodes import check_nodes
from orchestrator.run.reporter import ENDED, Reporter
from orchestrator.terminal.dry_run import show_plan, this_machine
from orchestrator.terminal.progress import SweepProgress
from orchestrator.terminal.summary import show_summary, write_analysis
from orchestrator.terminal.tally import Tally
from orchestrator.terminal.words import counted, duration
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.uris import check_uri, default_uri, how_to_open
from trainers.run.memory import collect_garbage_seldom

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def run_plan(
    plan: Plan,
    args: argparse.Namespace,
    store: ResultStore,
    console: Console,
    nodes: Sequence[Node],
    mirror: Mirror | None,
) -> Tally:
    """Train what is left to do, and count it. How each trial ended is in the store by then."""
    slots = slots_on(plan, nodes)
    if args.rerun:  # only now: nothing that the user can get wrong comes after this
        again = [i for i in plan.to_do if args.rerun in ("all", plan.ledger.status(i))]
        forget(store, [i for i in again if plan.ledger.status(i)])  # so that what is left is new
    to_do = {i: plan.trials[i] for i in plan.to_do}
    sizes = {i: int(slot.workers) * float(slot.gpus or slot.cpus) for i, slot in slots.items()}
    tally = Tally(to_do, plan.kinds, sizes=sizes, before=plan.ledger.costs)
    with SweepProgress(tally, console=console) as progress:
        reporter = Reporter(to_do, store, progress, mirror)

        def run(slots: Mapping[str, Slot]) -> None:
            jobs = [(_job(i, slot, plan, args, store), slot) for i, slot in slots.items()]
            schedule.run(
                jobs,
                max_concurrent=args.max_concurrent,
                retries=args.retries,
                listener=reporter,
            )

        larger = larger_after_oom(slots, plan.ledger, plan.to_do)  # of a sweep that was ended
        run({i: larger.get(i, slots[i]) for i in plan.to_do})
        while larger := larger_after_oom(slots, reporter.failed(), plan.to_do):
            line = f"{counted(len(larger), 'trial')} ran out of memory; again, with twice its share"
            console.print(line, highlight=False, soft_wrap=True)
            run(larger)
    return tally


@contextmanager
def cluster(args: argparse.Namespace, console: Console) -> Iterator[Sequence[Node]]:
    """The nodes of the cluster, connected. Raises InputError if there is none."""
    try:
        with console.status("starting Ray"):
            nodes = schedule.connect(args.address)
        yield nodes
    finally:
        schedule.disconnect()


def measured(
    plan: Plan,
    args: argparse.Namespace,
    store: ResultStore,
    console: Console,
    nodes: Sequence[Node],
) -> Plan:
    """The plan with what a few steps tell of kinds that never ran, where that is asked for."""
    wanted = to_probe(plan, nodes, all_kinds=args.probe)
    if not wanted:
        return plan
    jobs, slots = {}, {}
    for kind, i in wanted.items():
        slots[kind] = plan.slots[i].on(nodes)
        jobs[kind] = _job(i, slots[kind], plan, args, store)
    with console.status(f"running a few steps of {counted(len(jobs), 'kind')} of trials"):
        probes, failures = schedule.measure(jobs, slots)
    for failure in failures:
        line = f"warning: not measured, since a few steps fail: {failure}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not probes:
        return plan
    plan = plan.with_probes(probes)
    shares = {f"{slot.gpus:g}" for slot in slots_on(plan, nodes).values() if slot.gpus}
    line = f"{counted(len(probes), 'kind')} of trials measured"
    console.print(line + (f"; of a GPU each takes {', '.join(sorted(shares))}" if shares else ""))
    return plan


@contextmanager
def mirrored(plan: Plan, args: argparse.Namespace, store: ResultStore) -> Iterator[Mirror | None]:
    """MLflow, brought up to date with what finished before; None with --no-mlflow."""
    if args.no_mlflow:
        yield None
        return
    by_name = sorted(plan.studies.items(), reverse=True)  # a shared one is the first's, as rebuilt
    study_of = {config.trial_id: name for name, configs in by_name for config in configs}
    trials = {i: (study_of[i], config) for i, config in plan.trials.items()}
    with Mirror(tracking_uri(args, store), trials, store.read_rows) as mirror:
        done = [i for i in plan.trials if plan.ledger.status(i) in ENDED and i not in plan.to_do]
        mirror.catch_up(done)
        yield mirror
    if mirror.error:
        uri = without_password(tracking_uri(args, store))
        argv = ["rebuild", "--results", args.results, "--tracking-uri", uri]
        print(
            f"warning: MLflow is incomplete ({mirror.error}); the Parquet files are not\n"
            f"to make it whole: {shlex.join(['python', '-m', 'orchestrator.tracking', *argv])}",
            file=sys.stderr,
        )


def _job(
    trial_id: str, slot: Slot, plan: Plan, args: argparse.Namespace, store: ResultStore
) -> Any:
    return {
        "trial_id": trial_id,
        "fields": plan.trials[trial_id].model_dump(exclude_none=True),
        "results": store.root if store.is_local else store.location,
        "data_dir": str(args.data_dir.resolve()),
        "download": args.download,
        "keep_checkpoints": args.keep_checkpoints,
        "plugins": list(plan.plugins),
        "plugin_path": os.getcwd(),
        "threads": max(int(slot.cpus), 1),
        "workers": slot.workers,
        "gpus": float(slot.gpus or 0),
    }


def tracking_uri(args: argparse.Namespace, store: ResultStore) -> str:
    """Where MLflow writes: what was asked for, else a file beside the results."""
    return args.tracking_uri or default_uri(store, os.getcwd())


def sweep(args: argparse.Namespace, console: Console) -> int:
    """Plan, run, summarise. Raises InputError before anything is written."""
    started = time.monotonic()
    store = ResultStore(args.results)
    if not args.dry_run or not store.is_local:  # an archive may be read-only
        store.check_writable()
    plan = make_plan(args, store)
    if args.dry_run:
        _dry_run(plan, args, store, console)
        return OK
    if not args.no_mlflow:
        check_uri(tracking_uri(args, store))  # before anything is written
    check_plan(plan, args, console)
    for name in plan.studies:
        read_plan(store, name)
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(args, console)) if plan.to_do else []
        check_fits((plan.slots[i].on(nodes) for i in plan.to_do), nodes)
        if plan.to_do:
            check_nodes(store)
        stack.enter_context(_only_sweep(store, console))
        plan = make_plan(args, store)  # again: another sweep may just have ended
        plan = measured(plan, args, store, console, nodes)
        store.remove_leftovers()
        for name, configs in plan.studies.items():
            write_plan(store, name, configs, args.argv)
        console.print(
            f"{', '.join(plan.studies)}: {counted(len(plan.trials), 'trial')}, {plan.done:,} done "
            f"before, {len(plan.to_do):,} to run, into {args.results}"
            + (f", on {resources(nodes)}" if nodes else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        tally = None
        with mirrored(plan, args, store) as mirror:
            if plan.to_do:
                tally = run_plan(plan, args, store, console, nodes, mirror)
        wall_s = time.monotonic() - started
        facts = {"wall time": duration(wall_s)}
        facts |= {"slots busy": tally.busy(wall_s)} if tally else {}
        if not args.no_mlflow:
            facts["mlflow"] = how_to_open(tracking_uri(args, store))
        facts |= write_analysis(store, console)
        all_finished = show_summary(plan, read_ledger(store), args, facts)
        return OK if all_finished else SOME_FAILED


def _dry_run(plan: Plan, args: argparse.Namespace, store: ResultStore, console: Console) -> None:
    """Show the plan; of a cluster only where one is named, or to measure on it."""
    named = (args.address or os.environ.get("RAY_ADDRESS")) not in (None, "", schedule.LOCAL)
    if not plan.to_do or not (args.probe or named):
        show_plan(plan, args, store, this_machine())
    else:
        if args.probe:
            check_plan(plan, args, console)
        with cluster(args, console) as nodes:
            if args.probe:
                check_fits((plan.slots[i].on(nodes) for i in plan.to_do), nodes)
                plan = measured(plan, args, store, console, nodes)
            show_plan(plan, args, store, nodes)
    if plan.to_do and not args.probe:
        print("not checked yet: models, their arguments, and data; --probe does it")


@contextmanager
def _only_sweep(store: ResultStore, console: Console) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            with console.status("waiting until no other sweep writes into the same results"):
                stack.enter_context(store.lock(SWEEP_LOCK, wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"another sweep is running into {store.location}; wait for it, or choose another "
                "--results"
            ) from error
        except WriteError as error:  # the first that is written, such as into a missing bucket
            raise InputError(f"--results {store.location}: {error}") from error
        yield
        store.remove_leftovers()  # of workers that were killed meanwhile


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    console = Console(quiet=args.quiet)
    try:
        with interrupt.raised():
            return sweep(args, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, schedule.ClusterLostError, WriteError) as end:
        print(
            f"{str(end) or 'interrupted'}; {schedule.SAFE}. To continue: "
            f"{continue_command(args.argv)}",
            file=sys.stderr,
        )
        return INTERRUPTED


def entry() -> NoReturn:
    """The console command."""
    collect_garbage_seldom()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run_main(main)
    gc.freeze()  # or Python's last act is to look through everything once more, for over a second
    raise SystemExit(code)


if __name__ == "__main__":
    entry()
