"""How a sweep runs: on a cluster that it joins, into results that it has to itself, measured first
where that is asked for, and again with more memory for trials that had too little.

What happens in which order is `orchestrator.sweep`'s to say; how Ray Tune runs jobs is in `tune`.
"""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from rich.console import Console

from analysis.store.errors import InputError, WriteError
from analysis.store.location import without_password
from analysis.store.locks import SWEEP_LOCK
from analysis.store.results import ResultStore
from orchestrator.options import Options
from orchestrator.plan.ledger import forget
from orchestrator.plan.packing import check_all_fit, larger_after_oom, slots_on, to_probe
from orchestrator.plan.plan import Plan, check_plan, make_plan
from orchestrator.plan.recorded import read_recorded, write_recorded
from orchestrator.plan.slots import Node, Slot
from orchestrator.run import connection, tune
from orchestrator.run.nodes import check_nodes
from orchestrator.run.reporter import ENDED, Reporter
from orchestrator.terminal.dry_run import compiling_in_words, name_of_kind
from orchestrator.terminal.progress import SweepProgress
from orchestrator.terminal.tally import Tally
from orchestrator.terminal.words import counted, nodes_in_words
from orchestrator.tracking.ended import ended_trials
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.uris import check_uri, default_uri, is_own, why_without

if TYPE_CHECKING:
    from trainers.ray_worker import Job


