"""The memory-mapped cache: shared, whole, and rebuilt when it is damaged."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from trainers.data import cache
from trainers.data.cache import DamagedError, Stored
from trainers.datasets import Pending

LABELS = np.array([2, 0, 1, 2, 1])
IMAGES = np.random.default_rng(0).integers(256, size=(5, 3, 4, 2), dtype=np.uint8)


def pending(images: np.ndarray = IMAGES) -> Pending:
    return Pending(LABELS[: len(images)], (3, 4, 2), lambda start, stop: images[start:stop])


class Source:
    """A dataset's file, and a count of how often it was decoded."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.file = folder / "source" / "images"
        self.file.parent.mkdir()
        self.file.write_bytes(IMAGES.tobytes())
        self.decoded = 0

    def decode(self) -> tuple[Pending, Pending]:
        self.decoded += 1
        images = np.frombuffer(self.file.read_bytes(), np.uint8).reshape(IMAGES.shape)
        return pending(images), pending(images[:2])

    def load(self, *, may_fetch: bool = False) -> tuple[Stored, Stored]:
        return cache.load(
            self.cache, "a-3px", source=self.file.parent, decode=self.decode, may_fetch=may_fetch
        )

    def files(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if path.name != ".lock")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def same(splits: tuple[Stored, Stored], images: np.ndarray = IMAGES) -> bool:
    return all(
        np.array_equal(split.images, images[:count])
        and np.array_equal(split.labels, LABELS[:count])
        for split, count in zip(splits, (5, 2), strict=True)
    )


@pytest.mark.parametrize("block_bytes", [1, 50, 1 << 20])  # of images of 24 bytes
def test_what_is_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("trainers.datasets.BLOCK_BYTES", block_bytes)
    cache.write(tmp_path / "a", pending())
    for split in (cache.read(tmp_path / "a"), cache.in_memory(pending())):
        assert np.array_equal(split.images, IMAGES)
        assert np.array_equal(split.labels, LABELS)
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)


def test_a_write_to_the_mapping_stays_in_its_process(tmp_path: Path) -> None:
    cache.write(tmp_path / "a", pending())
    mine, other = cache.read(tmp_path / "a"), cache.read(tmp_path / "a")
    mine.images[:] = 0
    assert np.array_equal(other.images, IMAGES)
    assert np.array_equal(cache.read(tmp_path / "a").images, IMAGES)


