"""What a sweep would do: its trials, which of them are done, and what each takes."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.plan.ledger import Cost, Kind, Ledger, read_ledger
from orchestrator.plan.order import by_kind, running_order
from orchestrator.plan.slots import AUTO, SLOT_KEYS, Slot, parse_slot
from orchestrator.plan.study import Study, check_blocks, expand, load_study, override, parse_yaml
from trainers.config import TrialConfig
from trainers.registry import load_plugins

if TYPE_CHECKING:
    from trainers.run.probe import Probe

LEAST: Final = {
    "limit": 1,
    "epochs": 1,
    "max_concurrent": 1,
    "retries": 0,
}


@dataclass(frozen=True)
class Plan:
    """What was asked for, and what of it is left to do."""

    studies: Mapping[str, Sequence[TrialConfig]]
    trials: Mapping[str, TrialConfig]
    slots: Mapping[str, Slot]  # of every trial
    kinds: Mapping[Kind, Sequence[str]]  # what is left to do, in the plan's order
    to_do: Sequence[str]  # the same in the order in which it starts
    ledger: Ledger
    plugins: Sequence[str]
    device_memory_bytes: int | None = None  # of a GPU, once a probe has seen one

    @property
    def done(self) -> int:
        """Trials of the plan that need not run."""
        return len(self.trials) - len(self.to_do)

    def with_probes(self, probes: "Mapping[Kind, Probe]") -> "Plan":
        """The plan with what was measured, in the order that follows from it."""
        costs = {
            kind: Cost(
                found["seconds_per_epoch"],
                found["peak_memory_bytes"],
                found["results_bytes"],
                found["checkpoint_bytes"],
            )
            for kind, found in probes.items()
        }
        ledger = replace(self.ledger, probed=costs)
        return replace(
            self,
            ledger=ledger,
            to_do=running_order(self.kinds, self.trials, ledger),
            device_memory_bytes=min(found["device_memory_bytes"] for found in probes.values()),
        )


def make_plan(args: argparse.Namespace, store: ResultStore) -> Plan:
    """Everything that can be known before anything is started. Raises InputError."""
    _check_numbers(args)
    settings = _settings(args)
    trials: dict[str, TrialConfig] = {}
    slots: dict[str, Slot] = {}
    studies: dict[str, list[TrialConfig]] = {}
    plugins: list[str] = []
    if os.getcwd() not in sys.path:  # a user's plugins lie where they work
        sys.path.insert(0, os.getcwd())
    for name in args.study:
        study = load_study(name)
        load_plugins(study.plugins, where=study.where)
        plugins += study.plugins
        check_blocks(study, settings)
        planned = expand(override(study, settings))
        room = max(args.limit - len(trials), 0) if args.limit is not None else len(planned)
        new = [i for i in planned if i not in trials][:room]
        trials |= {i: planned[i] for i in new}
        slots |= {i: _slot(study, planned[i], args) for i in new}
        kept = [config for i, config in planned.items() if i in trials]
        if kept:  # two files may bear one name
            studies[study.name] = studies.get(study.name, []) + kept
    ledger = read_ledger(store)
    wanted = {*ledger.to_do(trials, args.rerun)}
    wanted |= {i for i in trials if _is_owed_memory(slots[i], ledger, i)}
    kinds = by_kind(trials, [i for i in trials if i in wanted])
    to_do = running_order(kinds, trials, ledger)
    return Plan(studies, trials, slots, kinds, to_do, ledger, plugins)


def _is_owed_memory(slot: Slot, ledger: Ledger, trial_id: str) -> bool:
    """Whether a part of a GPU was too small, and the sweep ended before the one larger try."""
    if not ledger.is_owed_memory(trial_id):
        return False
    if slot.gpus == AUTO:
        return ledger.rows[trial_id]["device"] != "cpu"
    return 0 < float(slot.gpus or 0) < 1


def _slot(study: Study, config: TrialConfig, args: argparse.Namespace) -> Slot:
    """What the study says of this trial; what the command line says goes before it."""
    given = {name: getattr(args, key) for key, name in SLOT_KEYS.items()}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(study.slot(config) or Slot(), **given)


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in LEAST.items():
        value = getattr(args, name)
        if isinstance(value, int | float) and not value >= least:
            raise InputError(f"--{name.replace('_', '-')} {value:g} must be at least {least:g}")
    given = {key: getattr(args, key) for key in SLOT_KEYS if getattr(args, key) is not None}
    parse_slot(given, where="the command line")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that the command line sets. Raises InputError."""
    settings: dict[str, Any] = {}
    for text in args.settings:
        where = f"--set {text if text.isprintable() else repr(text)}"
        key, equals, value = text.partition("=")
        if not (equals and value.strip()):  # nothing would be null: the recipe's value
            raise InputError(f"{where}: write it as key=value")
        _put(settings, key.strip(), parse_yaml(value, where=where))
    if args.seeds is not None and len({*args.seeds}) < len(args.seeds):
        raise InputError("--seeds has a seed twice; give each once")
    if args.seeds is not None:
        _put(settings, "seed", list(args.seeds))
    if args.epochs is not None:
        _put(settings, "epochs", args.epochs)
    return settings


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    if key in settings and settings[key] != value:
        raise InputError(
            f"{key} is set to {settings[key]!r} and to {value!r}; give it once, a list for an axis"
        )
    settings[key] = value


def check_plan(plan: Plan, args: argparse.Namespace, console: Console) -> None:
    """Check models and data of what is to run, here, before many workers do. Raises InputError."""
    if not plan.to_do:
        return
    with console.status("checking models and data"):
        from trainers.run.check import (  # takes torch, which takes seconds
            check_trials,
            check_workers,
        )

        for i in plan.to_do:
            if (workers := plan.slots[i].workers) != AUTO:
                check_workers(plan.trials[i], workers)
        configs = [plan.trials[i] for i in plan.to_do]
        notes = check_trials(configs, data_dir=args.data_dir.resolve(), download=args.download)
    for note in notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
