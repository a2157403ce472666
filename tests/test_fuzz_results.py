"""Whatever happens to a results folder, its readers read it or say what is wrong with it."""

import io
import shutil
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from analysis.store.errors import InputError, ResultsError
from analysis.store.reading import read_files
from analysis.store.results import ResultStore
from analysis.store.schema import EPOCHS
from analysis.tables.__main__ import main
from orchestrator.plan.ledger import read_ledger
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store
from tests.fuzzing import FUZZ, ODD

TEST = {"accuracy_test": 0.5, "uniform_accuracy_test": 0.25, "compactness_test": 0.5,
        "distinctiveness_test": 0.25, "nc1_train": 1.0, "s_pos_mean_train": 2.0}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a trial for cells of all tables, a study and a trial that never ran."""
    store = Store(tmp_path_factory.mktemp("whole") / "results")
    plan = {
        store.add(config, TEST, loss=loss, scores={"bias": [(0.5, 0.5, 1)]}): {
            **config,
            "loss": loss,
        }
        for config in (CLASSIFICATION, COLLAPSE)
        for loss in ("ce", "bce")
    }
    store.study("mine", plan)
    return store.root


HOW = ("cut", "flip", "empty", "text", "drop", "null", "retype", "value", "version", "stray",
       "remove", "folder")  # fmt: skip


@st.composite
def damages(draw: st.DrawFn) -> list[Any]:
    """What happens to a folder: which of its files, and what to each."""
    changed = st.tuples(
        st.sampled_from(HOW),
        st.integers(0, 2**31),
        st.integers(0, 2**31),
        ODD,
    )  # fmt: skip
    return draw(st.lists(changed, min_size=1, max_size=2))


def damage(root: Path, how: str, which: int, where: int, value: Any) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        return
    path = files[which % len(files)]
    content = path.read_bytes()
    at = where % max(len(content), 1)
    text = str(value).encode("utf-8", "surrogatepass")
    if how == "cut":
        path.write_bytes(content[:at])
    elif how == "flip" and content:
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << which % 8)]) + content[at + 1 :])
    elif how in ("empty", "text"):
        path.write_bytes(text if how == "text" else b"")
    elif how == "stray":
        path.with_name(f"stray{path.suffix}").write_bytes(text)
    elif how in ("remove", "folder"):
        path.unlink()
        if how == "folder":
            path.mkdir()
    elif path.suffix == ".yaml":
        path.write_bytes(content[:at] + text + content[at:])
    else:
        rewrite(path, how, where, value)


def rewrite(path: Path, how: str, where: int, value: Any) -> None:
    """Another column, type or version in a file that is a whole Parquet file all the same."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        return  # damaged already
    if how == "version":
        pq.write_table(table.replace_schema_metadata({"schema_version": repr(value)}), path)
        return
    if not table.column_names:
        return
    column = where % len(table.column_names)
    name = table.column_names[column]
    if how == "drop":
        changed = table.drop_columns([name])
    else:
        kind = table.schema.field(name).type if how == "null" else None
        other = [None if how == "null" else repr(value) if how == "retype" else value] * len(table)
        try:
            changed = table.set_column(column, name, pa.array(other, kind))
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            return
    pq.write_table(changed, path)


COMMANDS = ([], ["--allow-partial", "--trace"], ["--by", "loss", "regularizer"])


@settings(FUZZ, max_examples=max(FUZZ.max_examples // 5, 1))  # each takes some 0.2 s
@given(done=damages(), more=st.sampled_from(COMMANDS))
def test_a_damaged_results_folder(whole: Path, done: list[Any], more: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = shutil.copytree(whole, Path(folder) / "results")
        for each in done:
            damage(root, *each)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            assert main(["--results", str(root), *more]) in (0, 1, 2)
        with suppress(InputError):  # a line for each file
            assert read_ledger(ResultStore(root)).costs is not None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The epochs of a trial as trainers write them."""
    store = ResultStore(tmp_path_factory.mktemp("written"))
    rows = [{"trial_id": "a", "epoch": i, "nc1_train": 1 / i, "lr": 0.1} for i in range(1, 30)]
    store.write_rows("epochs", "a", rows)
    return Path(store.path("epochs", "a.parquet"))


@FUZZ
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_never_gives_another_number(written: Path, where: float, bit: int) -> None:
    content = bytearray(written.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    at = 4 + int(where * (footer - 4))
    content[at] ^= 1 << bit
    whole = read_files(fs.LocalFileSystem(), [str(written)], EPOCHS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        path.write_bytes(content)
        with suppress(ResultsError):
            assert read_files(fs.LocalFileSystem(), [str(path)], EPOCHS).equals(whole)
