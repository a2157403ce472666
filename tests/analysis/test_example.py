import runpy
from pathlib import Path

import pytest

from tests.analysis.recorded_store import CLASSIFICATION, Store

EXAMPLE = Path(__file__).parents[2] / "docs" / "example.py"


def test_the_example_of_the_docs_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss, value in (("ce", 0.5), ("bce", 0.75)):
        for seed in (0, 1):
            metrics = {"uniform_accuracy_test": value + seed / 8}
            store.add(CLASSIFICATION, metrics, loss=loss, seed=seed)
    monkeypatch.setattr("sys.argv", ["example.py", str(store.root)])
    runpy.run_path(str(EXAMPLE))
    out = capsys.readouterr().out
    assert "PairedSummary(mean=0.25" in out
    assert "Minimum(objective=0.2565" in out
