"""Which trials of a results folder have ended, and in whose experiment each belongs."""

from typing import Final

import pyarrow as pa

from analysis.store.reading import read_folder
from analysis.store.results import ResultStore
from analysis.store.schema import TRIALS
from analysis.store.studies import parse_recorded

COLUMNS: Final = ("trial_id", "status", "dataset")


def ended_trials(store: ResultStore) -> dict[str, str]:
    """The study of every trial in the store that has ended, by trial id.

    Of several studies it is the first by name; of none, as a trial trained by itself, its dataset.
    Raises ResultsError for files that can't be read, OSError for a store that doesn't answer.
    """
    schema = pa.schema([TRIALS.field(name) for name in COLUMNS])
    table = read_folder(store.filesystem, store.path("trials"), schema)
    study_of: dict[str, str] = {}
    for name in store.names("studies"):
        if name.endswith(".yaml"):
            text = store.read_bytes("studies", name).decode()
            study = parse_recorded(text, source=f"studies/{name}")
            study_of |= {i: study.name for i in study.trials if i not in study_of}
    return {
        row["trial_id"]: study_of.get(row["trial_id"]) or row["dataset"]
        for row in table.to_pylist()
        if row["status"] != "running"
    }
