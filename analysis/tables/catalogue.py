"""The paper's tables, a record each, and how they are built from results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import pandas as pd

from analysis.tables.biases import bias_table, family_trials
from analysis.tables.entries import Quantity
from analysis.tables.generalization import generalization_table
from analysis.tables.paper_table import PaperTable
from analysis.tables.render import Table
from analysis.tables.scores import score_table
from analysis.trials.bias_families import BIAS_DECAY, BIAS_INIT
from analysis.trials.cells import classification_trials, collapse_trials
from analysis.trials.gaps import refuse_gaps
from analysis.trials.load import Results
from analysis.trials.measured import (
    BEST,
    FINISHED,
    LAST,
    data_notes,
    left_out_trials,
    measured_trials,
)

_S_POS = Quantity("s_pos", "s_pos", "s_pos_mean_train", 2, spread_column="s_pos_std_train")
_S_NEG = Quantity("s_neg", "s_neg", "s_neg_mean_train", 2, spread_column="s_neg_std_train")
_BIAS = Quantity("bias", "b̂", "bias_mean", 2, spread_column="bias_std")
_BY_BIAS = (
    _BIAS,
    _S_POS,
    _S_NEG,
    Quantity("accuracy", "A (test)", "accuracy_test", 2, percent=True),
    Quantity("uniform_accuracy", "A_Uni (test)", "uniform_accuracy_test", 2, percent=True),
)
TABLES: Final = (
    PaperTable(
        name="1",
        title="Table 1. Scores (without bias), classifier biases and accuracy on the training set",
        study="neural_collapse",
        quantities=(
            _S_POS,
            _S_NEG,
            _BIAS,
            Quantity("alpha_bias", "α(b̂)", "alpha_bias", 2),
            Quantity("accuracy", "A", "accuracy_train", 2, percent=True),
        ),
        select=collapse_trials,
        build=score_table,
    ),
    PaperTable(
        name="2",
        title="Table 2. Accuracy and uniform accuracy on the test set, in percent",
        study="classification",
        quantities=(
            Quantity("accuracy", "A", "accuracy_test", 2, percent=True),
            Quantity("uniform_accuracy", "A_Uni", "uniform_accuracy_test", 2, percent=True),
        ),
        select=classification_trials,
        build=generalization_table,
    ),
    PaperTable(
        name="3",
        title="Table 3. Compactness and distinctiveness of the features of the test set",
        study="classification",
        quantities=(
            Quantity("compactness", "E_com", "compactness_test", 4),
            Quantity("distinctiveness", "E_dis", "distinctiveness_test", 4),
        ),
        select=classification_trials,
        build=generalization_table,
    ),
    PaperTable(
        name="s8",
        title="Table S-8. Final scores and biases by initial bias (bias_init_mean)",
        study="bias_init",
        quantities=_BY_BIAS,
        select=partial(family_trials, varying=BIAS_INIT),
        build=partial(bias_table, varying=BIAS_INIT),
    ),
    PaperTable(
        name="s9",
        title="Table S-9. Final scores and biases by bias decay (λ_b)",
        study="bias_decay",
        quantities=_BY_BIAS,
        select=partial(family_trials, varying=BIAS_DECAY),
        build=partial(bias_table, varying=BIAS_DECAY),
    ),
)
_BY_NAME: Final = {table.name: table for table in TABLES}
NAMES: Final = tuple(_BY_NAME)
# What the paper's tables take from the epochs; `accuracy_test` chooses the best epoch.
EPOCH_COLUMNS: Final = frozenset(
    column
    for table in TABLES
    for quantity in table.quantities
    for column in (quantity.column, quantity.spread_column, "accuracy_test")
    if column
)
_BEST_NOTE = (
    "--select best: each trial at the epoch of its highest accuracy on the test set; chosen there, "
    "so too high for every loss"
)


def build_table(
    results: Results,
    name: int | str,
    *,
    compare: bool = True,
    allow_partial: bool = False,
    select: str = LAST,
) -> Table:
    """One of the paper's tables; without rows, and with a note, where no trial is of its kind.

    Args: `name` as in NAMES; `compare` sets the published values (or the theory's) beside ours;
        `allow_partial` prints a dash in a cell that lacks trials, instead of refusing; `select` as
        for `measured.measured_trials`.
    Raises: GapError listing the trials that are missing; ValueError for an unknown table.
    """
    return build_tables(
        results, [name], compare=compare, allow_partial=allow_partial, select=select
    )[0]


def build_tables(
    results: Results,
    names: Sequence[int | str] = NAMES,
    *,
    compare: bool = True,
    allow_partial: bool = False,
    select: str = LAST,
) -> list[Table]:
    """Several tables; a gap in any of them is a gap in all, so that none is printed half."""
    unknown = sorted({str(name) for name in names} - set(NAMES))
    if unknown:
        raise ValueError(f"table={unknown} is unknown; the paper's tables are {list(NAMES)}")
    wanted = [_BY_NAME[str(name)] for name in names]
    measured = measured_trials(results, select=select)
    selected = {table.name: table.select(measured) for table in wanted}
    if not allow_partial and selected:
        _refuse_gaps(selected)
    left_out = left_out_trials(results)
    return [
        _built(results, table, selected[table.name], left_out, compare=compare, select=select)
        for table in wanted
    ]


def _refuse_gaps(selected: Mapping[str, pd.DataFrame]) -> None:
    gaps = {name: t for name, t in selected.items() if (t["status"] != FINISHED).any()}
    if gaps:
        trials = pd.concat(list(gaps.values())).drop_duplicates("trial_id")
        listed = ", ".join(_BY_NAME[name].label for name in gaps)
        refuse_gaps(trials, f"Table {listed}" if len(gaps) == 1 else f"Tables {listed}")


def _built(
    results: Results,
    table: PaperTable,
    trials: pd.DataFrame,
    left_out: pd.DataFrame,
    *,
    compare: bool,
    select: str,
) -> Table:
    if trials.empty:
        return _empty(results, table)
    built = table.build(table, trials, compare=compare)
    return with_notes(built, trials, table.select(left_out), select)


def _empty(results: Results, table: PaperTable) -> Table:
    command = f"python orchestrator/sweep.py --study {table.study} --results {results.path}"
    note = f"Table {table.label} has no trials in {results.path}; `{command}` runs them"
    return Table(table.file_name, table.title, (), (), (note,), ())


def with_notes(table: Table, trials: pd.DataFrame, left_out: pd.DataFrame, select: str) -> Table:
    """The table with what its reader must know: of the epochs that count, of trials left out, and
    of data that changed between its trials.
    """
    notes = [_BEST_NOTE] if select == BEST else []
    notes += data_notes(trials)
    if not left_out.empty:
        ids = ", ".join(sorted(left_out["trial_id"]))
        notes += [f"{len(left_out)} unfinished trials that are in no study are left out: {ids}"]
    return replace(table, notes=(*table.notes, *notes))
