"""The report: what is in it, and that a browser shows it without asking anybody for anything."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from analysis.report.__main__ import main
from analysis.report.document import coverage
from analysis.store.schema import FEATURES
from analysis.trials.load import load_results
from analysis.trials.measured import measured_trials
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

CURVES: tuple[str, ...] = ("nc1_train", "nc2_train", "nc3_train", "nc2_centered_train")
SCORES = {
    "positive": [(6.0, 8.0, 5), (8.0, 9.0, 5)],
    "negative": [(-2.0, -1.9, 90)],
    "bias": [(3.0, 3.0, 1), (4.0, 4.0, 1)],
}
TEST: tuple[str, ...] = (
    "accuracy_test",
    "uniform_accuracy_test",
    "compactness_test",
    "distinctiveness_test",
)


@pytest.fixture
def full(store: Store) -> Store:
    """Trials for every table and figure, one that diverged, and one of a study not begun."""
    rng = np.random.default_rng(0)
    for loss in ("ce", "bce"):
        for bias, decay in ((0.0, 5e-4), (10.0, 0.0), (10.0, 0.5), (5.0, 0.0)):
            epochs = [dict.fromkeys(CURVES, 1 / epoch) for epoch in (1, 2, 4)]
            own = {**COLLAPSE, "loss": loss, "bias_init_mean": bias, "lambda_b": decay}
            store.add(own, epochs, scores=SCORES)
        metrics = dict.fromkeys(TEST, 0.5 + 0.1 * (loss == "bce"))
        curve = {"uniform": [(0.0, 0.0625, 50)]}
        own = {**CLASSIFICATION, "loss": loss}
        trial_id = store.add(own, metrics, scores=curve, num_test=100)
        rows = [
            {"trial_id": trial_id, "sample_index": i, "label": i % 3, "features": list(point)}
            for i, point in enumerate(rng.normal(size=(12, 4)).astype(np.float32))
        ]
        store.write("features", trial_id, rows, FEATURES)
    other = {**CLASSIFICATION, "dataset": "cifar100"}
    bad = store.add(other, status="diverged", seed=1, reason="the loss is <nan> in epoch 2")
    plan = {bad: {**other, "seed": 1}, "notbegun0000": {**other, "seed": 2}}
    store.study("mine", plan)
    return store


def test_everything_is_in_it(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(full.root)]) == 0
    path = full.root / "report.html"
    assert capsys.readouterr().out.strip() == str(path)
    assert main(["--results", str(full.root), "--out", str(full.root / "studies")]) == 0
    assert capsys.readouterr().out.strip() == str(full.root / "studies" / "report.html")
    text = path.read_text(encoding="utf-8")
    ids = re.findall(r'<figure id="([^"]+)"', text)
    assert ids == [
        "verdict-table", "table1", "table2", "table3", "tables8", "tables9", "theory",
        "fig2_cifar10_resnet18", "fig3_cifar10_resnet18", "fig4_cifar10_resnet18",
        "threshold_cifar10_resnet18", "delta",
        "coverage-table", "failures-table", "provenance-table",
    ]  # fmt: skip
    assert "10 of 12 trials" in text
    assert "the loss is &lt;nan&gt; in epoch 2" in text
    assert "python orchestrator/sweep.py --study mine" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert list(full.root.glob(".*")) == []  # no part of a write


def test_no_command_is_named_where_nothing_is_missing(store: Store) -> None:
    store.study("mine", {store.add(CLASSIFICATION, {"accuracy_test": 0.5}): CLASSIFICATION})
    results = load_results(store.root)
    table = coverage(results, measured_trials(results))
    (line,) = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (line["Planned"], line["Finished"], table.notes) == ("1", "1", ())


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_results_at_a_uri_need_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", "s3://bucket/results"]) == 2
    assert "name a local file for the report with --out" in capsys.readouterr().err


def test_failed_trials_only(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add(CLASSIFICATION, status="failed", reason="out of memory")
    assert main(["--results", str(store.root)]) == 0
    assert "not tested" in (store.root / "report.html").read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_in_a_browser(full: Store, width: int) -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs Chromium and its driver: apt-get install chromium chromium-driver")
    from selenium import webdriver

    assert main(["--results", str(full.root)]) == 0
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get((full.root / "report.html").as_uri())
        time.sleep(1)
        assert browser.get_log("browser") == []
        requests = re.findall(r'"url\\?":\\?"(\w+):', str(browser.get_log("performance")))
        assert set(requests) <= {"file", "data"}
        drawn = "return [...document.images].map(i => i.complete && i.naturalWidth > 0)"
        assert browser.execute_script(drawn) == [True] * 5
        assert browser.execute_script("return document.querySelectorAll('table').length") == 10
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(wide) <= 0  # tables scroll in themselves
    finally:
        browser.quit()
