"""Entry point: studies -> trials -> Ray Tune -> Parquet -> tables. Run it twice, and it carries on.

`ray submit` copies this one file and runs it alone: all else it imports from the installed package.
"""

import argparse
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from orchestrator import schedule
from orchestrator.ledger import Ledger, forget, read_ledger
from orchestrator.plan_file import read_plan, rerun_command, write_plan
from orchestrator.progress import SweepProgress, duration
from orchestrator.study import check_excludes, expand, load_study, override, parse_yaml
from orchestrator.summary import in_lines, write_analysis
from orchestrator.tracking import Mirror
from trainers.command_line import Parser
from trainers.config import TrialConfig
from trainers.registry import InputError, load_plugins
from trainers.results import ResultStore

OK, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
ENDED = ("finished", "failed", "diverged")
TRACKING_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
LEAST = {
    "limit": 1,
    "epochs": 1,
    "max_concurrent": 1,
    "retries": 0,
    "workers": 1,
    "cpus_per_worker": 0.01,  # Ray counts in ten-thousandths
    "gpus_per_worker": 0,
}
EXAMPLES = """examples:
  python orchestrator/sweep.py                          the digits study, into results/
  python orchestrator/sweep.py --study ufm --dry-run    what would run, and for how long
  python orchestrator/sweep.py --study neural_collapse --seeds 0 1 2 --data-dir /data
  python orchestrator/sweep.py --set epochs=5 --set 'loss=[ce, bce]' --limit 4
  python orchestrator/sweep.py --study my_study.yaml --results s3://bucket/run1
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, as `docs` and `--help` have it."""
    parser = Parser(
        prog="sweep.py",
        description="Run every trial of a study that is not done yet, then print the tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", action="append", metavar="NAME_OR_YAML", help="repeatable; default: digits")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a field in all grids; a list makes an axis; repeatable")  # fmt: skip
    add("--seeds", type=int, nargs="+", help="the seeds to run, instead of the study's")
    add("--epochs", type=int, help="epochs of every trial, instead of the study's")
    add("--limit", type=int, metavar="N", help="only the first N trials of the plan")
    add("--results", default="results", metavar="PATH_OR_URI", help="default: results")
    add("--data-dir", type=Path, default=Path("data"), metavar="PATH", help="default: data")
    add("--download", action=argparse.BooleanOptionalAction, default=True,
        help="fetch a dataset that is not in --data-dir (default: yes)")  # fmt: skip
    add("--dry-run", action="store_true", help="show the plan and touch nothing")
    add("--rerun", choices=("failed", "diverged", "all"), help="run these again too")
    add("--max-concurrent", type=int, metavar="N", help="trials at once; default: what fits")
    add("--workers", type=int, default=1, metavar="N",
        help="processes that share a trial, by DDP; default: 1")  # fmt: skip
    add("--cpus-per-worker", type=float, default=1, metavar="N", help="default: 1")
    add("--gpus-per-worker", type=float, metavar="N",
        help="a fraction lets trials share a GPU; default: 1 where there are any")  # fmt: skip
    add("--address", help="Ray cluster; default: the running one, else one started here")
    add("--retries", type=int, default=3, metavar="N",
        help="how often a trial whose worker died is tried again; default: 3")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="also of finished trials")
    add("--tracking-uri", metavar="URI", help="MLflow; default: mlflow.db in the results")
    add("--no-mlflow", action="store_true", help="do without MLflow")
    add("--quiet", action="store_true", help="print the summary alone")
    add("--version", action="version", version=f"%(prog)s {version('collapse-grid')}")
    args = parser.parse_args(argv)
    args.study = args.study or ["digits"]
    return args


@dataclass(frozen=True)
class Plan:
    """What was asked for, and what of it is left to do."""

    studies: Mapping[str, Sequence[TrialConfig]]
    trials: Mapping[str, TrialConfig]
    to_do: Sequence[str]
    ledger: Ledger
    plugins: Sequence[str]

    @property
    def done(self) -> int:
        """Trials of the plan that need not run."""
        return len(self.trials) - len(self.to_do)


def make_plan(args: argparse.Namespace, store: ResultStore) -> Plan:
    """Everything that can be known before anything is started. Raises InputError."""
    settings = _settings(args)
    trials: dict[str, TrialConfig] = {}
    studies: dict[str, list[TrialConfig]] = {}
    plugins: list[str] = []
    if os.getcwd() not in sys.path:  # a user's plugins lie where they work
        sys.path.insert(0, os.getcwd())
    for name in args.study:
        study = load_study(name)
        load_plugins(study.plugins)
        plugins += study.plugins
        check_excludes(study)
        planned = expand(override(study, settings))
        room = max(args.limit - len(trials), 0) if args.limit is not None else len(planned)
        new = [i for i in planned if i not in trials][:room]
        trials |= {i: planned[i] for i in new}
        kept = [config for i, config in planned.items() if i in trials]
        if kept:  # two files may bear one name
            studies[study.name] = studies.get(study.name, []) + kept
    ledger = read_ledger(store)
    return Plan(studies, trials, ledger.to_do(trials, args.rerun), ledger, plugins)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise InputError(f"--{name.replace('_', '-')} {value:g} must be at least {least:g}")
    settings: dict[str, Any] = {}
    for text in args.settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write it as key=value")
        settings[key.strip()] = parse_yaml(value, where=f"--set {text}")
    if args.seeds is not None:
        settings["seed"] = list(args.seeds)
    if args.epochs is not None:
        settings["epochs"] = args.epochs
    return settings


