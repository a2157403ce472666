"""One trial from the command line, without Ray."""

import json
from pathlib import Path

import pytest

from analysis.store.results import ResultStore
from tests.conftest import TINY
from trainers.config import TrialConfig
from trainers.train import main


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trial.json").write_text(json.dumps(TINY))
    (tmp_path / "bad.json").write_text(json.dumps({**TINY, "loss": "bec"}))
    for name, fields in (
        ("nodata", {"dataset": "mnist"}),
        ("kwargs", {"model_kwargs": {"chanels": [4, 4, 8, 8]}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({**TINY, **fields}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "twice.json").write_text('{"seed": 0, "seed": 1}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 5000)
    return tmp_path


def test_a_trial_is_trained_and_stored(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "trial.json", "--results", "out"]) == 0
    out = capsys.readouterr().out
    trial_id = TrialConfig.parse(TINY).trial_id
    assert out.startswith(trial_id)
    assert out.count("\nepoch ") == 3
    assert "finished after" in out
    assert len(ResultStore("out").read_rows("epochs", trial_id)) == 3


@pytest.mark.parametrize("size", ["2", "two"])
def test_half_a_torchrun_is_told(
    size: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    assert main(["--config", "trial.json"]) == 2
    assert "start it with torchrun, or unset WORLD_SIZE" in capsys.readouterr().err


def test_a_trial_that_diverges_says_so(somewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (somewhere / "wild.json").write_text(json.dumps({**TINY, "lr": 1e30}))
    assert main(["--config", "wild.json"]) == 1
    assert "diverged after" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config", "nothing.json"], "--config nothing.json can't be read"),
        (["--config", "broken.json"], "--config broken.json can't be read"),
        (["--config", "deep.json"], "--config deep.json can't be read"),
        (["--config", "twice.json"], "twice.json can't be read: 'seed' is given twice"),
        (["--config", "list.json"], "must hold an object of fields, not [1]"),
        (["--config", "bad.json"], "bad.json: loss='bec' is not a known loss; did you mean 'bce'?"),
        (["--config", "trial.json", "--results", "bad.json"], "can't be written"),
        (["--config", "nodata.json", "--no-download"], "MNIST can't be read from data"),
        (["--config", "kwargs.json"], "model_kwargs={'chanels': [4, 4, 8, 8]} don't fit resnet18"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    argv: list[str], message: str, somewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(somewhere.rglob("*"))
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(somewhere.rglob("*")) == before


@pytest.mark.parametrize("folder", ["bad.json", "bad.json/x"])
@pytest.mark.usefixtures("somewhere")
def test_data_in_a_file_are_refused(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--config", "trial.json", "--data-dir", folder])
    error = capsys.readouterr().err
    assert error.startswith("error: argument --data-dir: ")
    assert "bad.json is a file, and it has to be a folder" in error
    assert error.count("\n") == 1
