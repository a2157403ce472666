"""What a signal does while trials run, without Ray."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.run.interrupt import answered, check, raised
from trainers import ray_worker

# It waits at the end for a lock, from which a signal wakes none but the main thread.
PROGRAM = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
{ignored}
import os, subprocess, threading, time
from orchestrator.run.interrupt import held, raised
by_a_library = []
try:
    with raised():
        with held():
            child = subprocess.Popen(["sleep", "600"])
            signal.signal(signal.SIGTERM, lambda *_: by_a_library.append(1))
            child.terminate()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
            print("deaf" if child.poll() is None else "ended", len(by_a_library))
        for _ in range(50):
            threading.Event().wait({wait_s})
        print("not heard")
except KeyboardInterrupt:
    print("heard", len(by_a_library))
child.kill()
"""


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the workers were told. Signals are answered as before at the end."""
    calls: list[str] = []
    monkeypatch.setattr(ray_worker, "ask_to_stop", lambda: calls.append("stop") or calls)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield calls
    signal.signal(signal.SIGINT, before)


def trials(*statuses: str) -> Any:
    return [SimpleNamespace(trial_id=str(i), status=status) for i, status in enumerate(statuses)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sweep_ends_when_every_running_trial_has_stopped(
    number: signal.Signals, told: list[str], capsys: Any
) -> None:
    some = trials("TERMINATED", "RUNNING", "RUNNING", "PENDING")
    with answered() as asked:
        asked.step(some)
        assert told == []
        os.kill(os.getpid(), number)
        for trial in some[1:3]:
            asked.step(some)
            asked.stopped(trial)
        assert told == ["stop"]
        assert capsys.readouterr().err.startswith("finishing the epochs under way; Ctrl-C again")
        with pytest.raises(KeyboardInterrupt):
            asked.step(some)


def test_the_second_signal_ends_it_at_once() -> None:
    with answered() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        asked.step(trials("RUNNING"))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_error_that_ends_it_comes_out_as_itself() -> None:
    with pytest.raises(OSError, match="full"), answered() as asked:
        asked.end(OSError("full"))


def test_a_program_that_ignores_ctrl_c_still_does() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with answered() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert not asked.asked


def test_signals_are_answered_as_before_afterwards() -> None:
    with answered():
        assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_before_trials_run_a_signal_ends_all_even_if_it_is_swallowed(
    number: signal.Signals,
) -> None:
    with pytest.raises(KeyboardInterrupt), raised():
        os.kill(os.getpid(), number)
    with raised():
        with suppress(KeyboardInterrupt):  # as in an import of somebody's
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt), answered():
            pytest.fail("trials ran")
    with raised():
        check()  # that was another sweep


@pytest.mark.parametrize("ignored", ["", "signal.signal(signal.SIGINT, signal.SIG_IGN)"])
def test_a_program_hears_sigterm_by_its_own_handler_and_what_it_starts_does_not(
    ignored: str,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ignored=ignored, wait_s=0.2 if ignored else 50)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["deaf", "0", "heard", "0"], done.stderr
