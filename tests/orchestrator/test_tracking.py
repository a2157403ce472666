"""The mirror in MLflow: one run per trial for ever, each epoch once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.tracking import Mirror
from trainers.config import TrialConfig

pytestmark = [
    pytest.mark.slow,  # imports MLflow and makes its database
    pytest.mark.filterwarnings("default"),  # MLflow's own
]
EPOCHS = [{"trial_id": "x", "epoch": e, "train_loss": 1 / e, "nc1_train": None} for e in (1, 2, 3)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def config(tiny: Callable[..., TrialConfig]) -> TrialConfig:
    return tiny()


def test_a_trial_is_one_run_with_each_epoch_once(uri: str, config: TrialConfig) -> None:
    from mlflow import MlflowClient

    trials = {config.trial_id: ("my study", config)}
    with Mirror(uri, trials) as first:  # a sweep that was cut off after two epochs
        first.rows(config.trial_id, EPOCHS[:2])
    trial = {"trial_id": config.trial_id, "status": "finished", "reason": None, "device": "cpu"}
    with Mirror(uri, trials) as second:  # the one that carried on
        second.rows(config.trial_id, EPOCHS[1:2])
        second.ended(trial, EPOCHS)
    assert first.error is None
    assert second.error is None
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("my study")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["trial_id"] == config.trial_id
    assert run.data.tags["status"] == "finished"
    assert run.data.params["loss"] == "bce"
    history = client.get_metric_history(run.info.run_id, "train_loss")
    assert sorted((m.step, m.value) for m in history) == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "nc1_train" not in run.data.metrics


def test_a_server_that_is_down_is_reported_and_stops_nothing(
    config: TrialConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with Mirror(f"sqlite:///{tmp_path}/file/mlflow.db", {config.trial_id: ("s", config)}) as mirror:
        mirror.rows(config.trial_id, EPOCHS)
    assert mirror.error


def test_what_a_killed_sweep_left_open_is_brought_up_to_date(
    uri: str, tiny: Callable[..., TrialConfig]
) -> None:
    from mlflow import MlflowClient

    never, half, whole = (tiny(seed=s) for s in (11, 12, 13))
    trials = {c.trial_id: ("caught up", c) for c in (never, half, whole)}
    ended = {"status": "finished", "reason": None, "device": "cpu"}
    with Mirror(uri, trials) as first:
        first.rows(half.trial_id, EPOCHS[:1])
        first.ended({"trial_id": whole.trial_id, **ended}, EPOCHS)

    def read(table: str, trial_id: str) -> list[dict]:
        assert trial_id != whole.trial_id, "its run is closed: nothing of it needs to be read"
        return EPOCHS if table == "epochs" else [{"trial_id": trial_id, **ended}]

    with Mirror(uri, trials) as second:
        second.catch_up(trials, read)
    assert second.error is None
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("caught up")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["trial_id"] for run in runs} == set(trials)
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "train_loss")
        assert sorted(m.step for m in history) == [1, 2, 3]


def test_a_trial_of_two_studies_has_one_run(uri: str, tiny: Callable[..., TrialConfig]) -> None:
    from mlflow import MlflowClient

    shared = tiny(seed=21)
    for study in ("first study", "second study"):
        with Mirror(uri, {shared.trial_id: (study, shared)}) as mirror:
            mirror.rows(shared.trial_id, EPOCHS)
        assert mirror.error is None
    client = MlflowClient(uri)
    everywhere = [e.experiment_id for e in client.search_experiments()]
    assert len(client.search_runs(everywhere, f"tags.trial_id = '{shared.trial_id}'")) == 1
