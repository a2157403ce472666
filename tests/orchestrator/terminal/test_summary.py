"""The end of a sweep: what is printed of trials that failed, and of all."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from analysis.store.results import ResultStore
from orchestrator.terminal.summary import LISTED, bad_trials, in_lines, write_analysis
from tests.analysis.recorded_store import CLASSIFICATION, Store
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]


def listed(tiny: Tiny, ends: list[tuple[str, str]]) -> list[str]:
    trials = {c.trial_id: c for c in (tiny(seed=seed) for seed in range(len(ends)))}
    rows = {
        i: {"status": status, "reason": reason}
        for i, (status, reason) in zip(trials, ends, strict=True)
    }
    numbers = {i: str(n) for n, i in enumerate(trials)}
    words = (line.split(" ") for line in bad_trials(rows, trials))
    return [" ".join(numbers.get(word, word) for word in line) for line in words]


def test_nothing_is_said_of_a_sweep_that_went_well(tiny: Tiny) -> None:
    assert listed(tiny, []) == []


def test_trials_stand_under_their_reason(tiny: Tiny) -> None:
    loss = "the loss is not finite at epoch {}, step {}, lr={}"
    ends = [
        ("failed", "OSError: no such file"),
        ("diverged", loss.format(1, 3, "0.1")),
        ("diverged", loss.format(12, 40, "1e+30")),
        ("failed", loss.format(1, 3, "0.1")),
    ]
    assert listed(tiny, ends) == [
        "2 diverged: the loss is not finite at epoch 1, step 3, lr=0.1",
        "  1 digits resnet18 bce sgd seed=1",
        "  2 digits resnet18 bce sgd seed=2",
        "1 failed: OSError: no such file",
        "  0 digits resnet18 bce sgd seed=0",
        "1 failed: the loss is not finite at epoch 1, step 3, lr=0.1",
        "  3 digits resnet18 bce sgd seed=3",
    ]


def test_many_trials_of_a_reason_are_counted(tiny: Tiny) -> None:
    lines = listed(tiny, [("failed", "x")] * (LISTED + 5))
    assert lines[0] == f"{LISTED + 5} failed: x"
    assert len(lines) == LISTED + 2
    assert lines[-1] == "  and 5 more"


def test_a_frequent_reason_hides_no_other(tiny: Tiny) -> None:
    lines = listed(tiny, [("failed", "x")] * 30 + [("failed", "y")])
    assert lines[0] == "30 failed: x"
    assert lines[11:] == ["  and 20 more", "1 failed: y", "  30 digits resnet18 bce sgd seed=30"]


def test_many_reasons_are_counted(tiny: Tiny) -> None:
    lines = listed(tiny, [("failed", "x" * n) for n in range(1, LISTED + 6)])
    assert len(lines) == 2 * LISTED + 1
    assert lines[-1] == "and 5 more for 5 other reasons"


def test_a_summary_never_breaks_a_command() -> None:
    command = "mlflow ui --backend-store-uri sqlite:////" + "deep/" * 30
    assert in_lines({"a": "1", "mlflow": command}).splitlines() == [
        "a       1",
        f"mlflow  {command}",
    ]


def test_tables_that_can_not_be_written_end_no_sweep(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.add(CLASSIFICATION, {"accuracy_test": 0.5})
    (store.root / "tables").write_text("a file where a folder should be")
    facts = write_analysis(ResultStore(store.root), Console(quiet=True))
    assert facts["tables"].startswith("could not be made (")
    assert facts["next"].startswith("python -m analysis.tables --results ")
