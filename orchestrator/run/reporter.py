"""From what workers report to the terminal, to MLflow, and to a row for who can't write it."""

from collections.abc import Mapping
from typing import Final

from analysis.store.results import ResultStore
from analysis.store.rows import EpochRow, TrialRow, begun
from orchestrator.plan.ledger import Ledger
from orchestrator.terminal.progress import SweepProgress
from orchestrator.tracking.mirror import Mirror
from trainers.config import TrialConfig

ENDED: Final = ("finished", "failed", "diverged")


class Reporter:
    """The sweep's `tune.Listener`."""

    def __init__(
        self,
        trials: Mapping[str, TrialConfig],
        store: ResultStore,
        progress: SweepProgress,
        mirror: Mirror | None,
    ) -> None:
        self._trials = trials
        self._store = store
        self._progress = progress
        self._mirror = mirror
        self._failed: dict[str, TrialRow] = {}
        self._noted: set[str] = set()

    def failed(self) -> Ledger:
        """The trials that failed so far."""
        return Ledger(self._failed)

    def started(self, trial_id: str) -> None:
        """A trial has its slot."""
        self._failed.pop(trial_id, None)
        self._progress.started(trial_id)

    def stopped(self, trial_id: str) -> None:
        """A trial lost its slot."""
        self._progress.stopped(trial_id)

    def rows(self, trial_id: str, rows: list[EpochRow]) -> None:
        """New epochs of a trial."""
        self._progress.rows(trial_id, rows)
        if self._mirror:
            self._mirror.rows(trial_id, rows)

    def noted(self, notes: list[str]) -> None:
        """Lines of a worker; what many say is told once."""
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self._progress.noted(note)

    def ended(self, trial: TrialRow) -> None:
        """A trial's last row."""
        trial_id = trial["trial_id"]
        if trial["status"] == "failed":
            self._failed[trial_id] = trial
        self._progress.ended(trial)
        if self._mirror:
            self._mirror.ended(trial_id)

    def lost(self, trial_id: str, reason: str) -> None:
        """Record a trial whose worker died each time: it could not do so itself.

        One that died after it had ended, on its way to say so, has ended all the same.
        """
        before = self._store.trial(trial_id)
        if before and before["status"] in ENDED:
            return self.ended(before)
        trial = before or begun(trial_id, self._trials[trial_id].row())
        trial["status"], trial["failure"] = "failed", "lost_worker"
        trial["reason"] = f"its worker died each time: {reason}"
        self._store.write_rows("trials", trial_id, [trial])
        self.ended(trial)
