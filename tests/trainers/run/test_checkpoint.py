"""Whatever happens to a checkpoint's file, a trial goes on with the right numbers or anew."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from analysis.store.results import CHECKPOINTS, ResultStore
from analysis.store.rows import EpochRow
from trainers.config import TrialConfig
from trainers.run import checkpoint
from trainers.run.checkpoint import DamagedError, State, from_bytes, to_bytes
from trainers.run.loop import run_trial

Tiny = Callable[..., TrialConfig]
TRIAL, OTHER = "0123456789abcdef", "fedcba9876543210"
FLIPS = 1000


def row(epoch: int) -> EpochRow:
    seconds = {"samples_per_s": 9.0, "train_s": 0.5, "eval_s": 0.25, "epoch_s": 0.75}
    losses = {"train_loss": 1 / epoch, "train_objective": 2 / epoch}
    return cast(EpochRow, {"trial_id": TRIAL, "epoch": epoch, "lr": 0.1, **losses, **seconds})


def state(epoch: int, trial_id: str = TRIAL) -> State:
    """A small one, with all that a trial's has."""
    generator = torch.Generator().manual_seed(epoch)
    weights = torch.randn(4, 3, generator=generator)
    return State(
        trial_id,
        epoch,
        model={"weight": weights},
        optimizer={"state": {0: {"momentum_buffer": weights / 2}}, "param_groups": [{"lr": 0.1}]},
        class_means=weights.double(),
        rows=[row(e) for e in range(1, epoch + 1)],
        wall_s=float(epoch),
    )


def as_format_2(state: State) -> bytes:
    """The file as the release before wrote it."""
    buffer = io.BytesIO()
    torch.save(vars(state) | {"format": 2}, buffer)
    return buffer.getvalue()


def same(one: State, other: State) -> bool:
    """Whether two states are alike to the last bit."""
    return plain(vars(one)) == plain(vars(other))


def plain(content: Any) -> Any:
    """The same without tensors, which compare element by element."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items()}
    if isinstance(content, torch.Tensor):
        return str(content.dtype), content.tolist()
    return content


def files(store: ResultStore) -> list[Path]:
    return sorted(Path(store.path(CHECKPOINTS, TRIAL)).iterdir())


@pytest.fixture
def two(store: ResultStore) -> ResultStore:
    """A trial's checkpoints of epochs 1 and 2."""
    for epoch in (1, 2):
        checkpoint.save(store, state(epoch))
    return store


