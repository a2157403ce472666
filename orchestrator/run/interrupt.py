"""Ctrl-C and SIGTERM. While trials run: once, and they finish their epoch; twice, and all ends.

Before and after, once ends all.
"""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # the second is how a cluster takes its machines back
_heard: list[int] = []  # signals that were answered by an exception


@contextmanager
def raised() -> Iterator[None]:
    """Answer both signals by KeyboardInterrupt, where this program was not told to ignore them."""
    _heard.clear()

    def answer(number: int, _: Any) -> NoReturn:
        _heard.append(number)
        raise KeyboardInterrupt

    with _handled(answer):
        yield


def check() -> None:
    """Raises KeyboardInterrupt where one was raised before, which a library has swallowed."""
    if _heard:
        raise KeyboardInterrupt


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
