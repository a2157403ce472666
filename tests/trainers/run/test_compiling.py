"""A compiler's cache that a kill left damaged costs a compilation and no trial."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from analysis.store.results import ResultStore
from tests.conftest import TINY
from trainers.config import TrialConfig
from trainers.run import compiling
from trainers.run.check import check_trials
from trainers.run.compiling import FOLDER, MARK, again_if_cache_is_damaged
from trainers.run.ranks import RankLostError, Ranks

Tiny = Callable[..., TrialConfig]
ALONE = Ranks(torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process compiles into."""
    folder = tmp_path / "inductor"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    compiling._first_folder.cache_clear()
    yield folder
    compiling._first_folder.cache_clear()


class Fails:
    """Something to train, which the compiler fails at where a folder holds this."""

    def __init__(self, *bad: str, error: type[Exception] = TorchDynamoException) -> None:
        self.bad, self.error, self.folders = bad, error, list[str]()

    def __call__(self) -> str:
        folder = Path(os.environ[FOLDER])
        self.folders.append(folder.name)
        if folder.name in self.bad:
            raise self.error("it fails")
        return "trained"


def test_damage_is_left_behind_for_everybody(folder: Path) -> None:
    (folder / "half.so").touch()
    train = Fails("inductor")
    assert again_if_cache_is_damaged(train, ALONE) == "trained"
    assert train.folders == ["inductor", "inductor.2"]
    assert again_if_cache_is_damaged(train, ALONE) == "trained"  # the next trial
    assert train.folders[2:] == ["inductor.2"]
    assert (folder / "half.so").exists()  # others may use it


def test_what_fails_in_an_empty_folder_is_no_damage(folder: Path) -> None:
    (folder / "whole.so").touch()
    train = Fails("inductor", "inductor.2")
    with pytest.raises(TorchDynamoException):
        again_if_cache_is_damaged(train, ALONE)
    assert train.folders == ["inductor", "inductor.2"]
    assert not (folder / MARK).exists()  # the others' code there is as good as before


def test_another_error_has_nothing_to_do_with_it(folder: Path) -> None:
    (folder / "whole.so").touch()
    train = Fails("inductor", error=ValueError)
    with pytest.raises(ValueError, match="it fails"):
        again_if_cache_is_damaged(train, ALONE)
    assert train.folders == ["inductor"]
    assert not (folder / MARK).exists()


def test_of_several_ranks_other_processes_begin_again(folder: Path) -> None:
    (folder / "half.so").touch()
    two = Ranks(torch.device("cpu"), rank=1, world_size=2)
    with pytest.raises(RankLostError, match="compiling again"):
        again_if_cache_is_damaged(Fails("inductor"), two)
    train = Fails("inductor")
    assert again_if_cache_is_damaged(train, two) == "trained"
    assert train.folders == ["inductor.2"]


COMPILED = {**TINY, "model": "mlp", "model_kwargs": {"hidden": [8]}, "compile": True}
CHILD = """
import sys
import torch
from trainers.config import TrialConfig
from trainers.run import loop, trainer
from analysis.store.results import ResultStore
torch.set_num_threads(1)  # as the tests have it: bits depend on it
trainer.COMPILE_FROM_STEPS = 0
config = TrialConfig.model_validate_json(sys.argv[1])
loop.run_trial(config, lambda row: None, store=ResultStore(sys.argv[2]))
"""


def train(config: TrialConfig, store: ResultStore, cache: Path) -> str:
    """A compiled trial, in a process that has nothing loaded; what it says."""
    command = [sys.executable, "-c", CHILD, config.model_dump_json(), store.root]
    environment = {**os.environ, FOLDER: str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of a compiled trial, and what was compiled for it."""
    folder = tmp_path_factory.mktemp("compiled")
    train(TrialConfig.parse(COMPILED), ResultStore(folder / "whole"), folder / "cache")
    (folder / "cache").rename(folder / "kept")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["main.so", "py"])
def test_a_trial_compiles_again_and_its_numbers_are_the_same(
    compiled: Path, tmp_path: Path, without_times: Callable, suffix: str
) -> None:
    config, cache = TrialConfig.parse(COMPILED), compiled / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(compiled / "kept", cache)
    assert list(cache.glob(f"*/*.{suffix}"))
    for file in cache.glob(f"*/*.{suffix}"):  # as a kill leaves them
        os.truncate(file, 0)
    whole, again = ResultStore(compiled / "whole"), ResultStore(tmp_path / "again")
    assert f"compiled code in {cache} seems damaged" in train(config, again, cache)
    (trial,) = again.read_rows("trials", config.trial_id)
    assert (trial["status"], trial["attempts"]) == ("finished", 1)
    for table in ("trials", "epochs", "scores"):
        expected, found = (store.read_rows(table, config.trial_id) for store in (whole, again))
        assert without_times(found) == without_times(expected)
    assert "damaged" not in train(config.model_copy(update={"seed": 1}), again, cache)


@pytest.mark.parametrize(
    ("fields", "warned"),
    [({"epochs": 250}, True), ({"epochs": 249}, False), ({"compile": False}, False)],
)
def test_a_missing_compiler_is_told_if_it_will_be_needed(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fields: dict,
    warned: bool,
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++ -pipe")
    monkeypatch.setattr("trainers.run.check.default_device", lambda: torch.device("cpu"))
    config = tiny(**{"compile": True, "epochs": 1000, **fields})  # 60 samples: 4 steps an epoch
    check_trials([config], data_dir=Path("data"), download=False)
    error = capsys.readouterr().err
    assert ("there is no /nowhere/c++ here: 1 of the trials will fail" in error) == warned
    assert error.count("\n") == warned
