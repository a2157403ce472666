"""Ray Tune: a slot of CPUs and GPUs for each trial, retries when a worker dies.

What has to run is decided before, by the ledger; Tune only packs it onto the machines. A trial
that comes back finds its checkpoint in the store by its own id, so Tune's own are not used.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from analysis.store.errors import ResultsError, WriteError
from analysis.store.rows import EpochRow, TrialRow
from orchestrator.plan.slots import Slot
from orchestrator.run import interrupt
from orchestrator.run.connection import watched

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from orchestrator.plan.ledger import Kind
    from trainers.ray_worker import Job
    from trainers.run.probe import Probe


class Listener(Protocol):
    """Who hears of trials while they run; called in the driver."""

    def started(self, trial_id: str) -> None:
        """A trial has its slot, the first time or again."""

    def stopped(self, trial_id: str) -> None:
        """A trial lost its slot and waits for another."""

    def rows(self, trial_id: str, rows: list[EpochRow]) -> None:
        """New epochs of a trial."""

    def noted(self, notes: list[str]) -> None:
        """What a worker says that the user should know, a line each."""

    def ended(self, trial: TrialRow) -> None:
        """A trial's last row, which is in the store by then."""

    def lost(self, trial_id: str, reason: str) -> None:
        """A trial whose worker died more often than is retried; no row says so yet."""


def measure(
    jobs: "Mapping[Kind, Job]", slots: "Mapping[Kind, Slot]"
) -> "tuple[dict[Kind, Probe], list[str]]":
    """Measure a trial of each kind, one worker with a whole GPU if there are any.

    Also gives why others could not be: what fails here fails there, as one bad trial of many.
    """
    import ray
    from ray.exceptions import RayError

    from trainers.ray_worker import probe as probe_one

    under_way: dict[Kind, Any] = {}
    for kind, job in jobs.items():
        slot = slots[kind]
        # A process for each, so that none's memory is another's.
        task: Any = ray.remote(max_calls=1)(probe_one)
        task = task.options(num_cpus=slot.cpus, num_gpus=float(bool(slot.gpus)))
        under_way[kind] = task.remote(job)
    measured: dict[Kind, Probe] = {}
    failures = []
    for kind, answer in under_way.items():
        try:
            measured[kind] = ray.get(answer)
        except RayError as error:
            failures.append(f"{jobs[kind]['trial_id']}: {str(error).strip().splitlines()[-1]}")
    return measured, failures


def run(
    jobs: "Sequence[tuple[Job, Slot]]",
    *,
    max_concurrent: int | None,
    retries: int,
    listener: Listener,
) -> None:
    """Run every job once, in order, as many at a time as fit. Returns when all have ended.

    A trial is given up when its worker died `retries` + 1 times without an epoch between.
    Raises KeyboardInterrupt when the user ends it, WriteError when the results can't be written.
    """
    from ray import tune

    from trainers.ray_worker import train

    slots = {job["trial_id"]: slot for job, slot in jobs}

    def bundles(params: dict[str, Any]) -> tune.PlacementGroupFactory:
        slot = slots[params["job"]["trial_id"]]
        # Ranks are actors in their trial's bundles; it waits for them and takes nothing itself.
        waiting = [{}] if slot.workers > 1 else []
        return tune.PlacementGroupFactory([*waiting, *([slot.bundle()] * slot.workers)])

    with (
        tempfile.TemporaryDirectory(prefix="tune_") as storage,  # nothing in it outlives the sweep
        _without_logs(),
        interrupt.answered() as asked,
        watched(asked),
    ):
        tune.Tuner(
            tune.with_resources(train, bundles),
            param_space={"job": tune.grid_search([job for job, _ in jobs])},
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                max_concurrent_trials=max_concurrent,
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=retries),
                callbacks=[_callback(listener, asked, retries)],
            ),
        ).fit()


@contextmanager
def _without_logs() -> Iterator[None]:
    """Keep Tune from telling each error of a trial's in a page: its row tells it, or the sweep."""
    loggers = [logging.getLogger(name) for name in ("ray.air", "ray.train", "ray.tune")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _trial_id(trial: "Trial") -> str:
    return trial.config["job"]["trial_id"]


def _row_of(trial: "Trial", row: TrialRow) -> TrialRow:
    """The row that a trial's worker reports. Raises ResultsError if it is another's."""
    if row["trial_id"] != _trial_id(trial):
        raise ResultsError(
            f"the worker of trial {_trial_id(trial)} found the row of {row['trial_id']} in its "
            f"place; remove {_trial_id(trial)}.parquet from every folder of the results"
        )
    return row


@contextmanager
def _told_as_it_is(asked: interrupt.Interrupt) -> Iterator[None]:
    """What a listener raises, as of a full disk, ends the sweep, without Tune's words on it."""
    try:
        yield
    except Exception as error:
        asked.end(error)


def _callback(listener: Listener, asked: interrupt.Interrupt, retries: int) -> Any:
    from ray import tune

    class Forward(tune.Callback):
        """Hands what the workers report to the listener."""

        def __init__(self, listener: Listener) -> None:
            self._listener = listener
            self._epochs: dict[str, int] = {}

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune saves its callbacks to restore a sweep from, which is never done

        def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
            del iteration, info
            asked.step(trials)

        def on_trial_start(self, iteration: int, trials: list, trial: "Trial", **info: Any) -> None:
            del iteration, trials, info
            with _told_as_it_is(asked):
                self._listener.started(_trial_id(trial))

        def on_trial_recover(
            self, iteration: int, trials: list, trial: "Trial", **info: Any
        ) -> None:
            del iteration, trials, info
            with _told_as_it_is(asked):
                self._listener.stopped(_trial_id(trial))

        def on_trial_result(
            self, iteration: int, trials: list, trial: "Trial", result: dict, **info: Any
        ) -> None:
            del iteration, trials, info
            with _told_as_it_is(asked):
                if result.get("rows"):
                    self._has_got_on(trial, result["rows"][-1]["epoch"])
                    self._listener.rows(_trial_id(trial), result["rows"])
                if result.get("notes"):
                    self._listener.noted(result["notes"])
                if "trial" in result:
                    self._listener.ended(_row_of(trial, result["trial"]))
            if "stopped" in result:
                asked.stopped(trial)

        def on_trial_error(self, iteration: int, trials: list, trial: "Trial", **info: Any) -> None:
            del iteration, trials, info
            error = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
            cause = getattr(trial.get_pickled_error(), "cause", None)
            if isinstance(cause, WriteError):  # not its fault: every trial would end so
                asked.end(cause)
            with _told_as_it_is(asked):
                self._listener.lost(_trial_id(trial), error)

        def _has_got_on(self, trial: "Trial", epoch: int) -> None:
            """A trial that gets further has all its tries again: its machines fail, not itself."""
            if epoch > self._epochs.get(_trial_id(trial), 0):
                self._epochs[_trial_id(trial)] = epoch
                trial.max_failures = trial.num_failures + retries

    return Forward(listener)