class Session:
    """A sweep from its plan to its last trial. A dry run uses the part before anything runs."""

    def __init__(self, options: Options, store: ResultStore, console: Console) -> None:
        """`store`: where the results go; `console`: where the sweep is followed."""
        self.options = options
        self.store = store
        self.console = console
        self._stamps: dict[str, str] = {}

    @property
    def tracking_uri(self) -> str:
        """Where MLflow writes: what was asked for, else a file beside the results."""
        return self.options.where.tracking_uri or self._own_uri

    @property
    def _own_uri(self) -> str:
        return default_uri(self.store, os.getcwd())

    @cached_property
    def without_mlflow(self) -> str | None:
        """Why the sweep goes on without MLflow, if it must; looked into once."""
        return why_without(self.tracking_uri, default=self._own_uri)

    def planned(self) -> Plan:
        """What is left to do by now. Raises InputError."""
        return make_plan(self.options.what, self.store, resources=self.options.resources)

    def check(self, plan: Plan) -> None:
        """Look at models and data; prints notes on them. Raises InputError for what can't run."""
        if plan.to_do:
            with self.console.status("checking models and data"):
                notes = check_plan(plan, self.options.where)
            for note in notes:
                self.console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def cluster(self) -> Iterator[Sequence[Node]]:
        """The nodes of the cluster, connected. Raises InputError if there is none."""
        try:
            with self.console.status("starting Ray"):
                nodes = connection.connect(self.options.resources.address)
            yield nodes
        finally:
            connection.disconnect()

    def measured(self, plan: Plan, nodes: Sequence[Node]) -> Plan:
        """The plan with what a few steps tell of kinds that never ran, where that is asked for."""
        wanted = to_probe(plan, nodes, all_kinds=self.options.show.probe)
        if not wanted:
            return plan
        slots = {kind: plan.requests[i].on(nodes) for kind, i in wanted.items()}
        jobs = {kind: self._job(plan, i, slots[kind]) for kind, i in wanted.items()}
        with self.console.status(f"running a few steps of {counted(len(jobs), 'kind')} of trials"):
            probes, failures = tune.measure(jobs, slots)
        for failure in failures:
            line = f"warning: not measured, since a few steps fail: {failure}"
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        if not probes:
            return plan
        plan = plan.with_probes(probes)
        shares = sorted({f"{slot.gpus:g}" for slot in slots_on(plan, nodes).values() if slot.gpus})
        line = f"{counted(len(probes), 'kind')} of trials measured"
        self.console.print(line + (f"; of a GPU each takes {', '.join(shares)}" if shares else ""))
        for kind, i in wanted.items():
            words = None if self.options.show.dry_run else compiling_in_words(plan, kind)
            if words:  # a dry run says it beside the kind
                line = f"  {name_of_kind(plan.trials[i])}: {words}"
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        return plan

    @contextmanager
    def opened(self, plan: Plan) -> Iterator[tuple[Plan, Sequence[Node]]]:
        """All checked, the cluster joined, the results this sweep's alone: the plan as it is then,
        and the nodes.

        Raises InputError before anything is written.
        """
        if self.options.where.mlflow:
            check_uri(self.tracking_uri, default=self._own_uri)
            if reason := self.without_mlflow:
                print(f"warning: the sweep goes on without MLflow: {reason}", file=sys.stderr)
        self.check(plan)
        for name in plan.studies:
            read_recorded(self.store, name)
        with ExitStack() as stack:
            nodes = stack.enter_context(self.cluster()) if plan.to_do else []
            if plan.to_do:
                check_all_fit(plan, nodes)
                check_nodes(self.store)
            stack.enter_context(_only_sweep(self.store, self.console))
            plan = self.measured(self.planned(), nodes)  # again: another may just have ended
            self._record(plan, nodes)
            yield plan, nodes

    def _record(self, plan: Plan, nodes: Sequence[Node]) -> None:
        """Keep the studies' grids beside the results, and say what is about to run."""
        self.store.remove_leftovers()
        for name, configs in plan.studies.items():
            write_recorded(self.store, name, configs, self.options.argv)
        self.console.print(
            f"{', '.join(plan.studies)}: {counted(len(plan.trials), 'trial')}, {plan.done:,} done "
            f"before, {len(plan.to_do):,} to run, into {self.options.where.results}"
            + (f", on {nodes_in_words(nodes)}" if nodes else ""),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def run(self, plan: Plan, nodes: Sequence[Node]) -> Tally | None:
        """Train what is left to do, and count it; None where that is nothing.

        How each trial ended is in the store by then.
        """
        with self._mirrored(plan) as mirror:
            if not plan.to_do:
                return None
            slots = slots_on(plan, nodes)
            self._forget_what_runs_again(plan)  # nothing that a user can get wrong comes after it
            to_do = {i: plan.trials[i] for i in plan.to_do}
            sizes = {i: slot.size for i, slot in slots.items()}
            tally = Tally(to_do, plan.kinds, sizes=sizes, before=plan.ledger.costs)
            with SweepProgress(tally, console=self.console) as progress:
                self._train(plan, slots, Reporter(to_do, self.store, progress, mirror))
        return tally

    def _forget_what_runs_again(self, plan: Plan) -> None:
        """Remove what --rerun asks to redo, so that it is new where the sweep ends before it."""
        if rerun := self.options.what.rerun:
            ended = [i for i in plan.to_do if plan.ledger.status(i)]
            forget(self.store, [i for i in ended if rerun in ("all", plan.ledger.status(i))])

    def _train(self, plan: Plan, slots: Mapping[str, Slot], reporter: Reporter) -> None:
        """Every trial once; then those whose part of a GPU was too small, with more of it."""
        # What a sweep before this one found too small, and ended before it tried more.
        from_before = larger_after_oom(slots, plan.ledger, plan.to_do)
        self._run_jobs(plan, {i: from_before.get(i, slots[i]) for i in plan.to_do}, reporter)
        while larger := larger_after_oom(slots, reporter.failed(), plan.to_do):
            line = f"{counted(len(larger), 'trial')} ran out of memory; again, with twice its share"
            self.console.print(line, highlight=False, soft_wrap=True)
            self._run_jobs(plan, larger, reporter)

    def _run_jobs(self, plan: Plan, slots: Mapping[str, Slot], reporter: Reporter) -> None:
        resources = self.options.resources
        tune.run(
            [(self._job(plan, i, slot), slot) for i, slot in slots.items()],
            max_concurrent=resources.max_concurrent,
            retries=resources.retries,
            listener=reporter,
        )

    def _job(self, plan: Plan, trial_id: str, slot: Slot) -> "Job":
        where = self.options.where
        return {
            "trial_id": trial_id,
            "fields": plan.trials[trial_id].model_dump(exclude_none=True),
            "results": self.store.root if self.store.is_local else self.store.location,
            "data_dir": str(where.data_dir.resolve()),
            "data_stamp": self._stamp(plan.trials[trial_id].dataset),
            "download": where.download,
            "keep_checkpoints": where.keep_checkpoints,
            "plugins": list(plan.plugins),
            "plugin_path": os.getcwd(),
            "threads": max(int(slot.cpus), 1),
            "workers": slot.workers,
            "gpus": slot.gpus,
        }

    def _stamp(self, dataset: str) -> str:
        """Of a dataset's files, looked at once: to list a million of them takes minutes."""
        if dataset not in self._stamps:
            from trainers.run.check import stamp_of

            self._stamps[dataset] = stamp_of(dataset, self.options.where.data_dir.resolve())
        return self._stamps[dataset]

    @contextmanager
    def _mirrored(self, plan: Plan) -> Iterator[Mirror | None]:
        """MLflow, brought up to date with what finished before; None if the sweep does without."""
        if not self.options.where.mlflow or self.without_mlflow:
            yield None
            return
        by_name = sorted(plan.studies.items(), reverse=True)  # a shared one is the first's
        study_of = {config.trial_id: name for name, configs in by_name for config in configs}
        trials = {i: (study_of[i], config) for i, config in plan.trials.items()}
        left = {*plan.to_do}

        def all_ended() -> dict[str, str]:
            return {i: study for i, study in ended_trials(self.store).items() if i not in left}

        uri, read = self.tracking_uri, self.store.read_rows
        own = all_ended if is_own(uri, self._own_uri) else None
        with Mirror(uri, trials, read, all_ended=own) as mirror:
            ended = (i for i in plan.trials if plan.ledger.status(i) in ENDED)
            mirror.catch_up(i for i in ended if i not in left)
            yield mirror
        if mirror.notice:
            print(f"warning: {mirror.notice}", file=sys.stderr)
        if mirror.error:
            argv = ["rebuild", "--results", self.options.where.results]
            argv += ["--tracking-uri", without_password(uri)]
            print(
                f"warning: MLflow is incomplete ({mirror.error}); the Parquet files are not\n"
                f"to make it whole: {shlex.join(['python', '-m', 'orchestrator.tracking', *argv])}",
                file=sys.stderr,
            )


@contextmanager
def _only_sweep(store: ResultStore, console: Console) -> Iterator[None]:
    """The results, which no other sweep writes into meanwhile. Raises InputError if one does."""
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
