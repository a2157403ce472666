"""What a sweep meant to run: `studies/*.yaml` -> one row per planned trial.

Reading only; the orchestrator writes these files. Which of the planned trials are done is told by
`analysis.trials.cells`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from analysis.store.errors import ResultsError, VersionError, one_line
from analysis.store.schema import CONFIG_FIELDS, SCHEMA_VERSION

# libyaml reads a study of 10,000 trials in a second where the Python loader needs ten.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DEEPEST: Final = 100  # what we write nests four deep
_CONFIG_NAMES = frozenset(field.name for field in CONFIG_FIELDS)


@dataclass(frozen=True)
class RecordedStudy:
    """A study as it was run: the configuration of each of its trials, by trial id."""

    name: str
    command: str
    trials: Mapping[str, Mapping[str, Any]]


def parse_recorded(text: str, *, source: str) -> RecordedStudy:
    """The study in `text`; `source` names the file in errors.

    Raises: ResultsError if the text isn't YAML, has another schema_version or unknown columns.
    """
    try:
        _check_depth(text)
        raw = yaml.load(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        # Also a value that isn't what its tag says.
        raise ResultsError(
            f"{source} is not valid YAML ({one_line(error)}); run the study again"
        ) from error
    if not isinstance(raw, dict) or not isinstance(raw.get("trials"), dict):
        raise ResultsError(f"{source} holds no mapping `trials`; run the study again")
    if raw.get("schema_version") != SCHEMA_VERSION:
        raise VersionError(source, raw.get("schema_version"))
    fixed = raw.get("fixed", {})
    if not all(isinstance(each, dict) for each in (fixed, *raw["trials"].values())):
        raise ResultsError(f"{source} has trials that are no mappings; run the study again")
    trials = {key: {**fixed, **own} for key, own in raw["trials"].items()}
    _check_columns(trials, source)
    return RecordedStudy(str(raw.get("study", source)), str(raw.get("command", "")), trials)


def _check_depth(text: str) -> None:
    """Raises ValueError for text that nests so deep that libyaml, which recurses, would crash."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it nests more than {DEEPEST} deep")


def _check_columns(trials: Mapping[Any, Mapping[str, Any]], source: str) -> None:
    for trial_id, config in trials.items():
        if not isinstance(trial_id, str):  # YAML read an unquoted id of digits as a number
            raise ResultsError(f"{source}: trial id {trial_id} must be text; put it in quotes")
        unknown = sorted(map(str, set(config) - _CONFIG_NAMES))
        if unknown:
            raise ResultsError(
                f"{source}: trial {trial_id} has unknown columns {unknown}; "
                "known are those of analysis.store.schema.CONFIG_FIELDS"
            )
