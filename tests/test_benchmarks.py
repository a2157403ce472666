"""The runner of the benchmarks: what it writes of rows, and of a benchmark that fails."""

from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks.rows import Row

FAST = Row("steps", 200.0, "images/s", 1.5, peer="a | b", theirs=100.0, ratios=[1.9, 2.0, 9])
SLOW = Row("steps", 100.0, "images/s", 1.5, peer="loop", theirs=100.0, ratios=[1.0])
LARGE = Row("memory", 70.0, "MiB", 64)
TOLD = Row("share", 0.1, "", None)


def test_verdicts() -> None:
    assert [row.verdict for row in (FAST, SLOW, LARGE, TOLD)] == ["met", "missed", "missed", ""]
    assert Row("memory", 64.0, "MiB", 64).verdict == "met"


def test_a_table_of_rows_and_of_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(name: str, *, small: bool) -> list[Row]:
        assert small
        if name == "sweep":
            raise runner.BenchmarkError("ValueError: no")
        return [FAST, LARGE, TOLD]

    monkeypatch.setattr(runner, "measured", measured)
    out = tmp_path / "RESULTS.md"
    assert runner.main(["--small", "--only", "metrics", "sweep", "--out", str(out)]) == 1
    assert "failed: ValueError: no" in capsys.readouterr().err
    lines = out.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[2:] == [
        "| metrics | steps | 200 images/s | 100, a \\| b | 2.00 (1.90 to 9.00) | ≥ 1.5 | met |",
        "| metrics | memory | 70 MiB |  |  | ≤ 64 | missed |",
        "| metrics | share | 0.1 |  |  |  |  |",
        "| sweep | ValueError: no |  |  |  |  | failed |",
    ]
    assert any(line.startswith("- Python 3.") and "torch" in line for line in lines)
    assert runner.main(["--small", "--only", "metrics", "--out", str(out)]) == 0


def test_a_benchmark_that_ends_badly_is_told_by_its_last_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(runner.COMMANDS, "broken", (["rows_that_are_not_there"], ""))
    with pytest.raises(runner.BenchmarkError, match=r"No module named benchmarks.rows_that"):
        runner.measured("broken", small=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["input_pipeline", "analysis", "planning"])
def test_the_smallest_form_runs(name: str) -> None:
    """The others take minutes even so; `make bench` runs them."""
    rows = runner.measured(name, small=True)
    assert all(row.ours > 0 for row in rows)
    assert len(rows) >= 2
