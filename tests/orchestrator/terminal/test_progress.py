"""What is shown: lines in a log, a view on a terminal, words for durations and trials."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from analysis.theory.minima import minimum
from orchestrator.terminal import progress
from orchestrator.terminal.progress import SweepProgress, in_words
from orchestrator.terminal.tally import State
from orchestrator.terminal.time_left import TimeLeft
from orchestrator.terminal.words import axes_of, describe, duration
from tests.orchestrator.simulated import end, epoch, tally_of
from tests.orchestrator.sweeps import wait_for
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]
REASON = "OSError: [Errno 28] full " * 9


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run_two(tiny: Tiny, console: Console) -> tuple[str, str]:
    tally = tally_of([tiny(seed=0), tiny(seed=1)])
    first, second = tally.trials
    with SweepProgress(tally, console=console) as shown:
        shown.started(first)
        shown.started(second)
        shown.rows(first, [epoch(1, 0.5)])
        shown.ended(end(tally, first, wall_s=2.4))
        shown.ended(end(tally, second, "diverged", reason=REASON))
    return first, second


def test_a_log_gets_a_line_for_each_trial_that_ends(tiny: Tiny) -> None:
    out = io.StringIO()
    first, second = run_two(tiny, Console(file=out, width=80))
    assert out.getvalue().splitlines() == [
        f"✓ 1/2 {first} digits resnet18 bce sgd seed=0 2 s",
        f"✗ diverged 2/2 {second} digits resnet18 bce sgd seed=1 1 s ({REASON})",
    ]


def test_quiet_shows_nothing(tiny: Tiny) -> None:
    for terminal in (False, True):
        out = io.StringIO()
        run_two(tiny, Console(file=out, quiet=True, force_terminal=terminal))
        assert out.getvalue() == ""


def test_a_silent_sweep_says_that_it_lives(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.001)
    out = io.StringIO()
    tally = tally_of([tiny(seed=0), tiny(seed=1)])
    first, second = tally.trials
    with SweepProgress(tally, console=Console(file=out, width=20)) as shown:
        shown.started(first)
        shown.started(second)
        wait_for(lambda: "0/2 trials, 2 running\n" in out.getvalue(), "a heartbeat")
    length = len(out.getvalue())
    waiting = "0/2 trials, 0 running, waiting for free CPUs or GPUs"  # a beat before the first
    beats = {waiting, "0/2 trials, 1 running", "0/2 trials, 2 running"}
    assert set(out.getvalue().splitlines()) <= beats
    assert not shown._thread.is_alive()
    assert len(out.getvalue()) == length


@pytest.fixture
def drawn(tiny: Tiny) -> Callable[..., str]:
    """The view on a terminal of some width, ten seconds into a sweep of 12 trials."""

    def draw(width: int) -> str:
        clock = Clock()
        tally = tally_of(
            [tiny(seed=seed, epochs=40) for seed in range(11)]
            + [tiny(model="ufm", dataset="labels", epochs=10, model_kwargs={})]
        )
        *others, ufm = tally.trials
        console = Console(file=io.StringIO(), width=width, force_terminal=True, record=True)
        shown = SweepProgress(tally, console=console, clock=clock)
        for i in tally.trials:
            shown.started(i)
        clock.now += 10
        scores = {"s_pos_mean_train": 6.5, "s_neg_mean_train": -3.25, "bias_mean": 2.0}
        shown.rows(ufm, [epoch(n, 1.0, **scores) for n in range(1, 11)])
        shown.ended(end(tally, ufm, wall_s=10.0))
        shown.rows(others[0], [epoch(1, 5.0, train_loss=0.12345678, accuracy_test=0.973)])
        shown.ended(end(tally, others[1], "failed", reason="x"))
        console.export_text()  # the lines of trials that ended
        console.print(shown._draw())
        return console.export_text()

    return draw


def test_a_terminal_sees_the_whole_sweep(drawn: Callable[..., str]) -> None:
    lines = [line.rstrip() for line in drawn(100).splitlines()]
    bar, words, header, first, second, *_ = lines
    assert bar.endswith("11% of 450 epochs after 10 s")  # 10 + 1 + 40 that won't run
    # All but one have 40 epochs of 5 s to go, and one of them is about to end.
    assert words == "2/12 trials, 10 running, 1 failed, 110 images/s, about 3 min left"
    assert header.split() == ["running", "epoch", "train_loss", "accuracy_test", "epoch_s"]
    assert first == "digits resnet18 bce sgd seed=0   1/40      0.1235         97.30%        5"
    assert second == "digits resnet18 bce sgd seed=2   0/40           –              –        –"
    point = minimum("bce", 10, 1.6, 5e-4, 5e-4, 5e-4)
    assert lines[11:] == [
        "and 2 more",
        "newest labels ufm bce sgd seed=0",
        f"       s_pos 6.50 (theory {point.s_pos:.2f}), s_neg -3.25 (theory {point.s_neg:.2f}), "
        f"bias 2.00 (theory {point.bias:.2f})",
    ]


@pytest.mark.parametrize("width", [30, 60, 200])
def test_no_line_is_broken_by_the_width_of_a_terminal(
    drawn: Callable[..., str], width: int
) -> None:
    lines = drawn(width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("bce sgd" in line or "…" in line for line in lines) >= 8


def test_a_terminal_keeps_the_lines_alone(tiny: Tiny) -> None:
    out = io.StringIO()
    first, second = run_two(tiny, Console(file=out, width=300, force_terminal=True, height=50))
    assert first in out.getvalue()
    assert second in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the view is wiped
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1


def state(**changes: object) -> State:
    facts = {"trials": 98, "ended": 12, "failed": 0, "diverged": 0, "running": 2, "epochs": 100,
             "epochs_done": 10, "images_per_s": 0.0, "left": None, "listed": []}  # fmt: skip
    return State(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "12/98 trials, 2 running"),
        (
            {"images_per_s": 3400.0, "left": TimeLeft(720.0, 0)},
            "12/98 trials, 2 running, 3,400 images/s, about 12 min left",
        ),
        (
            {"left": TimeLeft(720.0, 1)},
            "12/98 trials, 2 running, about 12 min left if 1 kind of trials not seen yet takes as "
            "long",
        ),
        (
            {"left": TimeLeft(720.0, 3)},
            "12/98 trials, 2 running, about 12 min left if 3 kinds of trials not seen yet take as "
            "long",
        ),
        (
            {"trials": 10_000, "ended": 9_999, "failed": 1234, "diverged": 1},
            "9,999/10,000 trials, 2 running, [red]1,234 failed[/], [yellow]1 diverged[/]",
        ),
        ({"ended": 98, "running": 0, "left": TimeLeft(0.0, 0)}, "98/98 trials, 0 running"),
        ({"running": 0, "left": None}, "12/98 trials, 0 running, waiting for free CPUs or GPUs"),
    ],
)
def test_a_sweep_in_words(changes: dict[str, object], text: str) -> None:
    assert in_words(state(**changes)) == text


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


def test_and_by_each_other_field_that_varies_among_those_alike(tiny: Tiny) -> None:
    trials = [tiny(lr=lr, seed=seed) for lr in (0.1, 0.2) for seed in (0, 1)]
    trials.append(tiny(optimizer="adamw", batch_size=8))  # which has another lr by its recipe
    assert axes_of(trials) == ("lr",)
    assert describe(trials[2], ("lr",)) == "digits resnet18 bce sgd lr=0.2 seed=0"
