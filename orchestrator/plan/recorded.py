"""The grid of a study as it was run, in `studies/<name>.yaml`: what a table has to hold.

Written here, read here and by `analysis.store.studies`.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from analysis.store.errors import InputError, ResultsError
from analysis.store.location import without_password
from analysis.store.results import ResultStore
from analysis.store.schema import SCHEMA_VERSION
from analysis.store.studies import RecordedStudy, parse_recorded
from trainers.config import TrialConfig

FOLDER = "studies"


def write_recorded(
    store: ResultStore, name: str, trials: Iterable[TrialConfig], argv: Sequence[str]
) -> None:
    """Keep a study's grid beside its results.

    A grid only grows. A smaller command (--limit, --seeds) must not make a gap invisible, and what
    is kept as the command runs every trial of the grid. Raises InputError for a broken file.
    """
    rows: dict[str, Mapping[str, Any]] = {config.trial_id: config.row() for config in trials}
    command, before = continue_command(argv), read_recorded(store, name)
    if before is not None and not before.trials.keys() <= rows.keys():
        if rows.keys() <= before.trials.keys():
            return
        rows = {**before.trials, **rows}
        command = f"{without_password(before.command)} && {command}"
    store.write_bytes(_yaml(name, command, rows).encode(), FOLDER, f"{name}.yaml")


def read_recorded(store: ResultStore, name: str) -> RecordedStudy | None:
    """A study's grid as it was run before; None if it never was. Raises InputError."""
    file = f"{name}.yaml"
    try:
        if file not in store.names(FOLDER):
            return None
        return parse_recorded(store.read_bytes(FOLDER, file).decode(), source=f"{FOLDER}/{file}")
    except (ResultsError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{store.location}/{FOLDER}/{file}: {error}") from error


def continue_command(argv: Sequence[str], *more: str) -> str:
    """What to type to carry on; without passwords, since it is stored.

    And without --rerun, which would begin again what it has redone.
    """
    kept: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--rerun":
            next(words, None)
        elif not word.startswith("--rerun="):
            kept.append(word)
    words = map(without_password, ("python", "orchestrator/sweep.py", *kept, *more))
    return shlex.join(words)


def shared_fields(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields that all of these trials have alike."""
    first = next(iter(rows.values()))
    return {k: v for k, v in first.items() if all(row.get(k) == v for row in rows.values())}


def _yaml(name: str, command: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What all trials share, and what is each one's own."""
    fixed = shared_fields(rows)
    content = {
        "study": name,
        "command": command,
        "schema_version": SCHEMA_VERSION,
        "fixed": fixed,
        "trials": {i: {k: v for k, v in row.items() if k not in fixed} for i, row in rows.items()},
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
