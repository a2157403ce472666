"""Entry point: studies -> trials -> Ray Tune -> Parquet -> tables. Run it twice, and it carries on.

`ray submit` copies this one file and runs it alone: all else it imports from the installed package.
"""

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
from orchestrator.options import Options, Resources, Where, parse_options
from orchestrator.plan.ledger import forget, read_ledger
from orchestrator.plan.packing import larger_after_oom, slots_on, to_probe
from orchestrator.plan.plan import Plan, check_plan, make_plan
from orchestrator.plan.recorded import continue_command, read_plan, write_plan
from orchestrator.plan.slots import Node, Slot, check_fits
from orchestrator.plan.slots import resources as resources_in_words
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
    options: Options,
    *,
    store: ResultStore,
    console: Console,
    nodes: Sequence[Node],
    mirror: Mirror | None,
) -> Tally:
    """Train what is left to do, and count it. How each trial ended is in the store by then."""
    slots = slots_on(plan, nodes)
    if (
        rerun := options.what.rerun
    ):  # only now: nothing that the user can get wrong comes after this
        again = [i for i in plan.to_do if rerun in ("all", plan.ledger.status(i))]
        forget(store, [i for i in again if plan.ledger.status(i)])  # so that what is left is new
    to_do = {i: plan.trials[i] for i in plan.to_do}
    sizes = {i: slot.size for i, slot in slots.items()}
    tally = Tally(to_do, plan.kinds, sizes=sizes, before=plan.ledger.costs)
    with SweepProgress(tally, console=console) as progress:
        reporter = Reporter(to_do, store, progress, mirror)

        def run(slots: Mapping[str, Slot]) -> None:
            jobs = [
                (_job(i, slot, plan, store=store, where=options.where), slot)
                for i, slot in slots.items()
            ]
            schedule.run(
                jobs,
                max_concurrent=options.resources.max_concurrent,
                retries=options.resources.retries,
                listener=reporter,
            )

        owed = larger_after_oom(slots, plan.ledger, plan.to_do)  # by a sweep that was ended
        reporter.give_most(owed)
        reporter.give_most(i for i in plan.to_do if slots[i].gpus >= 1)
        run({i: owed.get(i, slots[i]) for i in plan.to_do})
        larger = larger_after_oom(slots, reporter.failed(), plan.to_do)
        if larger:
            line = f"{counted(len(larger), 'trial')} ran out of memory; again, with twice its share"
            console.print(line, highlight=False, soft_wrap=True)
            reporter.give_most(larger)
            run(larger)
    return tally


@contextmanager
def cluster(resources: Resources, console: Console) -> Iterator[Sequence[Node]]:
    """The nodes of the cluster, connected. Raises InputError if there is none."""
    try:
        with console.status("starting Ray"):
            nodes = schedule.connect(resources.address)
        yield nodes
    finally:
        schedule.disconnect()


def measured(
    plan: Plan,
    nodes: Sequence[Node],
    *,
    options: Options,
    store: ResultStore,
    console: Console,
) -> Plan:
    """The plan with what a few steps tell of kinds that never ran, where that is asked for."""
    wanted = to_probe(plan, nodes, all_kinds=options.show.probe)
    if not wanted:
        return plan
    jobs, slots = {}, {}
    for kind, i in wanted.items():
        slots[kind] = plan.requests[i].on(nodes)
        jobs[kind] = _job(i, slots[kind], plan, store=store, where=options.where)
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
def mirrored(plan: Plan, where: Where, *, store: ResultStore) -> Iterator[Mirror | None]:
    """MLflow, brought up to date with what finished before; None with --no-mlflow."""
    if not where.mlflow:
        yield None
        return
    by_name = sorted(plan.studies.items(), reverse=True)  # a shared one is the first's, as rebuilt
    study_of = {config.trial_id: name for name, configs in by_name for config in configs}
    trials = {i: (study_of[i], config) for i, config in plan.trials.items()}
    with Mirror(tracking_uri(where, store), trials, store.read_rows) as mirror:
        done = [i for i in plan.trials if plan.ledger.status(i) in ENDED and i not in plan.to_do]
        mirror.catch_up(done)
        yield mirror
    if mirror.error:
        uri = without_password(tracking_uri(where, store))
        argv = ["rebuild", "--results", where.results, "--tracking-uri", uri]
        print(
            f"warning: MLflow is incomplete ({mirror.error}); the Parquet files are not\n"
            f"to make it whole: {shlex.join(['python', '-m', 'orchestrator.tracking', *argv])}",
            file=sys.stderr,
        )


