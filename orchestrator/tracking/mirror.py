"""MLflow as a mirror of the results, written behind a sweep's back; Parquet is the record.

Only the driver writes, from one thread of its own, so that neither a slow server nor a lock in
SQLite holds up a trial. What can't be sent is tried again for as long as the sweep runs.

python -m orchestrator.tracking rebuild    makes all of it again from the Parquet files alone
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from analysis.store.errors import one_line
from analysis.store.location import without_password
from orchestrator.terminal.words import counted
from orchestrator.tracking.database import MENDED, fault_of, file_of, set_aside
from orchestrator.tracking.runs import Row, Runs
from trainers.config import TrialConfig

FLUSH_S: Final = 20.0  # how long a sweep that has ended waits for a server to take the rest
LAST_TRY_S: Final = 2.0  # the same for a server that doesn't answer
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
Read = Callable[[str, str], list[dict[str, Any]]]


class Mirror:
    """Sends trials to MLflow in a thread of its own.

    It keeps the rows of trials that run. One that has ended is an id: its rows are in the store.
    """

    def __init__(
        self,
        uri: str,
        trials: Mapping[str, tuple[str, TrialConfig]],
        read: Read,
        *,
        all_ended: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """`trials`: trial id to (study, config). `read(table, trial_id)` gives rows of the store.

        With `all_ended`, which gives the study of every trial in the store that has ended, a file
        at `uri` that is damaged or half made is set aside, and made anew of these. Nothing is
        written before the first trial.
        """
        self._uri = uri
        self._studies = {trial_id: study for trial_id, (study, _) in trials.items()}
        self._configs = {trial_id: config for trial_id, (_, config) in trials.items()}
        self._read = read
        self._all_ended = all_ended
        self.notice: str | None = None  # what was set aside, if anything was
        self._pending: dict[str, list[Row] | None] = {}  # new rows; None: it has ended
        self._unchecked = set[str]()  # ended before, perhaps without a word to MLflow
        self._changed = threading.Condition()
        self._ended_at: float | None = None
        self._wait_s = 0.0
        self._over = threading.Event()
        self._runs: Runs | None = None
        self._failure = "no answer yet"
        self._failing_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def error(self) -> str | None:
        """After the end: what is missing in MLflow and why, if anything is."""
        missing = len(self._pending) + len(self._unchecked)
        behind = "the sweep was faster than it takes them"
        reason = behind if self._failing_since is None else self._failure
        return f"{counted(missing, 'trial')} not in it whole: {reason}" if missing else None

    def rows(self, trial_id: str, rows: Iterable[Row]) -> None:
        """Send new epochs. Returns at once."""
        with self._changed:
            waiting = self._pending.setdefault(trial_id, [])
            if waiting is not None:
                waiting += rows
            self._changed.notify()

    def ended(self, trial_id: str) -> None:
        """Send what is missing of a trial, from the store, and close its run. Returns at once."""
        with self._changed:
            self._pending[trial_id] = None
            self._changed.notify()

    def catch_up(self, ended: Iterable[str]) -> None:
        """Send ended trials whose run is missing or open: a killed driver left them so.

        Returns at once.
        """
        with self._changed:
            self._unchecked |= set(ended)
            self._changed.notify()

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until all is sent, at most FLUSH_S; after an interruption, for nothing.

        A server that doesn't answer is given LAST_TRY_S.
        """
        with self._changed:
            self._ended_at = time.monotonic()
            self._wait_s = FLUSH_S if kind is None else 0.0
            wait_s = self._wait_s if self._failing_since is None else min(self._wait_s, LAST_TRY_S)
            self._over.set()
            self._changed.notify()
        self._thread.join(wait_s)

    def _work(self) -> None:
        pause_s = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._pending or self._unchecked or self._over.is_set()
                )
                if self._is_late() or not (self._pending or self._unchecked):
                    return
            try:
                self._send_next()
                pause_s, self._failing_since = 0.0, None
            except Exception as error:  # whatever a tracking server does, the sweep goes on
                self._failure = without_password(one_line(error))
                self._failing_since = self._failing_since or time.monotonic()
                pause_s = min(max(2 * pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                if self._over.is_set():
                    time.sleep(FIRST_PAUSE_S)
                else:
                    self._over.wait(pause_s)

    def _is_late(self) -> bool:
        """Whether the sweep has ended and waited long enough."""
        if self._ended_at is None:
            return False
        now, give_up_at = time.monotonic(), self._ended_at + self._wait_s
        if self._failing_since is not None:  # one more try at least
            give_up_at = min(give_up_at, max(self._failing_since, self._ended_at) + LAST_TRY_S)
        return now > give_up_at

    def _open(self) -> Runs:
        """The runs, in a file made anew if what is there is of no use."""
        path = file_of(self._uri)
        if self._all_ended and path and (fault := fault_of(path, thoroughly=True)) in MENDED:
            studies = self._all_ended()
            self.notice = set_aside(path, fault)
            with self._changed:
                self._studies = {**studies, **self._studies}
                self._unchecked |= studies.keys()
        return Runs(self._uri)

    def _send_next(self) -> None:
        self._runs = self._runs or self._open()
        if self._unchecked:
            closed = self._runs.closed()
            with self._changed:
                self._pending |= {i: None for i in self._unchecked if i not in closed}
                self._unchecked.clear()
            return
        with self._changed:
            trial_id, waiting = next(iter(self._pending.items()))
            rows = None if waiting is None else list(waiting)
        study = self._studies[trial_id]
        try:
            if rows is None:
                (trial,) = self._read("trials", trial_id)
                self._runs.close(study, trial, self._read("epochs", trial_id))
            else:
                self._runs.send(study, self._configs[trial_id].row(), trial_id, rows)
        except BaseException:
            with self._changed:  # behind the others, which may do better
                self._pending[trial_id] = self._pending.pop(trial_id)
            raise
        with self._changed:
            newer = self._pending.pop(trial_id)
            if rows is not None and (newer is None or len(newer) > len(rows)):
                self._pending[trial_id] = newer and newer[len(rows) :]
