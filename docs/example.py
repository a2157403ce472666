# %% [markdown]
"""# Your own look at a results folder

Run it as a script, `python docs/example.py results`, or cell by cell in an editor or notebook.
"""

# %%
import sys

from analysis import load_results
from analysis.tables.catalogue import build_table
from analysis.theory.minima import minimum
from analysis.trials.measured import measured_trials
from analysis.trials.stats import paired_difference

results = load_results(sys.argv[1] if len(sys.argv) > 1 else "results")

# %% [markdown]
# Four typed frames, whose columns and units are in `analysis.store.schema`; a metric that is not
# defined is NaN. `measured_trials` joins them: a row for each trial, with its last epoch's metrics.

# %%
trials = measured_trials(results)
print(trials.groupby(["dataset", "model", "status"]).size())

# %% [markdown]
# BCE against CE, paired by seed, in a cell of one's own making.

# %%
cell = trials[(trials["regularizer"] == "global") & (trials["optimizer"] == "sgd")]
by_seed = {
    loss: dict(zip(rows["seed"], rows["uniform_accuracy_test"], strict=True))
    for loss, rows in cell.groupby("loss")
}
if {"ce", "bce"} <= set(by_seed):
    print(paired_difference(by_seed["bce"], by_seed["ce"]))

# %% [markdown]
# A table of the paper as an object (`columns`, `rows`, `notes`, and `records` in full precision),
# and what theory says.

# %%
table = build_table(results, 2, allow_partial=True)
print(table.title, table.columns, *table.rows, sep="\n")
print(minimum("bce", 10, 12.8, 5e-4, 5e-4, 5e-4))