def check_plan(plan: Plan, args: argparse.Namespace, console: Console) -> None:
    """Check models and data of what is to run, here, before many workers do. Raises InputError."""
    if not plan.to_do:
        return
    with console.status("checking models and data"):
        from trainers.check import check_trials  # takes torch, which takes seconds to import

        check_trials(
            [plan.trials[i] for i in plan.to_do],
            data_dir=args.data_dir.resolve(),
            download=args.download,
            workers=args.workers,
        )


def show_plan(plan: Plan, args: argparse.Namespace, console: Console) -> None:
    """The dry run: what would happen."""
    for i, config in plan.trials.items():
        state = plan.ledger.status(i) or "new"
        axes = " ".join(f"{k}={v}" for k, v in config.row().items() if v is not None)
        console.print(f"{i} {state:9} {axes}", highlight=False, markup=False, soft_wrap=True)
    gpus = "a whole GPU if there is one"
    if args.gpus_per_worker is not None:
        gpus = f"{args.gpus_per_worker:g} GPU"
    for line in (
        f"{len(plan.trials)} trials, {plan.done} done, {len(plan.to_do)} to run",
        f"each takes {args.workers} x {args.cpus_per_worker:g} CPU and {gpus}",
        _estimate(plan, slots=os.cpu_count() or 1),
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _estimate(plan: Plan, slots: int) -> str:
    seconds = []
    for i in plan.to_do:
        config = plan.trials[i]
        each = plan.ledger.seconds_per_epoch(config)
        if each is None:
            return (
                "estimated wall time: unknown; no finished trial of this kind (for example "
                f"{config.dataset} {config.model} {config.optimizer}) is in the results"
            )
        seconds.append(each * config.epochs)
    return (
        f"estimated wall time: {duration(sum(seconds) / slots)} on {slots} slots, from the mean "
        "time per epoch of finished trials of the same kind"
    )


class Listener:
    """Passes what workers report on to the terminal and to MLflow."""

    def __init__(
        self,
        trials: Mapping[str, TrialConfig],
        store: ResultStore,
        progress: SweepProgress,
        mirror: Mirror | None,
    ) -> None:
        self._trials = trials
        self._store = store
        self._progress = progress
        self._mirror = mirror

    def rows(self, trial_id: str, rows: list[dict[str, Any]]) -> None:
        """New epochs of a trial."""
        self._progress.rows(trial_id, rows)
        if self._mirror:
            self._mirror.rows(trial_id, rows)

    def ended(self, trial: dict[str, Any]) -> None:
        """A trial's last row."""
        self._progress.ended(trial)
        if self._mirror:
            self._mirror.ended(trial, self._store.read_rows("epochs", trial["trial_id"]))

    def lost(self, trial_id: str, reason: str) -> None:
        """Record a trial whose worker died each time: it could not do so itself."""
        rows = self._store.read_rows("trials", trial_id)
        trial = rows[0] if rows else {"trial_id": trial_id, **self._trials[trial_id].row()}
        trial |= {"status": "failed", "reason": f"its worker died each time: {reason}"}
        self._store.write_rows("trials", trial_id, [trial])
        self.ended(trial)


def run_plan(
    plan: Plan,
    args: argparse.Namespace,
    store: ResultStore,
    console: Console,
    capacity: Mapping[str, float],
    mirror: Mirror | None,
) -> None:
    """Train what is left to do. How each trial ended is in the store by then."""
    if args.rerun == "all":  # only now: nothing that the user can get wrong comes after this
        forget(store, (i for i in plan.to_do if plan.ledger.status(i)))
    to_do = {i: plan.trials[i] for i in plan.to_do}
    with SweepProgress(to_do, console=console) as progress:
        schedule.run(
            [_job(config, plan, args, store) for config in to_do.values()],
            resources=_resources(args),
            capacity=capacity,
            listener=Listener(to_do, store, progress, mirror),
        )


def _resources(args: argparse.Namespace) -> schedule.Resources:
    return schedule.Resources(
        args.workers,
        args.cpus_per_worker,
        args.gpus_per_worker,
        args.max_concurrent,
        args.retries,
    )


@contextmanager
def cluster(args: argparse.Namespace, console: Console) -> Iterator[Mapping[str, float]]:
    """What a cluster has to give, connected. Raises InputError unless a trial fits on it."""
    with console.status("starting Ray"):
        capacity = schedule.connect(args.address)
    try:
        _resources(args).on(capacity)
        yield capacity
    finally:
        schedule.disconnect()


@contextmanager
def mirrored(
    plan: Plan, args: argparse.Namespace, store: ResultStore, console: Console
) -> Iterator[Mirror | None]:
    """MLflow, brought up to date with what finished before; None with --no-mlflow."""
    if args.no_mlflow:
        yield None
        return
    study_of = {c.trial_id: name for name, configs in plan.studies.items() for c in configs}
    trials = {i: (study_of[i], config) for i, config in plan.trials.items()}
    with Mirror(tracking_uri(args, store), trials) as mirror:
        done = [i for i in plan.trials if plan.ledger.status(i) in ENDED and i not in plan.to_do]
        mirror.catch_up(done, store.read_rows)
        yield mirror
    if mirror.error:
        line = f"warning: MLflow is incomplete ({mirror.error}); the Parquet files are not"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _job(config: TrialConfig, plan: Plan, args: argparse.Namespace, store: ResultStore) -> Any:
    return {
        "fields": config.model_dump(exclude_none=True),
        "results": store.root if store.is_local else store.location,
        "data_dir": str(args.data_dir.resolve()),
        "download": args.download,
        "keep_checkpoints": args.keep_checkpoints,
        "plugins": list(plan.plugins),
        "plugin_path": os.getcwd(),
        "threads": max(int(args.cpus_per_worker), 1),
        "workers": args.workers,
    }


def tracking_uri(args: argparse.Namespace, store: ResultStore) -> str:
    """Where MLflow writes: what was asked for, else a file beside the results."""
    if args.tracking_uri is not None:
        scheme, colon, _ = args.tracking_uri.partition(":")
        if not colon or scheme.partition("+")[0] not in TRACKING_SCHEMES:
            raise InputError(
                f"--tracking-uri {args.tracking_uri!r} must begin with one of "
                f"{', '.join(s + ':' for s in TRACKING_SCHEMES)}"
            )
        return args.tracking_uri
    folder = store.root if store.is_local else os.getcwd()
    return f"sqlite:///{folder}/mlflow.db"


def show_summary(
    plan: Plan, args: argparse.Namespace, store: ResultStore, console: Console, elapsed_s: float
) -> int:
    """Tables, figures and the summary table, from what is in the store now. The exit code."""
    ledger = read_ledger(store)
    ended = Counter(ledger.status(i) for i in plan.trials)
    bad = {i: ledger.rows[i] for i in plan.trials if ledger.status(i) in ("failed", "diverged")}
    facts = {
        "finished": f"{ended['finished']} of {len(plan.trials)} trials ({plan.done} before)",
        "failed": f"{ended['failed']}, diverged {ended['diverged']}",
        "wall time": duration(elapsed_s),
    }
    facts |= write_analysis(store, console)
    if not args.no_mlflow:
        facts["mlflow"] = f"mlflow ui --backend-store-uri {tracking_uri(args, store)}"
    for trial_id, row in bad.items():
        line = f"{trial_id} {row['status']}: {row['reason']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if bad:
        kind = "failed" if ended["failed"] else "diverged"
        facts["next"] = rerun_command(args.argv, "--rerun", kind)
    else:
        facts["next"] = f"python -m analysis.tables --results {shlex.quote(args.results)}"
    print(in_lines(facts))  # also with --quiet
    return OK if ended["finished"] == len(plan.trials) else SOME_FAILED


def sweep(args: argparse.Namespace, console: Console) -> int:
    """Plan, run, summarise. Raises InputError before anything is written."""
    store = ResultStore(args.results)
    store.check_writable()
    plan = make_plan(args, store)
    if args.dry_run:
        show_plan(plan, args, console)
        return OK
    tracking_uri(args, store)  # a wrong one, too, is found before anything is written
    check_plan(plan, args, console)
    for name in plan.studies:
        read_plan(store, name)
    with ExitStack() as stack:
        capacity = stack.enter_context(cluster(args, console)) if plan.to_do else {}
        stack.enter_context(_only_sweep(store))
        plan = make_plan(args, store)  # again: another sweep may just have ended
        store.remove_leftovers()
        for name, configs in plan.studies.items():
            write_plan(store, name, configs, args.argv)
        console.print(
            f"{', '.join(plan.studies)}: {len(plan.trials)} trials, {plan.done} done before, "
            f"{len(plan.to_do)} to run, into {args.results}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        started = time.monotonic()
        with mirrored(plan, args, store, console) as mirror:
            if plan.to_do:
                run_plan(plan, args, store, console, capacity, mirror)
        return show_summary(plan, args, store, console, time.monotonic() - started)


@contextmanager
def _only_sweep(store: ResultStore) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(store.lock(".sweep.lock", wait=False))
        except BlockingIOError as error:
            raise InputError(
                f"another sweep is running into {store.location}; wait for it, or choose another "
                "--results"
            ) from error
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    args = parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    console = Console(quiet=args.quiet)
    try:
        return sweep(args, console)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, schedule.ClusterLostError) as end:
        print(
            f"{str(end) or 'interrupted'}; every finished epoch is safe. To continue: "
            f"{rerun_command(args.argv)}",
            file=sys.stderr,
        )
        return INTERRUPTED


def entry() -> NoReturn:
    """The console command."""
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
