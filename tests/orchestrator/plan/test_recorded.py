"""The grid as run: it holds every config, only grows, and its command runs all of it."""

from pathlib import Path

import pytest
import yaml

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from analysis.store.studies import parse_recorded
from orchestrator.plan.recorded import continue_command, read_recorded, write_recorded
from orchestrator.plan.study import expand, parse_study
from trainers.config import TrialConfig

GRID = "{dataset: digits, model: resnet18, loss: [ce, bce], optimizer: sgd, lr: 1e-7, seed: [0, 1]}"


@pytest.fixture
def trials() -> list[TrialConfig]:
    return list(expand(parse_study(GRID, name="mine", where="mine.yaml")).values())


def test_it_holds_every_config(store: ResultStore, trials: list[TrialConfig]) -> None:
    write_recorded(store, "mine", trials, ["--study", "my study.yaml"])
    content = yaml.safe_load(store.read_bytes("studies", "mine.yaml"))
    assert content["study"] == "mine"
    assert content["command"] == "python orchestrator/sweep.py --study 'my study.yaml'"
    for config in trials:
        found = {**content["fixed"], **content["trials"][config.trial_id]}
        assert found == config.row()


def test_a_smaller_command_changes_nothing(store: ResultStore, trials: list[TrialConfig]) -> None:
    write_recorded(store, "mine", trials, ["--study", "mine"])
    before = store.read_bytes("studies", "mine.yaml")
    write_recorded(store, "mine", trials[:1], ["--study", "mine", "--limit", "1"])
    assert store.read_bytes("studies", "mine.yaml") == before


def test_a_larger_command_takes_its_place(store: ResultStore, trials: list[TrialConfig]) -> None:
    write_recorded(store, "mine", trials[:1], ["--limit", "1"])
    write_recorded(store, "mine", trials, [])
    plan = read_recorded(store, "mine")
    assert plan
    assert plan.trials.keys() == {config.trial_id for config in trials}
    assert plan.command == "python orchestrator/sweep.py"


def test_another_command_is_added(store: ResultStore, trials: list[TrialConfig]) -> None:
    write_recorded(store, "mine", trials[:2], ["--seeds", "0"])
    write_recorded(store, "mine", trials[1:], ["--seeds", "1"])
    plan = parse_recorded(store.read_bytes("studies", "mine.yaml").decode(), source="it")
    assert plan.trials == {config.trial_id: config.row() for config in trials}
    sweep = "python orchestrator/sweep.py"
    assert plan.command == f"{sweep} --seeds 0 && {sweep} --seeds 1"


@pytest.mark.parametrize(
    "argv", [["--rerun", "all", "--epochs", "3"], ["--epochs", "3", "--rerun=all"]]
)
def test_what_carries_on_does_not_begin_again(argv: list[str]) -> None:
    assert continue_command(argv) == "python orchestrator/sweep.py --epochs 3"
    assert continue_command(argv, "--rerun", "failed").endswith("--epochs 3 --rerun failed")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cret%40@host/db", "postgresql://me:***@host/db"),
        ("http://me:pass:word@host:5000", "http://me:***@host:5000"),
        ("postgresql://me:s3/c@ret@host/db", "postgresql://me:***@host/db"),
        ("https://t0ken@host/x", "https://***@host/x"),
        (
            "postgresql://host/db?user=me&password=s3cret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
    ],
)
def test_no_password_is_stored(
    tmp_path: Path, trials: list[TrialConfig], uri: str, shown: str
) -> None:
    write_recorded(ResultStore(tmp_path), "mine", trials, ["--tracking-uri", uri])
    text = (tmp_path / "studies" / "mine.yaml").read_text()
    assert shown in text
    assert (uri in text) == (uri == shown)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").write_text("trials: [1")
    with pytest.raises(InputError, match=r"studies/mine\.yaml.*not valid YAML") as error:
        read_recorded(ResultStore(tmp_path), "mine")
    assert "\n" not in str(error.value)
