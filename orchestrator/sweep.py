"""Entry point: studies -> trials -> Ray Tune -> Parquet -> tables. Run it twice, and it carries on.

`ray submit` copies this one file and runs it alone: all else it imports from the installed package.
"""

import gc
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from rich.console import Console

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # see orchestrator.run.interrupt
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports: nothing to save or to show

from analysis.store.command_line import outlive_listeners, run_main
from analysis.store.errors import InputError, WriteError
from analysis.store.results import ResultStore
from orchestrator.options import Options, parse_options
from orchestrator.plan.ledger import read_ledger
from orchestrator.plan.packing import check_all_fit
from orchestrator.plan.plan import Plan
from orchestrator.plan.recorded import continue_command
from orchestrator.plan.slots import Node
from orchestrator.run import connection, interrupt
from orchestrator.run.session import Session
from orchestrator.terminal.dry_run import show_plan, this_machine
from orchestrator.terminal.summary import show_summary, write_analysis
from orchestrator.terminal.words import duration
from orchestrator.tracking.uris import how_to_open
from trainers.run.memory import collect_garbage_seldom

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def sweep(options: Options, console: Console) -> int:
    """Plan, run, summarise. Raises InputError before anything is written."""
    started = time.monotonic()
    store = ResultStore(options.where.results)
    if not options.show.dry_run or not store.is_local:  # an archive may be read-only
        store.check_writable()
    session = Session(options, store, console)
    plan = session.planned()
    if options.show.dry_run:
        dry_run(plan, session)
        return OK
    with session.opened(plan) as (plan, nodes):
        tally = session.run(plan, nodes)
        wall_s = time.monotonic() - started
        facts = {"wall time": duration(wall_s)}
        facts |= {"slots busy": tally.busy_in_words(wall_s)} if tally else {}
        if options.where.mlflow:
            reason = session.without_mlflow
            opened = how_to_open(session.tracking_uri)
            facts["mlflow"] = f"not written: {reason}" if reason else opened
        facts |= write_analysis(store, console)
        all_finished = show_summary(plan, read_ledger(store), argv=options.argv, facts=facts)
    return OK if all_finished else SOME_FAILED


def dry_run(plan: Plan, session: Session) -> None:
    """Show the plan; of a cluster only where one is named, or to measure on it."""
    resources, show = session.options.resources, session.options.show
    nodes: Sequence[Node] = this_machine()
    with ExitStack() as stack:
        if plan.to_do and (show.probe or connection.names_cluster(resources.address)):
            if show.probe:
                session.check(plan)
            nodes = stack.enter_context(session.cluster())
            if show.probe:
                check_all_fit(plan, nodes)
                plan = session.measured(plan, nodes)
        most = resources.max_concurrent
        show_plan(plan, session.store, nodes=nodes, max_concurrent=most, quiet=show.quiet)
    if plan.to_do and not show.probe:
        print("not checked yet: models, their arguments, and data; --probe does it")


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
    except (KeyboardInterrupt, connection.ClusterLostError, WriteError) as end:
        reason = str(end) or "interrupted"
        command = continue_command(words)
        print(f"{reason}; {connection.SAFE}. To continue: {command}", file=sys.stderr)
        return INTERRUPTED


def entry() -> NoReturn:
    """The console command."""
    outlive_listeners()
    collect_garbage_seldom()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = run_main(main)
    gc.freeze()  # or Python's last act is to look through everything once more, for over a second
    raise SystemExit(code)


if __name__ == "__main__":
    entry()