def test_a_flipped_bit_anywhere_and_any_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    cache.write(path, pending())
    good = path.read_bytes()
    used = len(good[: cache.HEADER_BYTES].rstrip())
    for at in (*range(used + 2), *range(cache.HEADER_BYTES, len(good))):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        with pytest.raises(DamagedError, match="is damaged"):
            cache.read(path)
    for length in (0, 1, used, cache.HEADER_BYTES, cache.HEADER_BYTES + 7, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(DamagedError, match="is damaged"):
            cache.read(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(DamagedError, match="another length"):
        cache.read(path)


def test_decoded_once_and_mapped_from_then_on(source: Source) -> None:
    assert same(source.load())
    assert same(source.load())
    assert source.decoded == 1
    assert [name.rsplit(".", 1)[1] for name in source.files()] == ["test", "train"]
    assert isinstance(source.load()[0].images, np.memmap)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[cache.HEADER_BYTES + 5] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, 4200)


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_cache_is_rebuilt_and_says_so(
    source: Source,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    split: str,
) -> None:
    source.load()
    (path,) = source.cache.glob(f"*.{split}")
    damage(path)
    assert same(source.load())
    said = capsys.readouterr().err
    assert said.startswith(f"cache {path} is damaged (")
    assert said.endswith("); it is built anew\n")
    assert said.count("\n") == 1
    assert same(source.load())
    assert source.decoded == 2
    assert capsys.readouterr().err == ""


def test_replaced_data_are_not_served_stale(source: Source) -> None:
    source.load()
    (source.cache / "a-3px-more.0.train").touch()  # another dataset's
    before = source.files()
    time_ns = source.file.stat().st_mtime_ns
    source.file.write_bytes((255 - IMAGES).tobytes())  # as many bytes, other pixels
    os.utime(source.file, ns=(time_ns, time_ns + 1))
    assert same(source.load(), 255 - IMAGES)
    assert source.decoded == 2
    assert len(source.files()) == 3
    assert set(source.files()) & set(before) == {"a-3px-more.0.train"}


def test_fingerprint_is_of_names_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    file = tmp_path / "raw" / "a"
    seen = [cache.fingerprint(tmp_path / "nowhere"), cache.fingerprint(tmp_path)]
    assert len(set(seen)) == 1
    file.write_bytes(b"12")
    os.utime(file, ns=(0, 10))
    seen.append(cache.fingerprint(tmp_path))
    (tmp_path / "raw" / "a.gz").touch()  # what it was extracted from
    assert cache.fingerprint(tmp_path) == seen[-1]
    os.utime(file, ns=(5, 11))
    seen.append(cache.fingerprint(tmp_path))
    file.write_bytes(b"123")
    os.utime(file, ns=(5, 11))
    seen.append(cache.fingerprint(tmp_path))
    file.rename(tmp_path / "a")
    seen.append(cache.fingerprint(tmp_path))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    seen.append(cache.fingerprint(tmp_path))
    assert len(set(seen[1:])) == len(seen) - 1


def test_where_no_folder_can_be_made_data_stay_in_memory(
    source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    source.cache.write_text("in the way")  # for root too, whom no mode stops
    assert same(source.load())
    said = capsys.readouterr().err
    assert "a-3px can't be cached in" in said
    assert "in memory" in said
    assert said.count("\n") == 1


def test_a_full_disk_leaves_data_in_memory_and_no_file(
    source: Source, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert same(source.load())
    assert "(No space left on device)" in capsys.readouterr().err
    assert source.files() == []


def test_missing_data_leave_nothing_behind(source: Source) -> None:
    source.file.unlink()
    source.file.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        source.load()
    assert not source.cache.exists()


def test_data_may_be_fetched_by_decoding(source: Source) -> None:
    source.file.unlink()
    source.file.parent.rmdir()
    decode = source.decode

    def fetch() -> tuple[Pending, Pending]:
        source.file.parent.mkdir()
        source.file.write_bytes(IMAGES.tobytes())
        return decode()

    source.decode = fetch
    assert same(source.load(may_fetch=True))
    source.decode = decode
    assert same(source.load())
    assert source.decoded == 1


PROCESS = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from trainers import datasets
from trainers.data import cache

folder = Path(sys.argv[1])

def images(start, stop):
    if sys.argv[2] == "die" and start:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full((stop - start, 3, 4, 2), 7, np.uint8)

def decode():
    with (folder / "decoded").open("a") as log:
        log.write("once\\n")
    time.sleep(0.5)
    split = datasets.Pending(np.zeros(4, np.int64), (3, 4, 2), images)
    return split, split

datasets.BLOCK_BYTES = 24
print("ready", flush=True)
sys.stdin.readline()
source = folder / "source"
train, _ = cache.load(folder / "cache", "a", source=source, decode=decode, may_fetch=True)
assert (train.images == 7).all() and len(train.labels) == 4
"""


def start(folder: Path, what: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, folder, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def go(*processes: subprocess.Popen[str]) -> list[int]:
    """Let them load at once, and wait for their exit codes."""
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
    return [process.returncode for process in processes]


def test_of_many_processes_one_decodes(tmp_path: Path) -> None:
    assert go(*(start(tmp_path, "well") for _ in range(4))) == [0] * 4
    assert (tmp_path / "decoded").read_text() == "once\n"


def test_a_writer_that_is_killed_leaves_nothing_to_trip_over(tmp_path: Path) -> None:
    assert go(start(tmp_path, "die")) == [-9]
    left = list((tmp_path / "cache").iterdir())
    assert any(path.suffix == ".part" for path in left)
    assert not any(path.suffix in (".train", ".test") for path in left)
    assert go(start(tmp_path, "well")) == [0]
    left = list((tmp_path / "cache").iterdir())
    assert sorted(path.suffix for path in left if path.name != ".lock") == [".test", ".train"]


def test_what_a_server_holds_on_to_ends_nothing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.load()
    source.file.write_bytes(IMAGES[::-1].tobytes())
    unlink = Path.unlink

    def busy(path: Path, missing_ok: bool = False) -> None:
        if path.suffix in (".train", ".test"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", busy)
    assert same(source.load(), IMAGES[::-1])
    assert len(source.files()) == 4
    assert source.decoded == 2
