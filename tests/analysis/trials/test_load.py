import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.store.errors import ResultsError
from analysis.store.reading import read_files
from analysis.store.schema import EPOCHS, FEATURES, TRIALS
from analysis.trials.load import load_results
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store


def test_reads_rows_types_and_nulls(store: Store) -> None:
    first = store.add(COLLAPSE, [{"nc1_train": 2.0}, {"nc1_train": None}], samples_per_class=5)
    store.add(CLASSIFICATION, {"nc1_train": 1.0}, scores={"bias": [(0.5, 0.5, 1)]})
    results = load_results(store.root)
    assert len(results.trials) == 2
    assert results.trials["lambda_w"].isna().tolist() == [False, True]
    epochs = results.epochs[results.epochs["trial_id"] == first]
    assert epochs["epoch"].tolist() == [1, 2]
    assert epochs["nc1_train"].iloc[0] == 2.0
    assert pd.isna(epochs["nc1_train"].iloc[1])
    assert results.scores["count"].tolist() == [1]
    assert results.features.empty
    assert results.studies == ()
    assert results.plan.empty


def test_file_uri_is_the_same_folder(store: Store) -> None:
    store.add(COLLAPSE, {"nc1_train": 2.0})
    assert len(load_results(store.root.as_uri()).trials) == 1


def test_reads_only_what_is_asked_for(store: Store) -> None:
    trial_id = store.add(COLLAPSE, {"nc1_train": 2.0})
    row = {"trial_id": trial_id, "sample_index": 3, "label": 1, "features": [0.5, 1.5]}
    store.write("features", trial_id, [row], FEATURES)
    results = load_results(store.root, tables=("features",))
    assert results.trials.empty
    assert results.features["features"].iloc[0].tolist() == [0.5, 1.5]
    with pytest.raises(ValueError, match=r"tables=\['score'\] are unknown"):
        load_results(store.root, tables=("score",))


def test_hidden_files_are_parts_of_writes_and_ignored(store: Store) -> None:
    store.add(COLLAPSE, {"nc1_train": 2.0})
    for name in (".x.parquet.part", ".x.parquet", "_x.parquet"):
        (store.root / "trials" / name).write_bytes(b"half")
    assert len(load_results(store.root).trials) == 1


@pytest.mark.parametrize("exists", [True, False])
def test_no_results_says_how_to_get_some(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
    with pytest.raises(ResultsError, match=r"python orchestrator/sweep\.py --results ") as caught:
        load_results(folder)
    assert "\n" not in str(caught.value)


def test_unknown_uri_scheme_is_a_results_error() -> None:
    with pytest.raises(ResultsError, match="can't open results at nowhere://x"):
        load_results("nowhere://x")


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_truncated_file_is_named(store: Store, keep: int) -> None:
    store.add(COLLAPSE, {"nc1_train": 2.0})
    path = store.root / "epochs" / f"{store.add(COLLAPSE, {'nc1_train': 1.0}, seed=1)}.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ResultsError, match=f"{path.name} is not a whole Parquet file"):
        load_results(store.root)


@pytest.mark.parametrize("version", [b"0", None])
def test_other_schema_version_is_refused(store: Store, version: bytes | None) -> None:
    store.add(COLLAPSE, {"nc1_train": 2.0})
    metadata = {b"schema_version": version} if version else None
    path = store.root / "epochs" / "x.parquet"
    pq.write_table(EPOCHS.empty_table().replace_schema_metadata(metadata), path)
    found = "0" if version else "none"
    with pytest.raises(ResultsError, match=f"x.parquet has schema_version {found}, .* reads 1"):
        load_results(store.root)


def test_a_column_that_a_file_lacks_is_null(store: Store) -> None:
    path = store.root / "trials" / "x.parquet"
    path.parent.mkdir(parents=True)
    names = ["trial_id", "status"]
    schema = pa.schema([TRIALS.field(name) for name in names], metadata=TRIALS.metadata)
    pq.write_table(pa.table({"trial_id": ["x"], "status": ["finished"]}, schema=schema), path)
    trials = load_results(store.root).trials
    assert trials.columns.tolist() == TRIALS.names
    assert trials["lambda_b"].isna().all()


def test_a_column_of_another_type_is_refused(store: Store) -> None:
    path = store.root / "trials" / "x.parquet"
    path.parent.mkdir(parents=True)
    table = pa.table({"epochs_done": ["ten"]}).replace_schema_metadata(TRIALS.metadata)
    pq.write_table(table, path)
    with pytest.raises(ResultsError, match=r"x\.parquet has a column of another type"):
        load_results(store.root)


def test_importing_analysis_imports_neither_torch_nor_pandas() -> None:
    code = "import analysis, sys; print(any(m in sys.modules for m in ('torch', 'ray', 'pandas')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_broken_file_is_named_at_once(store: Store) -> None:
    ids = [store.add(COLLAPSE, {"accuracy_train": 1.0}, seed=seed) for seed in range(3)]
    broken = [
        store.root / "trials" / f"{ids[0]}.parquet",
        store.root / "epochs" / f"{ids[1]}.parquet",
        store.root / "epochs" / f"{ids[2]}.parquet",
    ]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ResultsError) as caught:
        load_results(store.root)
    lines = str(caught.value).splitlines()
    assert [line.split(" is not a whole")[0] for line in lines] == [str(path) for path in broken]


def test_what_can_not_be_read_now_is_no_broken_file() -> None:
    class Failing:
        def open_input_stream(self, path: str) -> None:
            raise OSError("AWS Error NETWORK_CONNECTION")

    files = [f"bucket/trials/{i}.parquet" for i in range(30)]
    with pytest.raises(ResultsError, match=r"can't be read now.*NETWORK") as caught:
        read_files(Failing(), files, TRIALS)  # pyright: ignore[reportArgumentType]
    lines = str(caught.value).splitlines()
    assert "delete" not in lines[0]
    assert (len(lines), lines[-1]) == (21, "and 10 more such files")


def test_only_the_epoch_columns_that_are_needed(store: Store) -> None:
    store.add(COLLAPSE, {"accuracy_train": 1.0, "nc1_train": 0.5})
    results = load_results(store.root, epoch_columns=["nc1_train"])
    assert sorted(results.epochs.columns) == ["epoch", "nc1_train", "trial_id"]
    assert results.epochs["nc1_train"].tolist() == [0.5]
