"""The store: whole files, typed rows, locks that die with their holder."""

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from analysis.store import location, locks
from analysis.store.errors import InputError, WriteError
from analysis.store.files import write_atomic
from analysis.store.results import ResultStore
from analysis.store.schema import SCHEMA_VERSION, TABLES
from tests.s3_server import FAULTS, Faulty, serve


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """An empty one, where the tests beside these have recorded trials in theirs."""
    return ResultStore(tmp_path / "results")


def test_rows_come_back_with_the_schema(store: ResultStore) -> None:
    row = {"trial_id": "abc", "epoch": 1, "lr": 0.1, "nc1_train": float("nan"), "train_s": 0.5}
    store.write_rows("epochs", "abc", [row])
    assert store.read_rows("epochs", "abc")[0]["nc1_train"] is None
    schema = pq.read_schema(store.path("epochs", "abc.parquet"))
    assert schema.equals(TABLES["epochs"])
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    assert schema.field("train_s").metadata[b"unit"] == b"s"


def test_no_table_has_an_untyped_column(store: ResultStore) -> None:
    started = {"trial_id": "abc", "started_at": datetime.now(UTC)}
    store.write_rows("trials", "abc", [started])
    assert store.read_rows("trials", "abc")[0]["started_at"] == started["started_at"]
    assert {str(t) for table in TABLES.values() for t in table.types} <= {
        "string", "int32", "int64", "double", "timestamp[us, tz=UTC]", "list<item: float>",
        "list<element: float>", "bool",
    }  # fmt: skip


def test_a_column_that_is_not_in_the_schema_is_our_mistake(store: ResultStore) -> None:
    with pytest.raises(AssertionError, match="speed"):
        store.write_rows("epochs", "abc", [{"trial_id": "abc", "speed": 1.0}])


