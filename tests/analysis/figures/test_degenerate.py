"""What has no shape, no spread or no value is a note in its panel, and ends no program."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.figures import build_figures
from analysis.figures.catalogue import needed_tables
from analysis.figures.drawing import as_bytes
from analysis.store.schema import FEATURES
from analysis.theory.minima import Minimum
from analysis.theory.setting import Setting
from analysis.trials.load import load_results
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 80)).astype(np.float32)
NO_SHAPE = {
    "constant": (np.full((60, 80), 0.1), "all features alike"),
    "zero": (np.zeros((12, 4)), "all features alike"),
    "rounding": (1 + 1e-7 * NOISE, "all features alike"),
    "nan": (np.where(np.arange(80) == 3, np.nan, NOISE), "features are not finite"),
    "infinite": (np.where(np.arange(80) == 3, np.inf, NOISE), "features are not finite"),
    "one dimension": (NOISE[:, :1], "60 samples of 1 features:\ntoo few for a map"),
    "two samples": (NOISE[:2], "2 samples of 80 features:\ntoo few for a map"),
}
SHAPE = {
    "tiny": 1e-30 * NOISE,
    "huge": 1e30 * NOISE,
    "two dimensions": NOISE[:, :2],
    "three samples": NOISE[:3],
    "two values": np.repeat(np.eye(2, 8), 15, axis=0),
    "a line": np.outer(np.arange(30), np.ones(8)),
    "one apart": np.vstack([np.zeros((29, 8)), np.ones((1, 8))]),
}


def _add_features(store: Store, features_ND: np.ndarray) -> None:
    trial_id = store.add(CLASSIFICATION, {"accuracy_test": 0.1})
    rows = [
        {"trial_id": trial_id, "sample_index": i, "label": i % 3, "features": row.tolist()}
        for i, row in enumerate(features_ND)
    ]
    store.write("features", trial_id, rows, FEATURES)


def _figure(store: Store, name: str) -> Figure:
    results = load_results(store.root, tables=needed_tables())
    ((_, figure),) = build_figures(results, name)
    as_bytes(figure, "png")  # some of what may fail does so as late as here
    return figure


def _notes(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in ax.texts] for ax in figure.axes]


def test_features_alike_end_no_program(store: Store, tmp_path: Path) -> None:
    _add_features(store, NO_SHAPE["constant"][0])  # a crash of scikit-learn's is no exception
    command = [sys.executable, "-m", "analysis.figures", "--figure", "4"]
    command += ["--results", str(store.root), "--out", str(tmp_path)]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "fig4_cifar10_resnet18.png").exists()


@pytest.mark.parametrize("kind", NO_SHAPE)
def test_features_without_a_shape_are_a_note(store: Store, kind: str) -> None:
    features_ND, note = NO_SHAPE[kind]
    _add_features(store, features_ND)
    assert _notes(_figure(store, "4")) == [[note], [note]]


@pytest.mark.parametrize("kind", SHAPE)
def test_features_with_a_shape_are_drawn_however_small_or_large(store: Store, kind: str) -> None:
    _add_features(store, SHAPE[kind])
    for ax in _figure(store, "4").axes:
        points = np.asarray(ax.collections[0].get_offsets())
        assert np.isfinite(points).all()
        assert np.ptp(points) > 0


@pytest.mark.parametrize("value", [0.0, -1.0, None, float("inf")])
def test_curves_without_a_place_on_a_log_axis(store: Store, value: float | None) -> None:
    curves: Any = [dict.fromkeys(("nc1_train", "nc3_train"), value)] * 3
    store.add(COLLAPSE, [{**row, "nc2_train": 0.5} for row in curves])
    figure = _figure(store, "2")
    assert _notes(figure) == [["no values to draw"], [], ["no values to draw"]]
    assert [ax.get_yscale() for ax in figure.axes] == ["linear", "log", "linear"]


def test_distributions_of_one_value(store: Store) -> None:
    scores = {"positive": [(0.0, 0.0625, 9)], "negative": [(0.0, 0.0625, 9)], "bias": [(0, 0, 9)]}
    for bias in (0.0, 1.0):
        config = {**COLLAPSE, "lambda_b": 0.0, "bias_init_mean": bias}
        store.add(config, {"bias_mean": 0.0}, scores=scores)
    figure = _figure(store, "3")
    assert not any(map(len, _notes(figure)))
    assert len(figure.axes[0].get_lines()) > 0


def test_a_minimum_that_is_not_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = Minimum(*[float("nan")] * len(Minimum._fields))
    monkeypatch.setattr(Setting, "minimum", lambda self: nan)
    scores = {"positive": [(6.0, 8.0, 5)], "negative": [(-2.0, -1.9, 90)], "bias": [(3, 3, 1)]}
    for bias in (0.0, 10.0):
        config = {**COLLAPSE, "lambda_b": 0.0, "bias_init_mean": bias}
        store.add(config, {"bias_mean": 0.0}, scores=scores)
    low, high = _figure(store, "3").axes[0].get_ylim()
    assert low < -2 < 10 < high


@pytest.mark.parametrize("num_test", [None, 100])
def test_threshold_curves_without_samples(store: Store, num_test: int | None) -> None:
    scores = {"uniform": [(0.0, 0.0625, 0), (0.0625, 0.125, 0)]}
    store.add(CLASSIFICATION, {"accuracy_test": 0.1}, scores=scores, num_test=num_test)
    assert _notes(_figure(store, "threshold")) == [["no values to draw"]]


@pytest.mark.parametrize("value", [0.5, None])
def test_differences_that_are_zero_or_undefined(store: Store, value: float | None) -> None:
    for loss in ("ce", "bce"):
        store.add(CLASSIFICATION, {"accuracy_test": value}, loss=loss)
    texts = _notes(_figure(store, "delta"))
    assert texts[0] == (["–"] if value is None else ["+0.0"])
