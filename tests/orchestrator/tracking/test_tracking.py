"""The mirror in MLflow: one run per trial for ever, each epoch once, whatever the server does."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from analysis.store.results import ResultStore
from orchestrator.plan.recorded import write_recorded
from orchestrator.tracking import mirror as mirror_module
from orchestrator.tracking.__main__ import main
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.runs import Row
from tests.orchestrator.sweeps import wait_for
from trainers.config import TrialConfig

pytestmark = [
    pytest.mark.slow,  # imports MLflow and makes its database
    pytest.mark.filterwarnings("default"),  # MLflow's own
]
Tiny = Callable[..., TrialConfig]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database on a slow disk is made in its time."""
    monkeypatch.setattr(mirror_module, "FLUSH_S", 600.0)


def epochs(config: TrialConfig) -> list[dict[str, Any]]:
    return [
        {"trial_id": config.trial_id, "epoch": e, "train_loss": 1 / e, "nc1_train": None}
        for e in (1, 2, 3)
    ]


def fill(store: ResultStore, *configs: TrialConfig, status: str = "finished") -> None:
    """What a sweep leaves of these trials."""
    for config in configs:
        trial = {"trial_id": config.trial_id, **config.row(), "status": status, "device": "cpu"}
        trial |= {"started_at": datetime(2026, 1, 1, tzinfo=UTC), "wall_s": 5.0}
        store.write_rows("trials", config.trial_id, [trial])
        store.write_rows("epochs", config.trial_id, epochs(config))


