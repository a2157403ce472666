"""The reference of all columns, docs/results.md, made from the schema.

python -m analysis.store.schema_page > docs/results.md
"""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from analysis.store.schema import SCHEMA_VERSION, TABLES, TIME_COLUMNS

INTRODUCTION = f"""\
# What a results folder holds

<!-- made by `python -m analysis.store.schema_page`; a test compares -->

A results folder, or the place at an object store, is one Parquet file a trial and table, named by
the trial's id; `python -m analysis.compact` makes many of them few. Any reader of Parquet opens a
table as a folder:

```python
import pandas as pd

trials = pd.read_parquet("results/trials")
epochs = pd.read_parquet("results/epochs", columns=["trial_id", "epoch", "nc1_train"])
epochs.merge(trials[["trial_id", "loss", "seed"]], on="trial_id")
```

```sql
SELECT loss, avg(accuracy_test) FROM 'results/epochs/*.parquet' JOIN 'results/trials/*.parquet'
USING (trial_id) WHERE status = 'finished' AND epoch = epochs_done GROUP BY loss;  -- DuckDB
```

`analysis.load_results("results")` does the same with the checks of the tables: broken files and
other versions are named, and a merged trial that ran again is read once. With a reader of your
own, run `python -m analysis.compact` again after such a rerun; until then it sees both.

Beside the tables lie `studies/` (the grid as it was asked for: YAML, one file a study),
`checkpoints/` (of trials under way), `tables/`, `figures/`, `report.html` and `mlflow.db`. Only
the Parquet files and `studies/` can't be made again.

The schema's version, {SCHEMA_VERSION}, is in every file's metadata, and so are each column's unit
and description. Metrics are of float64 and exact; how each is computed is in
[metrics.md](metrics.md). Null is a metric that wasn't measured (an epoch without evaluation, a test
set that doesn't exist), or that is no finite number there (cosines where a class has no sample,
`cdnv` of class means that coincide).
"""
ABOUT = {
    "trials": "One row a trial: its config, its end, where and with what it ran. Written when it "
    "starts, ends, or is stopped.",
    "epochs": "One row an epoch, in float64, written when the trial ends. Until then its rows "
    "are in its checkpoint, and in MLflow.",
    "scores": "Histograms of a finished trial's final scores, and its K biases.",
    "features": "The final features of the test set, of finished classification trials.",
}


def page() -> str:
    """The page, in Markdown."""
    tables = (
        f"## `{name}/`\n\n{ABOUT[name]}\n\n" + "\n".join(_lines(schema))
        for name, schema in TABLES.items()
    )
    times = ", ".join(f"`{name}`" for name in sorted(TIME_COLUMNS))
    last = f"Two runs of one trial agree to the last bit in all columns but {times} and `attempts`."
    return "\n\n".join((INTRODUCTION.rstrip(), *tables, last)) + "\n"


def _lines(schema: Iterable[pa.Field]) -> Iterator[str]:
    yield "| column | type | unit | what |\n|---|---|---|---|"
    for field in schema:
        unit, about = (field.metadata[key].decode() for key in (b"unit", b"description"))
        yield f"| `{field.name}` | {field.type} | {unit} | {about.replace(' | ', ', ')} |"


if __name__ == "__main__":
    print(page(), end="")
