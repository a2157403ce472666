"""What a probe foretells, against the trial itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.store.results import ResultStore
from trainers.config import TrialConfig
from trainers.run.loop import run_trial
from trainers.run.probe import probe

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    "fields",
    [{"epochs": 12}, {"epochs": 12, "regularizer": "global"}, {"epochs": 12, "eval_every": 3}],
)
def test_files_are_as_large_as_was_foretold(
    tiny: Tiny, store: ResultStore, tmp_path: Path, fields: dict
) -> None:
    config = tiny(**fields)
    before = sorted(tmp_path.rglob("*"))
    foretold = probe(config, data_dir=tmp_path / "data", download=False)
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written
    run_trial(
        config,
        lambda row: None,
        store=store,
        data_dir=tmp_path / "data",
        download=False,
        keep_checkpoints=True,
    )
    (checkpoint, _) = sorted(Path(store.path("checkpoints", config.trial_id)).glob("*.pt"))
    results = sum(path.stat().st_size for path in Path(store.root).glob("*/*.parquet"))
    assert foretold["results_bytes"] == pytest.approx(results, rel=0.15)
    assert foretold["checkpoint_bytes"] == pytest.approx(checkpoint.stat().st_size, rel=0.15)
    assert foretold["seconds_per_epoch"] > 0
    assert "compiling" not in foretold


@pytest.mark.slow
def test_what_compiling_costs_and_gains_is_measured_where_the_trial_would_compile(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    config = tiny(compile=True, epochs=250)  # 4 steps an epoch, 1,000 in all
    found = probe(config, data_dir=tmp_path / "data", download=False)
    assert "compiling" in found
    assert any((tmp_path / "compiled").rglob("*.so"))
    steps_s = found["seconds_per_epoch"], found["compiling"]["plain_seconds_per_epoch"]
    assert found["compiling"]["compile_s"] > 10 * max(steps_s)
    few = tiny(compile=True, epochs=249)
    assert "compiling" not in probe(few, data_dir=tmp_path / "data", download=False)
