"""What the terminal shows: lines for a log, and words for durations and trials."""

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator.progress import SweepProgress, describe, duration
from orchestrator.summary import in_lines
from trainers.config import TrialConfig

ROWS = [
    {"epoch": 1, "samples_per_s": 10.0, "train_s": 1.0, "epoch_s": 2.0, "train_loss": 0.5,
     "accuracy_test": 0.75},
]  # fmt: skip
Tiny = Callable[..., TrialConfig]


def test_a_log_gets_a_line_for_each_trial_that_ends(tiny: Tiny) -> None:
    out = io.StringIO()
    trials = {c.trial_id: c for c in (tiny(seed=0), tiny(seed=1))}
    first, second = trials
    reason = "OSError: [Errno 28] full " * 9
    with SweepProgress(trials, console=Console(file=out, width=80)) as progress:
        progress.rows(first, ROWS)
        progress.ended({"trial_id": first, "status": "finished", "reason": None, "wall_s": 2.4})
        progress.ended(
            {
                "trial_id": second,
                "status": "diverged",
                "reason": "OSError: [Errno 28] full " * 9,
                "wall_s": 1.0,
            }
        )
    assert out.getvalue().splitlines() == [
        f"✓ 1/2 {first} digits resnet18 bce sgd seed=0 2 s",
        f"✗ diverged 2/2 {second} digits resnet18 bce sgd seed=1 1 s ({reason})",
    ]


def test_a_terminal_sees_counts_speed_and_what_is_left(tiny: Tiny) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    trials = {c.trial_id: c for c in (tiny(seed=0), tiny(seed=1))}
    first, second = trials
    with SweepProgress(trials, console=console) as progress:
        progress.rows(first, ROWS)
        progress.ended({"trial_id": second, "status": "failed", "reason": "x", "wall_s": 1.0})
    assert "1/2 trials, 1 running" in out.getvalue()
    assert "1 failed" in out.getvalue()
    assert "digits resnet18 bce sgd seed=0" in out.getvalue()
    assert "75.00%" in out.getvalue()


def test_a_log_hears_once_a_minute_how_far_it_is(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    out = io.StringIO()
    config = tiny(epochs=100)
    with SweepProgress({config.trial_id: config}, console=Console(file=out)) as progress:
        for epoch in range(1, 101):
            clock[0] += 2.0
            progress.rows(config.trial_id, [{**ROWS[0], "epoch": epoch}])
    lines = out.getvalue().splitlines()
    assert lines == [
        f"0/1 trials, 1 running, 5 images/s, about {duration(left)} left" for left in (140, 80, 20)
    ]


def test_thousands_of_running_trials_are_a_few_lines(tiny: Tiny) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    trials = {c.trial_id: c for c in (tiny(seed=s) for s in range(20))}
    with SweepProgress(trials, console=console) as progress:
        for trial_id in trials:
            progress.rows(trial_id, ROWS)
    assert "and 12 more" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_trials_are_told_apart_by_what_differs_from_the_recipe(tiny: Tiny) -> None:
    assert describe(tiny(lambda_b=0, bias_init_mean=5)) == (
        "digits resnet18 bce sgd λ_b=0 bias_init_mean=5 seed=0"
    )
    assert describe(tiny(augment="da1+da2")) == "digits resnet18 bce sgd da1+da2 seed=0"


def test_a_summary_never_breaks_a_command() -> None:
    command = "mlflow ui --backend-store-uri sqlite:////" + "deep/" * 30
    assert in_lines({"a": "1", "mlflow": command}).splitlines() == [
        "a       1",
        f"mlflow  {command}",
    ]
