"""What a dry run says of a plan whose costs are known."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.command_line import parse_args
from orchestrator.dry_run import show_plan
from orchestrator.planning import Plan, make_plan
from trainers.results import ResultStore

STUDY = """
dataset: digits
model: mlp
loss: ce
optimizer: sgd
batch_size: [10, 20]
seed: [0, 1, 2]
epochs: 36
"""
BOX = [{"CPU": 4.0}]


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Six trials, of 10 and of 20 s an epoch, two thousand and a million bytes a trial."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY)
    args = parse_args(["--study", "mine.yaml", "--cpus-per-worker", "2"])
    plan: Plan = make_plan(args, ResultStore("results"))
    found = {
        kind: {
            "seconds_per_epoch": float(plan.trials[ids[0]].batch_size),
            "peak_memory_bytes": 0,
            "device_memory_bytes": 0,
            "results_bytes": 2_000 if plan.trials[ids[0]].batch_size == 10 else 1_000_000,
            "checkpoint_bytes": plan.trials[ids[0]].batch_size * 10**8,
        }
        for kind, ids in plan.kinds.items()
    }
    plan = plan.with_probes(found)  # pyright: ignore[reportArgumentType]
    show_plan(plan, args, ResultStore("results"), Console(), BOX)
    return capsys.readouterr().out.splitlines()


def test_time_is_that_of_the_schedule(shown: list[str]) -> None:
    # 720 + 720 + 360 s on one slot, 720 + 360 + 360 on the other.
    assert "estimated wall time: 30 min with 2 at once" in "\n".join(shown)
    assert "estimated use: 1.8 CPU-hours" in shown  # 3 x 360 + 3 x 720 s on two CPUs


def test_disk_is_that_of_all_results_and_of_the_largest_checkpoints(shown: list[str]) -> None:
    assert "estimated disk: 3.01 MB of results" in shown
    assert "  and while it runs 8 GB of checkpoints, 2 of each running trial" in shown
