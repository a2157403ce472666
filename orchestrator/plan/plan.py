"""What a sweep would do: its trials, which of them are done, and what each takes."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.options import AUTO, Resources, What, Where
from orchestrator.plan.ledger import Cost, Kind, Ledger, read_ledger
from orchestrator.plan.order import by_kind, running_order
from orchestrator.plan.slots import REQUEST_KEYS, Request
from orchestrator.plan.study import Study, check_blocks, expand, load_study, override, parse_yaml
from trainers.config import TrialConfig
from trainers.registry import load_plugins

if TYPE_CHECKING:
    from trainers.run.probe import Probe

AS_STUDIED: Final = Resources()  # what the studies say, else the smallest


@dataclass(frozen=True)
class Plan:
    """What was asked for, and what of it is left to do."""

    studies: Mapping[str, Sequence[TrialConfig]]
    trials: Mapping[str, TrialConfig]
    requests: Mapping[str, Request]  # of every trial
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
                found.get("compiling"),
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


def make_plan(what: What, store: ResultStore, *, resources: Resources = AS_STUDIED) -> Plan:
    """Everything that can be known before anything is started. Raises InputError.

    From Python: `make_plan(What(studies=("digits",)), ResultStore("results"))`.
    """
    settings = _settings(what)
    trials: dict[str, TrialConfig] = {}
    requests: dict[str, Request] = {}
    studies: dict[str, list[TrialConfig]] = {}
    plugins: list[str] = []
    if os.getcwd() not in sys.path:  # a user's plugins lie where they work
        sys.path.insert(0, os.getcwd())
    for name in what.studies:
        study = load_study(name)
        load_plugins(study.plugins, where=study.where)
        plugins += study.plugins
        check_blocks(study, settings)
        planned = expand(override(study, settings))
        room = len(planned) if what.limit is None else max(what.limit - len(trials), 0)
        new = [i for i in planned if i not in trials][:room]
        trials |= {i: planned[i] for i in new}
        requests |= {i: _request(study, planned[i], resources) for i in new}
        kept = [config for i, config in planned.items() if i in trials]
        if kept:  # two files may bear one name
            studies[study.name] = studies.get(study.name, []) + kept
    ledger = read_ledger(store)
    wanted = {*ledger.to_do(trials, what.rerun)}
    wanted |= {i for i in trials if _is_owed_memory(requests[i], ledger, i)}
    kinds = by_kind(trials, [i for i in trials if i in wanted])
    to_do = running_order(kinds, trials, ledger)
    return Plan(studies, trials, requests, kinds, to_do, ledger, plugins)


def _is_owed_memory(request: Request, ledger: Ledger, trial_id: str) -> bool:
    """Whether a part of a GPU was too small, and the sweep ended before a larger try."""
    shares_a_gpu = request.gpus == AUTO or 0 < (request.gpus or 0) < 1
    return shares_a_gpu and ledger.is_owed_memory(trial_id)


def _request(study: Study, config: TrialConfig, resources: Resources) -> Request:
    """What the study says of this trial; what the command line says goes before it."""
    given = {REQUEST_KEYS[key]: value for key, value in resources.of_a_trial().items()}
    return replace(study.request(config), **given)


def _settings(what: What) -> dict[str, Any]:
    """The fields that are set in all grids. Raises InputError."""
    settings: dict[str, Any] = {}
    for text in what.settings:
        where = f"--set {text if text.isprintable() else repr(text)}"
        key, equals, value = text.partition("=")
        if not (equals and value.strip()):  # nothing would be null: the recipe's value
            raise InputError(f"{where}: write it as key=value")
        _set_once(settings, key.strip(), parse_yaml(value, where=where))
    if what.seeds is not None:
        _set_once(settings, "seed", list(what.seeds))
    if what.epochs is not None:
        _set_once(settings, "epochs", what.epochs)
    return settings


def _set_once(settings: dict[str, Any], key: str, value: Any) -> None:
    if key in settings and settings[key] != value:
        raise InputError(
            f"{key} is set to {settings[key]!r} and to {value!r}; give it once, a list for an axis"
        )
    settings[key] = value


def check_plan(plan: Plan, where: Where) -> list[str]:
    """Check models and data of what is to run, here, before many workers do. Raises InputError.

    Returns what a user had better know of them, a line each. Fetches data that are missing, if
    `where` allows it.
    """
    from trainers.run.check import check_trials, check_workers  # takes torch, which takes seconds

    for i in plan.to_do:
        if (workers := plan.requests[i].workers) != AUTO:
            check_workers(plan.trials[i], workers)
    return check_trials(
        [plan.trials[i] for i in plan.to_do],
        data_dir=where.data_dir.resolve(),
        download=where.download,
        trained=_trained(plan),
    )


def _trained(plan: Plan) -> list[tuple[TrialConfig, str]]:
    """Trials of the plan that need not run, and the fingerprints of what they were trained on."""
    done = {*plan.trials} - {*plan.to_do}
    rows = ((i, plan.ledger.rows[i]["data_fingerprint"]) for i in done if i in plan.ledger.rows)
    return [(plan.trials[i], fingerprint) for i, fingerprint in rows if fingerprint]
