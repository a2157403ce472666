"""What a sweep would do: its trials, which of them are done, and how long the rest may take."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from orchestrator.ledger import Ledger, read_ledger
from orchestrator.progress import duration
from orchestrator.study import check_excludes, expand, load_study, override, parse_yaml
from trainers.config import TrialConfig
from trainers.registry import InputError, load_plugins
from trainers.results import ResultStore

LEAST: Final = {
    "limit": 1,
    "epochs": 1,
    "max_concurrent": 1,
    "retries": 0,
    "workers": 1,
    "cpus_per_worker": 0.01,  # Ray counts in ten-thousandths
    "gpus_per_worker": 0,
}


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