def content(uri: str) -> dict[str, dict[str, Any]]:
    """All that is in MLflow of each trial; a trial with two runs fails."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found: dict[str, dict[str, Any]] = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            trial_id = run.data.tags["trial_id"]
            assert trial_id not in found
            tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.user")}
            history = client.get_metric_history(run.info.run_id, "train_loss")
            found[trial_id] = {
                "experiment": experiment.name,
                "status": run.info.status,
                "params": run.data.params,
                "tags": tags,
                "metrics": run.data.metrics,
                "loss": sorted((metric.step, metric.value) for metric in history),
            }
    return found


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_trial_is_one_run_with_each_epoch_once(uri: str, tiny: Tiny, store: ResultStore) -> None:
    config = tiny()
    trials = {config.trial_id: ("my study", config)}
    fill(store, config)
    with Mirror(uri, trials, store.read_rows) as first:  # a sweep that was cut off
        first.rows(config.trial_id, epochs(config)[:2])
    with Mirror(uri, trials, store.read_rows) as second:  # the one that carried on
        second.rows(config.trial_id, epochs(config)[1:2])
        second.ended(config.trial_id)
    assert first.error is None
    assert second.error is None
    (run,) = content(uri).values()
    assert (run["experiment"], run["status"]) == ("my study", "FINISHED")
    assert run["tags"]["trial_id"] == config.trial_id
    assert run["tags"]["status"] == "finished"
    assert run["params"]["loss"] == "bce"
    assert run["loss"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert "nc1_train" not in run["metrics"]


def test_what_a_killed_sweep_left_open_is_brought_up_to_date(
    uri: str, tiny: Tiny, store: ResultStore
) -> None:
    never, half, whole = (tiny(seed=s) for s in (11, 12, 13))
    trials = {c.trial_id: ("caught up", c) for c in (never, half, whole)}
    fill(store, never, half, whole)
    with Mirror(uri, trials, store.read_rows) as first:
        first.rows(half.trial_id, epochs(half)[:1])
        first.ended(whole.trial_id)

    def read(table: str, trial_id: str) -> list[dict]:
        assert trial_id != whole.trial_id, "its run is closed: nothing of it needs to be read"
        return store.read_rows(table, trial_id)

    with Mirror(uri, trials, read) as second:
        second.catch_up(trials)
    assert second.error is None
    found = content(uri)
    assert set(found) == set(trials)
    for run in found.values():
        assert run["status"] == "FINISHED"
        assert [step for step, _ in run["loss"]] == [1, 2, 3]


def test_a_trial_of_two_studies_has_one_run(uri: str, tiny: Tiny, store: ResultStore) -> None:
    shared = tiny(seed=21)
    fill(store, shared)
    for study in ("first study", "second study"):
        with Mirror(uri, {shared.trial_id: (study, shared)}, store.read_rows) as mirror:
            mirror.rows(shared.trial_id, epochs(shared))
        assert mirror.error is None
    assert content(uri)[shared.trial_id]["experiment"] == "first study"


def test_rebuilt_from_parquet_alone_it_is_the_same(
    uri: str, tiny: Tiny, store: ResultStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [tiny(seed=seed) for seed in (31, 32)]
    failed, single = tiny(seed=33), tiny(seed=34)
    fill(store, *configs)
    fill(store, failed, status="failed")
    write_recorded(store, "mine", [*configs, failed], [])
    with Mirror(uri, {c.trial_id: ("mine", c) for c in (*configs, failed)}, store.read_rows) as m:
        for config in (*configs, failed):
            m.ended(config.trial_id)
    assert m.error is None
    fill(store, single)  # trained by itself, in no study
    again = f"sqlite:///{tmp_path}/again.db"
    argv = ["rebuild", "--results", str(store.location), "--tracking-uri", again]
    for _ in range(2):  # the second time adds nothing
        assert main(argv) == 0
        told = f"4 trials in MLflow; to see them: mlflow ui --backend-store-uri {again}"
        assert told in capsys.readouterr().out
        rebuilt = content(again)
        assert rebuilt.pop(single.trial_id)["experiment"] == single.dataset
        assert rebuilt == content(uri)


def test_a_trial_that_is_run_again_has_its_new_numbers_alone(
    uri: str, tiny: Tiny, store: ResultStore
) -> None:
    config = tiny(seed=41)
    trials = {config.trial_id: ("mine", config)}
    for status, started in (("failed", 1), ("finished", 2)):
        fill(store, config, status=status)
        (trial,) = store.read_rows("trials", config.trial_id)
        trial["started_at"] = datetime(2026, 1, started, tzinfo=UTC)
        store.write_rows("trials", config.trial_id, [trial])
        rows = [{**row, "train_loss": row["train_loss"] * started} for row in epochs(config)]
        store.write_rows("epochs", config.trial_id, rows)
        with Mirror(uri, trials, store.read_rows) as mirror:
            mirror.rows(config.trial_id, rows[:1])
            mirror.ended(config.trial_id)
        assert mirror.error is None
        found = content(uri)[config.trial_id]
        assert [loss for _, loss in found["loss"]] == [row["train_loss"] for row in rows]
        assert found["status"] == {"failed": "FAILED", "finished": "FINISHED"}[status]


def test_rebuilding_at_a_server_that_is_down_is_one_line(
    tiny: Tiny, store: ResultStore, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(store, tiny())
    argv = ["rebuild", "--results", str(store.location)]
    assert main([*argv, "--tracking-uri", "http://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "\nerror: MLflow at http://127.0.0.1:9: it doesn't answer; try again" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("results", ["nothing", "."])
def test_nothing_to_rebuild_from(
    results: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rebuild", "--results", results]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@contextmanager
def server(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Somewhere that says this to every request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        listening.server_close()


def hang(until: threading.Event) -> None:
    until.wait()


def test_a_server_that_is_down_or_hangs_holds_nothing_up(
    tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "FLUSH_S", 2.0)
    config = tiny()
    fill(store, config)
    hangs = threading.Event()
    with server(lambda _: hang(hangs)) as hanging:
        for uri in ("http://127.0.0.1:9", hanging):
            begin = time.monotonic()
            with Mirror(uri, {config.trial_id: ("s", config)}, store.read_rows) as mirror:
                for _ in range(1000):
                    mirror.rows(config.trial_id, epochs(config))
                mirror.ended(config.trial_id)
                assert time.monotonic() - begin < 8  # the sweep's own thread waits for no answer
            assert time.monotonic() - begin < 60
            assert mirror.error
            assert mirror.error.startswith("1 trial not in it whole: ")
        hangs.set()


def test_a_server_that_is_down_costs_a_sweep_two_seconds(tiny: Tiny, store: ResultStore) -> None:
    config = tiny()
    fill(store, config)
    with Mirror("http://127.0.0.1:9", {config.trial_id: ("s", config)}, store.read_rows) as mirror:
        mirror.ended(config.trial_id)
        wait_for(lambda: mirror._failing_since is not None, "a failure")
        begin = time.monotonic()
    assert time.monotonic() - begin < 30 < mirror_module.FLUSH_S
    assert mirror.error


def test_why_it_failed_before_is_no_tag_of_a_trial_that_finished(
    uri: str, tiny: Tiny, store: ResultStore
) -> None:
    config = tiny(seed=51)
    tags = {}
    for status, reason in (("failed", "out of memory"), ("finished", None)):
        fill(store, config, status=status)
        (trial,) = store.read_rows("trials", config.trial_id)
        store.write_rows("trials", config.trial_id, [trial | {"reason": reason}])
        with Mirror(uri, {config.trial_id: ("mine", config)}, store.read_rows) as mirror:
            mirror.ended(config.trial_id)
        assert mirror.error is None
        tags[status] = content(uri)[config.trial_id]["tags"].get("reason")
    assert tags == {"failed": "out of memory", "finished": None}


def test_what_a_server_refused_at_first_is_sent_later(
    uri: str, tiny: Tiny, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "FIRST_PAUSE_S", 0.01)
    real, refusals = mirror_module.Runs, iter(range(5))

    class Refuses(real):
        """MLflow with a store that fails the first five requests for a run."""

        def send(self, study: str, config: Row, trial_id: str, rows: Sequence[Row]) -> None:
            if next(refusals, None) is not None:
                raise ConnectionError("500")
            super().send(study, config, trial_id, rows)

    monkeypatch.setattr(mirror_module, "Runs", Refuses)
    configs = [tiny(seed=seed) for seed in (41, 42)]
    fill(store, *configs)
    with Mirror(uri, {c.trial_id: ("late", c) for c in configs}, store.read_rows) as mirror:
        for config in configs:
            mirror.rows(config.trial_id, epochs(config)[:2])
        for config in configs:
            mirror.ended(config.trial_id)
    assert mirror.error is None
    found = content(uri)
    assert {i: [step for step, _ in run["loss"]] for i, run in found.items()} == {
        config.trial_id: [1, 2, 3] for config in configs
    }
