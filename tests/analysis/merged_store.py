"""Results folders to merge, and what readers see of them."""

import os
from pathlib import Path

import pandas as pd

from analysis.compact import main
from analysis.store.results import ResultStore
from analysis.store.schema import FEATURES, TABLES
from analysis.trials.load import load_results
from tests.analysis.recorded_store import COLLAPSE, Store

SCORE_BINS = {"bias": [(0.5, 0.5, 1)], "positive": [(0.0, 1.0, 7)]}


def fill(store: Store, trials: int, *, epochs: int = 3) -> list[str]:
    """Trials that finished, with rows in every table."""
    ids = []
    for seed in range(trials):
        metrics = [{"nc1_train": seed + e / 10, "accuracy_test": None} for e in range(epochs)]
        ids.append(store.add(COLLAPSE, metrics, scores=SCORE_BINS, seed=seed))
        row = {"trial_id": ids[-1], "sample_index": 3, "label": 1, "features": [0.5, float(seed)]}
        store.write("features", ids[-1], [row], FEATURES)
    return ids


def run(store: Store) -> None:
    assert main(["--results", str(store.root)]) == 0


def frames(root: Path | str) -> dict[str, pd.DataFrame]:
    results = load_results(root, tables=tuple(TABLES))
    return {name: getattr(results, name) for name in TABLES}


def assert_same(found: dict[str, pd.DataFrame], expected: dict[str, pd.DataFrame]) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(found[name], expected[name])


def any_row_twice(store: Store) -> bool:
    """Whether a reader who knows nothing of merged files sees one so."""
    epochs = pd.read_parquet(store.root / "epochs")
    return bool(epochs.duplicated(["trial_id", "epoch"]).any())


def write_again(store: Store, trial_id: str) -> None:
    """A trial trains anew, to the same end."""
    results = ResultStore(store.root)
    for table in ("scores", "epochs", "trials"):
        results.write_rows(table, trial_id, results.read_rows(table, trial_id))


def names(store: Store, table: str) -> list[str]:
    return sorted(os.listdir(store.root / table))
