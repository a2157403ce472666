"""Ray Tune: a slot of CPUs and GPUs for each trial, retries when a worker dies.

What has to run is decided before, by the ledger; Tune only packs it onto the machines. A trial
that comes back finds its checkpoint in the store by its own id, so Tune's own are not used.
"""

import _thread
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich.console import Console

from analysis.store.errors import InputError, WriteError, one_line
from orchestrator.plan.slots import Node, Slot
from orchestrator.run import interrupt

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from orchestrator.plan.ledger import Kind
    from trainers.ray_worker import Job
    from trainers.run.probe import Probe

# Read by Ray when it is imported or when it starts its processes.
ENVIRONMENT: Final = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's paths are relative to where the sweep started
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine unasked
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the sweep's to answer
}
CONNECT_S: Final = 5.0
RAY_CLIENT: Final = "ray://"
LOCAL: Final = "local"  # as an address: a cluster inside this process
WATCH_EVERY_S: Final = 5.0
DEAD_CHECKS: Final = 3  # in a row: a cluster whose head restarts is back before
SILENT_S: Final = 40.0  # Ray ends this process with words of its own after 60 s of no answer
UNHEARD_S: Final = 10.0  # a main thread inside a call of Ray's hears no signal
SAFE: Final = "every finished epoch is safe"


class Listener(Protocol):
    """Who hears of trials while they run; called in the driver."""

    def started(self, trial_id: str) -> None:
        """A trial has its slot, the first time or again."""

    def stopped(self, trial_id: str) -> None:
        """A trial lost its slot and waits for another."""

    def rows(self, trial_id: str, rows: list[dict[str, Any]]) -> None:
        """New epochs of a trial."""

    def ended(self, trial: dict[str, Any]) -> None:
        """A trial's last row, which is in the store by then."""

    def lost(self, trial_id: str, reason: str) -> None:
        """A trial whose worker died more often than is retried; no row says so yet."""


def connect(address: str | None) -> list[Node]:
    """Join the running Ray cluster, or start one inside this process; what its nodes have.

    Raises InputError if nobody answers at `address`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _check_answers(address or os.environ.get("RAY_ADDRESS"))
    import ray

    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:  # OSError: also a TMPDIR too long for a socket's name
        raise InputError(
            f"no Ray cluster answers or starts ({one_line(error)}); start one, "
            "or use --address local for one inside this process"
        ) from error
    except SystemExit as end:  # how Ray, while it starts, answers SIGTERM
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end without a word
    interrupt.check()
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_named(address: str | None) -> bool:
    """Whether this, or else the environment, names a cluster outside of this process."""
    return (address or os.environ.get("RAY_ADDRESS")) not in (None, "", LOCAL)


def _check_answers(address: str | None) -> None:
    """Knock at host:port before Ray does, which would wait there for minutes."""
    host, colon, port = (address or "").removeprefix(RAY_CLIENT).rpartition(":")
    if not colon or "/" in host or not port.isdigit():
        return  # none, `local` or `auto`, which Ray looks up by itself
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_S) as knock:
            if os.environ.get("RAY_USE_TLS") != "1" and not _speaks_http2(knock):
                raise OSError("what listens there is no Ray")
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start it, or use --address local "
            "for one inside this process"
        ) from error


def _speaks_http2(knock: socket.socket) -> bool:
    """Whether the other side answers as gRPC does: with a frame of settings (RFC 9113, 3.4)."""
    try:
        knock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        return knock.recv(9)[3:4] == b"\x04"
    except TimeoutError:
        return False


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends with its processes."""
    import ray

    ray.shutdown()


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
        interrupt.answered() as asked,
        _notice_the_end_of_the_cluster(asked),
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


class ClusterLostError(RuntimeError):
    """The cluster is gone; without this, Tune would wait for it until Ray ends the process."""


@contextmanager
def _notice_the_end_of_the_cluster(asked: interrupt.Interrupt) -> Iterator[None]:
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over, asked), daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join(WATCH_EVERY_S)  # it waits on a head that doesn't answer


def _watch(over: threading.Event, asked: interrupt.Interrupt) -> None:
    import ray

    def lost(reason: str) -> None:
        if over.is_set():
            return
        asked.error = ClusterLostError(reason)
        asked.asked = True  # there is nothing left that could finish its epoch
        _thread.interrupt_main(signal.SIGTERM)
        if not over.wait(UNHEARD_S):
            Console(stderr=True).show_cursor()
            print(f"{reason}; {SAFE}; the same command continues", file=sys.stderr, flush=True)
            os._exit(130)

    dead_checks = 0
    while not over.wait(WATCH_EVERY_S):
        silence = threading.Timer(SILENT_S, lost, ["the head of the Ray cluster doesn't answer"])
        silence.daemon = True
        silence.start()
        alive = any(node["Alive"] for node in ray.nodes())
        silence.cancel()
        dead_checks = 0 if alive else dead_checks + 1
        if dead_checks == DEAD_CHECKS:
            lost("no node of the Ray cluster is alive")
            return


def _trial_id(trial: "Trial") -> str:
    return trial.config["job"]["trial_id"]


@contextmanager
def _ended_if_full(asked: interrupt.Interrupt) -> Iterator[None]:
    try:
        yield
    except WriteError as full:
        asked.end(full)


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
            self._listener.started(_trial_id(trial))

        def on_trial_recover(
            self, iteration: int, trials: list, trial: "Trial", **info: Any
        ) -> None:
            del iteration, trials, info
            self._listener.stopped(_trial_id(trial))

        def on_trial_result(
            self, iteration: int, trials: list, trial: "Trial", result: dict, **info: Any
        ) -> None:
            del iteration, trials, info
            if result.get("rows"):
                self._has_got_on(trial, result["rows"][-1]["epoch"])
                self._listener.rows(_trial_id(trial), result["rows"])
            if "trial" in result:
                with _ended_if_full(asked):
                    self._listener.ended(result["trial"])
            if "stopped" in result:
                asked.stopped(trial)

        def on_trial_error(self, iteration: int, trials: list, trial: "Trial", **info: Any) -> None:
            del iteration, trials, info
            error = str(trial.get_error() or "its worker died").strip().splitlines()[-1]
            cause = getattr(trial.get_pickled_error(), "cause", None)
            if isinstance(cause, WriteError):  # not its fault: every trial would end so
                asked.end(cause)
            with _ended_if_full(asked):
                self._listener.lost(_trial_id(trial), error)

        def _has_got_on(self, trial: "Trial", epoch: int) -> None:
            """A trial that gets further has all its tries again: its machines fail, not itself."""
            if epoch > self._epochs.get(_trial_id(trial), 0):
                self._epochs[_trial_id(trial)] = epoch
                trial.max_failures = trial.num_failures + retries

    return Forward(listener)