def test_what_was_saved_is_loaded(two: ResultStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert same(checkpoint.load(two, TRIAL), state(2))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("tenth", range(10))
def test_cut_at_every_tenth_the_one_before_is_used(
    two: ResultStore, capsys: pytest.CaptureFixture[str], tenth: int
) -> None:
    newest = files(two)[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size * tenth // 10])
    assert same(checkpoint.load(two, TRIAL), state(1))
    error = capsys.readouterr().err
    assert error.startswith(f"{TRIAL}: the checkpoint of epoch 2 is damaged (checksum of its ")
    assert error.endswith("; using the one before\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("write", [to_bytes, as_format_2])
def test_no_flipped_bit_gives_another_state(write: Callable[[State], bytes]) -> None:
    """Of format 2, whose checksums leave out a few bytes, the same state may come."""
    chance, whole = random.Random(0), write(state(2))
    loaded = 0
    for _ in range(FLIPS):
        damaged, at = bytearray(whole), chance.randrange(8 * len(whole))
        damaged[at // 8] ^= 1 << at % 8
        try:
            found = from_bytes(bytes(damaged), TRIAL)
        except DamagedError:
            continue
        assert same(found, state(2)), at
        loaded += 1
    assert loaded == 0 or write is as_format_2


def text(path: Path) -> None:
    path.write_text("my notes\n" * 100)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "notes.txt").touch()


def of_another_trial(path: Path) -> None:
    path.write_bytes(to_bytes(state(2, OTHER)))


def of_a_first_format(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"trial_id": TRIAL, "format": 1, "something": "else"}, buffer)
    path.write_bytes(buffer.getvalue())


def of_a_later_format(path: Path) -> None:
    later = state(2)
    later.format = 4
    path.write_bytes(to_bytes(later))


def a_table_of_weights(path: Path) -> None:
    torch.save(torch.ones(3), path)


REPLACED: dict[Callable[[Path], None], str] = {
    text: "is damaged (checksum of its 900 bytes)",
    folder: "is a folder",
    of_another_trial: f"is of trial {OTHER}, format 3, not of format 3",
    of_a_first_format: f"is of trial {TRIAL}, format 1, not of format 3",
    of_a_later_format: f"is of trial {TRIAL}, format 4, not of format 3",
    a_table_of_weights: "is of trial None, format None, not of format 3",
}


@pytest.mark.parametrize("replace", REPLACED, ids=lambda replace: replace.__name__)
def test_replaced_the_one_before_is_used_and_its_place_taken(
    two: ResultStore, capsys: pytest.CaptureFixture[str], replace: Callable[[Path], None]
) -> None:
    replace(files(two)[-1])
    assert same(checkpoint.load(two, TRIAL), state(1))
    error = capsys.readouterr().err
    assert f"the checkpoint of epoch 2 {REPLACED[replace]}" in error
    assert error.count("\n") == 1
    checkpoint.save(two, state(2))
    assert same(checkpoint.load(two, TRIAL), state(2))


def test_without_a_whole_one_it_starts_anew_and_keeps_what_it_writes(
    two: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in files(two):
        file.write_bytes(b"")
    assert same(checkpoint.load(two, TRIAL), State(TRIAL))
    assert [line.rpartition("; ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "using the one before",
        "starting anew",
    ]
    checkpoint.save(two, state(1))  # the damaged one of epoch 2 is no newer one
    assert [file.name for file in files(two)] == ["epoch_000001.pt"]
    assert same(checkpoint.load(two, TRIAL), state(1))


def test_the_last_two_are_kept(two: ResultStore) -> None:
    for epoch in range(3, 12):
        checkpoint.save(two, state(epoch))
    assert [file.name for file in files(two)] == ["epoch_000010.pt", "epoch_000011.pt"]
    assert same(checkpoint.load(two, TRIAL), state(11))


def test_other_names_are_not_looked_at(
    two: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = files(two)[-1]
    names = ["epoch_000003.pt.bak", "epoch_3.pt", "zzz.pt", ".epoch_000003.pt.0.part", "notes.txt"]
    for name in names:
        newest.with_name(name).write_text("mine")
    assert same(checkpoint.load(two, TRIAL), state(2))
    checkpoint.save(two, state(3))
    assert capsys.readouterr().err == ""
    assert {*names} < {file.name for file in files(two)}


def test_one_of_the_release_before_is_gone_on_from(
    two: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    files(two)[-1].write_bytes(as_format_2(state(2)))
    assert same(checkpoint.load(two, TRIAL), state(2))
    assert capsys.readouterr().err == ""


def test_a_disk_that_does_not_answer_is_no_damage(
    two: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_bytes(*parts: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(two, "read_bytes", read_bytes)
    with pytest.raises(PermissionError):
        checkpoint.load(two, TRIAL)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Stop(BaseException):
    """Ends a trial from outside, as Ctrl-C does."""


@pytest.mark.parametrize("damage", [flip, text, folder, of_another_trial])
def test_a_trial_whose_newest_is_damaged_ends_as_undisturbed(
    tiny: Tiny, tmp_path: Path, without_times: Callable, damage: Callable[[Path], None]
) -> None:
    config = tiny(samples_per_class=3)
    whole, parts = ResultStore(tmp_path / "whole"), ResultStore(tmp_path / "parts")
    run_trial(config, lambda row: None, store=whole)

    def stop_after_two(row: EpochRow) -> None:
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        run_trial(config, stop_after_two, store=parts)
    damage(Path(parts.path(CHECKPOINTS, config.trial_id, "epoch_000002.pt")))
    run_trial(config, lambda row: None, store=parts)
    for table in ("trials", "epochs", "scores"):
        expected, found = (store.read_rows(table, config.trial_id) for store in (whole, parts))
        assert without_times(found) == without_times(expected)
    assert parts.names(CHECKPOINTS) == []