def _job(trial_id: str, slot: Slot, plan: Plan, *, store: ResultStore, where: Where) -> Any:
    return {
        "trial_id": trial_id,
        "fields": plan.trials[trial_id].model_dump(exclude_none=True),
        "results": store.root if store.is_local else store.location,
        "data_dir": str(where.data_dir.resolve()),
        "download": where.download,
        "keep_checkpoints": where.keep_checkpoints,
        "plugins": list(plan.plugins),
        "plugin_path": os.getcwd(),
        "threads": max(int(slot.cpus), 1),
        "workers": slot.workers,
    }


def tracking_uri(where: Where, store: ResultStore) -> str:
    """Where MLflow writes: what was asked for, else a file beside the results."""
    return where.tracking_uri or default_uri(store, os.getcwd())


def sweep(options: Options, console: Console) -> int:
    """Plan, run, summarise. Raises InputError before anything is written."""
    started = time.monotonic()
    what, where, resources = options.what, options.where, options.resources
    store = ResultStore(where.results)
    if not options.show.dry_run or not store.is_local:  # an archive may be read-only
        store.check_writable()
    plan = make_plan(what, store, resources=resources)
    if options.show.dry_run:
        _dry_run(plan, options, store=store, console=console)
        return OK
    if where.mlflow:
        check_uri(tracking_uri(where, store))  # before anything is written
    _check_plan(plan, where, console)
    for name in plan.studies:
        read_plan(store, name)
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(resources, console)) if plan.to_do else []
        check_fits((plan.requests[i].on(nodes) for i in plan.to_do), nodes)
        if plan.to_do:
            check_nodes(store)
        stack.enter_context(_only_sweep(store, console))
        plan = make_plan(what, store, resources=resources)  # again: another may just have ended
        plan = measured(plan, nodes, options=options, store=store, console=console)
        store.remove_leftovers()
        for name, configs in plan.studies.items():
            write_plan(store, name, configs, options.argv)
        console.print(
            f"{', '.join(plan.studies)}: {counted(len(plan.trials), 'trial')}, {plan.done:,} done "
            f"before, {len(plan.to_do):,} to run, into {where.results}"
            + (f", on {resources_in_words(nodes)}" if nodes else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        tally = None
        with mirrored(plan, where, store=store) as mirror:
            if plan.to_do:
                tally = run_plan(
                    plan, options, store=store, console=console, nodes=nodes, mirror=mirror
                )
        wall_s = time.monotonic() - started
        facts = {"wall time": duration(wall_s)}
        facts |= {"slots busy": tally.busy(wall_s)} if tally else {}
        if where.mlflow:
            facts["mlflow"] = how_to_open(tracking_uri(where, store))
        facts |= write_analysis(store, console)
        all_finished = show_summary(plan, read_ledger(store), argv=options.argv, facts=facts)
        return OK if all_finished else SOME_FAILED


def _check_plan(plan: Plan, where: Where, console: Console) -> None:
    if plan.to_do:
        with console.status("checking models and data"):
            check_plan(plan, where)


def _dry_run(plan: Plan, options: Options, *, store: ResultStore, console: Console) -> None:
    """Show the plan; of a cluster only where one is named, or to measure on it."""
    resources, show = options.resources, options.show

    def shown_on(plan: Plan, nodes: Sequence[Node]) -> None:
        most = resources.max_concurrent
        show_plan(plan, store, nodes=nodes, max_concurrent=most, quiet=show.quiet)

    named = (resources.address or os.environ.get("RAY_ADDRESS")) not in (None, "", schedule.LOCAL)
    if not plan.to_do or not (show.probe or named):
        shown_on(plan, this_machine())
    else:
        if show.probe:
            _check_plan(plan, options.where, console)
        with cluster(resources, console) as nodes:
            if show.probe:
                check_fits((plan.requests[i].on(nodes) for i in plan.to_do), nodes)
                plan = measured(plan, nodes, options=options, store=store, console=console)
            shown_on(plan, nodes)
    if plan.to_do and not show.probe:
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
    words = sys.argv[1:] if argv is None else argv
    try:
        options = parse_options(words)
        with interrupt.raised():
            return sweep(options, Console(quiet=options.show.quiet))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, schedule.ClusterLostError, WriteError) as end:
        print(
            f"{str(end) or 'interrupted'}; {schedule.SAFE}. To continue: {continue_command(words)}",
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