def test_a_file_is_replaced_whole_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for content in (b"old", b"new and longer"):
        write_atomic(fs.LocalFileSystem(), str(path), content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = re.escape(f"file can't be written into {tmp_path}: No space left on device")
    with pytest.raises(WriteError, match=message):
        write_atomic(fs.LocalFileSystem(), str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_object_store_gets_one_put() -> None:
    memory = fs._MockFileSystem(datetime.now(UTC))  # pyright: ignore[reportAttributeAccessIssue]
    write_atomic(memory, "bucket/results/trials/a.parquet", b"rows")
    with memory.open_input_stream("bucket/results/trials/a.parquet") as stream:
        assert stream.read() == b"rows"


def test_parts_of_killed_writers_are_removed(store: ResultStore, tmp_path: Path) -> None:
    store.write_bytes(b"x", "trials", "a.parquet")
    (tmp_path / "results" / "trials" / ".b.parquet.123.part").write_bytes(b"half")
    assert store.names("trials") == ["a.parquet"]
    store.remove_leftovers()
    assert os.listdir(tmp_path / "results" / "trials") == ["a.parquet"]


def test_a_part_that_is_being_written_stays(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def another_sweep_starts(file: int) -> None:
        store.remove_leftovers()
        sync(file)

    monkeypatch.setattr("os.fsync", another_sweep_starts)
    store.write_bytes(b"x", "trials", "a.parquet")
    assert store.read_bytes("trials", "a.parquet") == b"x"
    assert os.listdir(tmp_path / "results" / "trials") == ["a.parquet"]


def test_uri_and_path_are_one_store(tmp_path: Path) -> None:
    ResultStore(f"file://{tmp_path}/results").write_bytes(b"x", "trials", "a")
    assert ResultStore(tmp_path / "results").read_bytes("trials", "a") == b"x"


@pytest.mark.parametrize("place", ["a_file", "a_file/below", "/proc/results"])
def test_a_place_that_cannot_be_written_is_refused_and_left_alone(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "a_file").write_text("mine")
    with pytest.raises(InputError, match="can't be written"):
        ResultStore(tmp_path / place).check_writable()
    assert list(tmp_path.iterdir()) == [tmp_path / "a_file"]


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    ResultStore(tmp_path / "new" / "results").check_writable()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="ftp://host/x"):
        ResultStore("ftp://host/x")


def hold(root: Path, ready: str) -> None:
    with ResultStore(root).lock(".lock", wait=True):
        Path(ready).touch()
        time.sleep(60)


def test_a_lock_is_exclusive_and_dies_with_its_holder(tmp_path: Path) -> None:
    store, ready = ResultStore(tmp_path / "results"), tmp_path / "ready"
    holder = multiprocessing.get_context("spawn").Process(
        target=hold, args=(tmp_path / "results", str(ready))
    )
    holder.start()
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(BlockingIOError), store.lock(".lock", wait=False):
        pass
    assert holder.pid
    os.kill(holder.pid, signal.SIGKILL)
    with store.lock(".lock", wait=True):
        pass
    holder.join()
    assert list((tmp_path / "results").iterdir()) == []


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    with serve(monkeypatch) as server:
        yield server


def test_a_failing_object_store_is_asked_again(s3: Faulty) -> None:
    store, failures = ResultStore("s3://bucket/run"), len(FAULTS)
    s3.rate = 0.3
    for number in range(25):
        store.write_bytes(b"content", "trials", f"{number:02d}")
        assert store.read_bytes("trials", f"{number:02d}") == b"content"
    store.write_bytes(b"", "checkpoints", "abc", "empty")
    store.remove_folder("checkpoints", "abc")
    assert store.names("trials") == [f"{number:02d}" for number in range(25)]
    assert store.names("checkpoints") == []
    assert len(s3.seen) == failures + 1  # each of them, and none


def test_an_object_store_that_is_gone_is_an_error(
    s3: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = fs.AwsDefaultS3RetryStrategy(max_attempts=2)
    monkeypatch.setitem(location.PATIENT["s3"], "retry_strategy", once)
    store = ResultStore("s3://bucket/run")
    s3.rate = 1
    with pytest.raises(WriteError, match="rows can't be written into bucket/run/trials: "):
        store.write_bytes(b"content", "trials", "rows")


def test_google_s_store_is_not_waited_for_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = location.PATIENT["gcs"]["retry_time_limit"]
    assert limit < timedelta(minutes=1)
    monkeypatch.setitem(location.PATIENT["gcs"], "retry_time_limit", limit / 50)
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    begin = time.monotonic()
    with pytest.raises(OSError, match="Retry policy exhausted"):
        ResultStore("gs://bucket/run").names("trials")
    assert time.monotonic() - begin < 20


def test_a_small_file_is_one_request_to_s3(s3: Faulty) -> None:
    store, before = ResultStore("s3://bucket/run"), s3.seen.total()
    store.write_bytes(b"content", "deep", "down", "file")
    assert s3.seen.total() - before == 1


def test_s3_has_locks(s3: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_S", 0.1)
    store = ResultStore("s3://bucket/run")
    with store.lock("checkpoints", ".abc.lock", wait=False) as check:
        check()
        with pytest.raises(BlockingIOError), store.lock("checkpoints", ".abc.lock", wait=False):
            pass
        assert store.names("checkpoints") == []
    with store.lock("checkpoints", ".abc.lock", wait=False):
        pass
    monkeypatch.setattr(locks, "LEASE_S", -1.0)  # what is of the same second is old, too
    store.write_bytes(b"", "checkpoints", ".other.lock.dead")
    store.remove_leftovers()
    found = store.filesystem.get_file_info(fs.FileSelector(store.root, recursive=True))
    assert [info.path for info in found if info.is_file] == []


def test_what_a_server_keeps_of_a_removed_folder_is_no_error(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_bytes(b"1", "checkpoints", "a", "epoch_000001.pt")
    folder = Path(store.root) / "checkpoints" / "a"

    def delete(path: str) -> None:
        """As on NFS: a file that is open elsewhere gets another name, and its folder can't go."""
        if keeps:
            (folder / "epoch_000001.pt").rename(folder / ".nfs0001")
        raise OSError(39, "Directory not empty")

    filesystem = SimpleNamespace(delete_dir=delete, get_file_info=store.filesystem.get_file_info)
    monkeypatch.setattr(store, "filesystem", filesystem)
    keeps = False
    with pytest.raises(OSError, match="not empty"):
        store.remove_folder("checkpoints", "a")
    keeps = True
    store.remove_folder("checkpoints", "a")
    assert store.names("checkpoints", "a") == []


def test_a_part_that_stays_hides_no_error_and_is_no_error(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "unlink", busy)
    store.write_bytes(b"1", "a")
    assert store.read_bytes("a") == b"1"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        store.write_bytes(b"2", "a")
    assert store.read_bytes("a") == b"1"
