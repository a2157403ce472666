"""The trials that count, joined with the metrics of one epoch of each.

What is finished or planned is here, and what isn't is named. Which of them share a cell is in
`cells`.
"""

from collections.abc import Iterator
from typing import Final

import pandas as pd

from analysis.store.errors import ResultsError
from analysis.trials.load import Results

NOT_STARTED = "not started"
LAST, BEST = "last", "best"  # which epoch of a trial counts
SELECTIONS = (LAST, BEST)
FINISHED = "finished"

_PLAN_COLUMNS = ("study", "command")
# Without one of these a trial would be in no table, and nobody would know.
_NEEDED = ("dataset", "model", "loss", "optimizer", "augment", "regularizer", "seed", "status")


def measured_trials(results: Results, *, select: str = LAST) -> pd.DataFrame:
    """One row per trial that is finished or planned: config, status, metrics of one epoch.

    Args: `select` says which: the last, or the one of best accuracy on the test set (the first of
        several), which flatters every method.

    Trials that are neither (a single failed run outside any study) are left out: nothing says that
    somebody waits for them. Metrics are NaN where status isn't `finished`.
    Raises: ResultsError if a finished trial has no row for its last epoch, or a trial lacks what
        says in which cell it belongs.
    """
    expected = _expected_trials(results)
    _check_complete(expected)
    chosen = _last_epochs(results, expected)
    if select == BEST:
        chosen = _best_epochs(results, chosen)
    return expected.merge(chosen, on="trial_id", how="left")


def left_out_trials(results: Results) -> pd.DataFrame:
    """The rows of `trials` that `measured_trials` leaves out."""
    trials = results.trials
    planned = trials["trial_id"].isin(results.plan["trial_id"])
    return trials[~planned & (trials["status"] != FINISHED)]


def _expected_trials(results: Results) -> pd.DataFrame:
    plan = results.plan.sort_values("study").drop_duplicates("trial_id")
    known = results.trials
    planned = known["trial_id"].isin(plan["trial_id"])
    known = known[planned | (known["status"] == FINISHED)]
    known = known.merge(plan[["trial_id", *_PLAN_COLUMNS]], on="trial_id", how="left")
    missing = plan[~plan["trial_id"].isin(known["trial_id"])].assign(status=NOT_STARTED)
    return pd.concat([known, missing], ignore_index=True) if len(missing) else known


def _check_complete(expected: pd.DataFrame) -> None:
    for name in _NEEDED:
        lost = expected.loc[expected[name].isna(), "trial_id"]
        if len(lost):
            raise ResultsError(
                f"trial {lost.iloc[0]} has no {name}; delete its file in trials/, if it has one, "
                "and run the sweep again"
            )


def _last_epochs(results: Results, expected: pd.DataFrame) -> pd.DataFrame:
    """Metrics at epoch == epochs_done of the finished trials; config columns are dropped."""
    finished = expected.loc[expected["status"] == FINISHED, ["trial_id", "epochs_done"]]
    finished = finished.rename(columns={"epochs_done": "epoch"})
    metrics = [name for name in results.epochs.columns if name not in expected.columns]
    last = results.epochs[["trial_id", *metrics]].merge(finished, on=["trial_id", "epoch"])
    lost = sorted(set(finished["trial_id"]) - set(last["trial_id"]))
    if lost:
        raise ResultsError(
            f"trial {lost[0]} is finished but epochs/ has no row of its last epoch; "
            f"delete trials/{lost[0]}.parquet (each trials/merged-*.parquet, if it was merged) and "
            "run the sweep again"
        )
    return last


def _best_epochs(results: Results, last: pd.DataFrame) -> pd.DataFrame:
    """The row of highest test accuracy of each trial in `last`; the last one if none has any."""
    rows = results.epochs[results.epochs["trial_id"].isin(last["trial_id"])]
    rows = rows.sort_values(["trial_id", "epoch"]).reset_index(drop=True)
    accuracy = rows["accuracy_test"]
    chosen = rows.loc[accuracy[accuracy.notna()].groupby(rows["trial_id"]).idxmax(), last.columns]
    without = last[~last["trial_id"].isin(chosen["trial_id"])]
    return pd.concat([chosen, without], ignore_index=True)


_TAKEN_OF_DATA: Final = ["dataset", "num_classes", "samples_per_class", "image_size"]


def data_notes(trials: pd.DataFrame) -> Iterator[str]:
    """A line for each dataset that changed between trials which were trained on the same of it."""
    known = trials[trials["data_fingerprint"].notna() & (trials["status"] == FINISHED)]
    for (dataset, *_), alike in known.groupby(_TAKEN_OF_DATA, dropna=False, sort=True):
        states = alike.groupby("data_fingerprint")["trial_id"].agg(["size", "min"])
        if len(states) > 1:
            listed = ", ".join(
                f"{row['size']} of {fingerprint} (such as {row['min']})"
                for fingerprint, row in states.iterrows()
            )
            yield (
                f"{dataset} changed between its trials, which see {len(states)} states of its "
                f"data: {listed}; run them again with --rerun all to compare like with like"
            )
