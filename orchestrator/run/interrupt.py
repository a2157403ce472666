"""Ctrl-C and SIGTERM. While trials run: once, and they finish their epoch; twice, and all ends.

Before and after, once ends all.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the second is how a cluster takes its machines back
_heard: list[int] = []  # signals that were answered by an exception
_held = threading.Lock()


@contextmanager
def raised() -> Iterator[None]:
    """Answer both signals by KeyboardInterrupt, where this program was not told to ignore them."""
    _heard.clear()

    def answer(number: int, _: Any) -> NoReturn:
        _heard.append(number)
        raise KeyboardInterrupt

    with _handled(answer), _passed_on():
        yield


@contextmanager
def _passed_on() -> Iterator[None]:
    """Hand SIGTERM to the main thread's handler where the program began by blocking it for all.

    Any thread of a library's that doesn't block a signal may be given it, and Ray, where it begins,
    has a handler below Python's that ends the program.
    """
    if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        yield
        return
    threading.Thread(target=_pass_on, daemon=True).start()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _pass_on() -> None:
    main = threading.main_thread().ident
    while signal.sigwait({signal.SIGTERM}):
        with _held:
            if main and callable(signal.getsignal(signal.SIGINT)):  # answered alike
                signal.pthread_kill(main, signal.SIGINT)  # also wakes it where it waits
            else:
                _thread.interrupt_main(signal.SIGTERM)


def check() -> None:
    """Raises KeyboardInterrupt where one was raised before, which a library has swallowed."""
    if _heard:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Answer SIGTERM at the end of this, as before it; what begins in it is deaf to it for good.

    A terminal, `timeout` and Slurm send it to all that a sweep has started. Ray's processes would
    end by it at once, and this one without a word, or in an abort, for want of them.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with _held:
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, handler)  # a library may have put its own there
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
    for number in heard:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, before[number])


class Interrupt:
    """What was asked for, and which trials have answered."""

    def __init__(self) -> None:
        self.asked = False  # the next signal ends the sweep at once
        self.error: Exception | None = None  # why it ends, if nobody asked for it
        self._flag: object = None
        self._stopped: set[str] = set()

    def answer(self, *_: Any) -> None:
        """The handler. Raises KeyboardInterrupt the second time."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True  # and no more: a handler may run in the middle of anything

    def end(self, error: Exception) -> NoReturn:
        """End the sweep at once with an error."""
        self.error = error
        raise KeyboardInterrupt  # the one exception that Tune doesn't wrap into its own

    def stopped(self, trial: "Trial") -> None:
        """A trial has saved its epoch and waits for the end."""
        self._stopped.add(trial.trial_id)

    def step(self, trials: Iterable["Trial"]) -> None:
        """To be called all the time. Raises KeyboardInterrupt once every running trial stopped."""
        if not self.asked:
            return
        if self.error is not None:
            raise KeyboardInterrupt
        if self._flag is None:
            from trainers.ray_worker import ask_to_stop

            print("finishing the epochs under way; Ctrl-C again to stop now", file=sys.stderr)
            self._flag = ask_to_stop()
        if {t.trial_id for t in trials if t.status == "RUNNING"} <= self._stopped:
            raise KeyboardInterrupt


@contextmanager
def answered() -> Iterator[Interrupt]:
    """Answer both signals, where this program was not told to ignore them. Raises `error`."""
    interrupt = Interrupt()
    with _handled(interrupt.answer):
        try:
            check()
            yield interrupt
        except KeyboardInterrupt:
            if interrupt.error:
                raise interrupt.error from None
            raise
