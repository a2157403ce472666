"""The Ray cluster: joining it, leaving it, and noticing that it is gone."""

import _thread
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
from rich.console import Console

from analysis.store.errors import InputError, one_line
from orchestrator.plan.slots import Node
from orchestrator.run import interrupt
from trainers.machine import usable_cpus, usable_gpus

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
TRIES: Final = 3  # to start Ray, which has 30 s each time
LEAVE_S: Final = 0.02
SAFE: Final = "every finished epoch is safe"
_own: list[psutil.Process] = []  # of Ray, where this process has started it


def connect(address: str | None) -> list[Node]:
    """Join the running Ray cluster, or start one inside this process; what its nodes have.

    Raises InputError if nobody answers at `address`.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _check_answers(address or os.environ.get("RAY_ADDRESS"))
    import ray

    try:
        _start(address)
    except InputError:
        raise
    except Exception as error:
        # OSError: also a TMPDIR too long for a socket's name
        if not (isinstance(error, OSError | ValueError) or _is_of_ray(error)):
            raise
        if isinstance(error, OSError) and _is_of_home(error.filename):
            remedy = "Ray keeps a token in ~/.ray: set HOME to a folder that can be written"
        else:
            remedy = "start one, or use --address local for one inside this process"
        raise InputError(
            f"no Ray cluster answers or starts ({one_line(error)}); {remedy}"
        ) from error
    except SystemExit as end:  # how Ray, while it starts, answers SIGTERM
        raise KeyboardInterrupt from end
    interrupt.check()
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _is_of_home(path: object) -> bool:
    """Whether a path that can't be made or read is the home folder's: above, at or below it."""
    home = Path.home()
    return path is not None and (
        Path(str(path)).is_relative_to(home) or home.is_relative_to(str(path))
    )


def _start(address: str | None) -> None:
    """Start or join Ray; again where a busy machine makes it slower than it allows itself to be.

    Raises InputError when it stays so, and whatever else Ray raises.
    """
    if names_cluster(address):
        return _init(address)
    reasons: list[Exception] = []
    while len(reasons) < TRIES:
        before = {*psutil.Process().children()}
        try:
            return _init(address)
        except Exception as error:
            if not _is_of_ray(error):
                raise
            reasons.append(error)
        finally:
            _own[:] = [each for each in psutil.Process().children() if each not in before]
        disconnect()  # from what has started of it
        interrupt.check()
    raise InputError(
        f"Ray doesn't start ({one_line(reasons[-1])}), tried {TRIES} times; look for what "
        "keeps this machine busy, then give the same command again"
    ) from reasons[-1]


def _is_of_ray(error: Exception) -> bool:
    """Whether Ray means it so: it raises nothing narrower for a process that starts too slowly."""
    from ray.exceptions import RayError

    return type(error) is Exception or isinstance(error, RuntimeError | RayError)


def _init(address: str | None) -> None:
    """Start Ray with what this process may use, which Ray itself doesn't ask; or join, as it is."""
    import ray

    def init(**amounts: int) -> None:
        with interrupt.held():
            ray.init(
                address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **amounts,  # pyright: ignore[reportArgumentType]
            )

    if names_cluster(address):
        return init()
    gpus = usable_gpus()
    known = {} if gpus is None else {"num_gpus": gpus}
    try:
        init(num_cpus=usable_cpus(), **known)
    except ValueError as error:
        if "existing cluster" not in str(error):
            raise
        init()  # one that `ray start` left on this machine


def names_cluster(address: str | None) -> bool:
    """Whether this, or else the environment, names a cluster outside of this process."""
    return (address or os.environ.get("RAY_ADDRESS")) not in (None, "", LOCAL)


def _check_answers(address: str | None) -> None:
    """Knock at host:port before Ray does, which would wait there for minutes.

    By hand: Ray's own client of a head takes 40 s to find nobody there, and gRPC's Python package
    is no part of `ray[tune]`.
    """
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

    # Ray gives each of them a second to hear a SIGTERM, to which they are deaf.
    end = threading.Thread(target=_end_own, daemon=True)
    end.start()
    ray.shutdown()
    end.join()


def _end_own() -> None:
    """End the processes of a Ray of our own, once this one has left it and can do without."""
    import ray

    while ray.is_initialized():
        time.sleep(LEAVE_S)
    below = [each for one in _own for each in _with_children(one)]
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


class ClusterLostError(RuntimeError):
    """The cluster is gone; without this, Tune would wait for it until Ray ends the process."""


@contextmanager
def watched(asked: interrupt.Interrupt) -> Iterator[None]:
    """While this lasts, a cluster that is gone ends the sweep, with ClusterLostError."""
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
