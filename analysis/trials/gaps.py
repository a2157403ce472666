"""Planned trials that a table would need and that aren't finished."""

from collections.abc import Iterator

import pandas as pd

from analysis.store.errors import GapError
from analysis.trials.measured import FINISHED

_CONFIG = ("dataset", "model", "loss", "optimizer", "augment", "seed")
_MOST_LINES = 200
# A sweep skips these as done, unless it is asked to run them again.
_RERUN = ("failed", "diverged")


def refuse_gaps(trials: pd.DataFrame, what: str) -> None:
    """Raise GapError if one of these trials, as `measured.measured_trials` has them, is not done.

    Args: `what` names in the message what is made of the trials, like `Table 1`.
    """
    missing = trials[trials["status"] != FINISHED]
    if len(missing):
        raise GapError("\n".join(_message(missing, planned=len(trials), what=what)))


def commands(missing: pd.DataFrame) -> list[str]:
    """What to type so that these trials run, a line each: one that fails ends no other."""
    lines: list[str] = []
    for (recorded, status), _ in missing.groupby(["command", "status"], sort=False):
        again = f" --rerun {status}" if status in _RERUN else ""
        lines += [part + again for part in str(recorded).split(" && ") if part]
    return sorted(dict.fromkeys(lines), key=lambda line: " --rerun " in line)


def _message(missing: pd.DataFrame, *, planned: int, what: str) -> Iterator[str]:
    yield f"{len(missing)} of {planned} trials of {what} are not finished:"
    for row in missing.head(_MOST_LINES).to_dict("records"):
        config = " ".join(f"{name}={row[name]}" for name in _CONFIG)
        yield f"  {row['trial_id']}  {row['status']:<11}  {config}"
    if len(missing) > _MOST_LINES:
        yield f"  and {len(missing) - _MOST_LINES} more"
    yield "run them with:"
    yield from (f"  {command}" for command in commands(missing))
    yield "or print a dash in their cells: --allow-partial"
