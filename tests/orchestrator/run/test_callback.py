"""What the driver makes of reports that nobody foresaw. Tune's own part is not run."""

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.store.errors import InputError, ResultsError, WriteError
from orchestrator.run import interrupt, tune
from trainers import ray_worker
from trainers.config import TrialConfig


class Broken:
    """A listener that can do nothing."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.heard: list[object] = []

    def _hear(self, *what: object) -> None:
        self.heard.append(what)
        if self._error:
            raise self._error

    started = stopped = rows = ended = lost = _hear


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
