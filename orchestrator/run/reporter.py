"""From what workers report to the terminal, to MLflow, and to a row for who can't write it."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from analysis.store.results import ResultStore
from orchestrator.plan.ledger import LARGEST_TOO, OUT_OF_MEMORY, Ledger
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
        self._largest: set[str] = set()
        self._failed: dict[str, dict[str, Any]] = {}

    def note_largest_share(self, trial_ids: Iterable[str]) -> None:
        """These trials get as much of a GPU as they ever will."""
        self._largest |= {*trial_ids}

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

    def rows(self, trial_id: str, rows: list[dict[str, Any]]) -> None:
        """New epochs of a trial."""
        self._progress.rows(trial_id, rows)
        if self._mirror:
            self._mirror.rows(trial_id, rows)

    def ended(self, trial: dict[str, Any]) -> None:
        """A trial's last row."""
        trial_id = trial["trial_id"]
        if trial["status"] == "failed":
            trial = self._failed[trial_id] = self._noted(trial)
        self._progress.ended(trial)
        if self._mirror:
            self._mirror.ended(trial_id)

    def _noted(self, trial: dict[str, Any]) -> dict[str, Any]:
        """Says in the row of a trial that ran out of memory where nothing is left to try."""
        reason = trial["reason"]
        if trial["trial_id"] in self._largest and Ledger({"": trial}).is_owed_memory(""):
            trial = {**trial, "reason": reason.replace(OUT_OF_MEMORY, LARGEST_TOO, 1)}
            self._store.write_rows("trials", trial["trial_id"], [trial])
        return trial

    def lost(self, trial_id: str, reason: str) -> None:
        """Record a trial whose worker died each time: it could not do so itself.

        One that died after it had ended, on its way to say so, has ended all the same.
        """
        rows = self._store.read_rows("trials", trial_id)
        if rows and rows[0]["status"] in ENDED:
            return self.ended(rows[0])
        trial = rows[0] if rows else {"trial_id": trial_id, **self._trials[trial_id].row()}
        trial |= {"status": "failed", "reason": f"its worker died each time: {reason}"}
        self._store.write_rows("trials", trial_id, [trial])
        self.ended(trial)
