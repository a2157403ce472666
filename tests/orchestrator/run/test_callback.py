"""What the driver makes of reports that nobody foresaw. Tune's own part is not run."""

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.store.errors import InputError, ResultsError, WriteError
from analysis.store.results import ResultStore
from orchestrator.run import interrupt, tune
from orchestrator.run.reporter import Reporter
from trainers import ray_worker
from trainers.config import TrialConfig
from trainers.run import loop


class Broken:
    """A listener that can do nothing."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.heard: list[object] = []

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        if self._error:
            raise self._error

    started = stopped = rows = noted = ended = lost = _hear


def trial(trial_id: str = "a") -> Any:
    return SimpleNamespace(
        config={"job": {"trial_id": trial_id}},
        num_failures=0,
        get_error=lambda: "it died",
        get_pickled_error=lambda: None,
    )


def heard(listener: Broken, call: str, more: dict[str, Any]) -> None:
    with interrupt.answered() as asked:
        callback = tune._callback(listener, asked, 1)  # pyright: ignore[reportArgumentType]
        getattr(callback, call)(1, [], trial(), **more)


CALLS = [
    ("on_trial_start", {}),
    ("on_trial_recover", {}),
    ("on_trial_result", {"result": {"rows": [{"epoch": 1}]}}),
    ("on_trial_result", {"result": {"trial": {"trial_id": "a"}}}),
    ("on_trial_result", {"result": {"notes": ["a note"]}}),
    ("on_trial_error", {}),
]


@pytest.mark.parametrize(("call", "more"), CALLS)
@pytest.mark.parametrize("error", [KeyError("a"), WriteError("full")], ids=repr)
def test_what_a_listener_raises_ends_the_sweep_as_itself(
    call: str, more: dict[str, Any], error: Exception
) -> None:
    with pytest.raises(type(error)) as raised:
        heard(Broken(error), call, more)
    assert raised.value is error


def test_the_row_of_another_trial_is_told_by_both_ids() -> None:
    listener = Broken()
    report = {"result": {"trial": {"trial_id": "b"}}}
    with pytest.raises(ResultsError, match=r"worker of trial a found the row of b .* a\.parquet"):
        heard(listener, "on_trial_result", report)
    assert listener.heard == []


def test_a_machine_with_another_program_is_told(tiny: Any) -> None:
    config: TrialConfig = tiny()
    job: Any = {"trial_id": config.trial_id, "fields": config.model_dump(exclude_none=True)}
    assert ray_worker._config(job) == config
    job["fields"]["lr"] = 0.5
    with pytest.raises(InputError, match=f"trial {config.trial_id} is .* install the same"):
        ray_worker._config(job)


def test_what_a_worker_says_is_heard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: Any
) -> None:
    config: TrialConfig = tiny()
    own = str(ray_worker.HERE / "run" / "trainer.py")

    def run_trial(*_: object, **__: object) -> dict[str, Any]:
        print("a line", file=sys.stderr)
        print("half of one, ", end="", file=sys.stderr)
        print("and the rest\n\nanother", file=sys.stderr)
        warnings.warn_explicit("mine", UserWarning, own, 1)
        warnings.warn_explicit("a library's", UserWarning, "/elsewhere/timm/models.py", 1)
        return {"status": "finished", "failure": None}

    monkeypatch.setattr(loop, "run_trial", run_trial)
    notes: list[str] = []
    job: Any = {
        "trial_id": config.trial_id,
        "fields": config.model_dump(exclude_none=True),
        "plugins": [], "threads": 1, "gpus": 0.0, "results": "nowhere", "data_dir": "nowhere",
        "data_stamp": "", "download": False, "keep_checkpoints": False,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ray_worker._run(job, lambda _: None, notes.append)
    heard = ["a line", "half of one, and the rest", "another", "warning: mine"]
    assert notes == heard
    assert [line for line in capsys.readouterr().err.splitlines() if line] == heard


def test_what_many_workers_say_is_told_once() -> None:
    told: list[str] = []
    progress: Any = SimpleNamespace(noted=told.append)
    reporter = Reporter({}, ResultStore("nowhere"), progress, None)
    for notes in (["a", "b"], ["b"], ["a: mine", "a"]):
        reporter.noted(notes)
    assert told == ["a", "b", "a: mine"]
