import json
from pathlib import Path

import pytest

from analysis.paper import published
from analysis.tables.render import Table
from analysis.tables.theory import build_theory_table
from analysis.theory.__main__ import main
from analysis.theory.setting import at_minimum
from analysis.trials.load import load_results
from analysis.trials.measured import measured_trials
from tests.analysis.recorded_store import COLLAPSE, Store

BCE = {
    "s_pos_mean_train": 7.0, "s_neg_mean_train": -2.0, "bias_mean": 3.5, "nc2_train": 0.34,
    "train_objective": 0.257, "alpha_bias": -0.006,
}  # fmt: skip


def _points(table: Table) -> dict[str, tuple[str, ...]]:
    """Numbers by the row's last label, of a table about one cell."""
    return {row[4]: row[5:] for row in table.rows}


def test_measured_beside_minimum_and_theorem2(store: Store) -> None:
    # s_pos 7 and 8: mean 7.5, sd 0.707; the minimum has 7.8100, so ours is off by -3.97 %.
    store.add(COLLAPSE, BCE, loss="bce")
    store.add(COLLAPSE, {**BCE, "s_pos_mean_train": 8.0}, loss="bce", seed=1)
    table = build_theory_table(load_results(store.root))
    assert table.rows[0][:5] == ("5e-4", "0", "SGD", "BCE", "measured")
    setting = "K=10 n=12.8 λ_W=5e-4 λ_H=5e-4"
    shared = f"in all rows: Dataset cifar10, Model resnet18, Setting {setting}"
    assert shared in table.notes
    points = _points(table)
    assert points["measured"][0] == "7.500 ± 0.707"
    assert points["measured"][-1] == "-3.97 %"
    assert points["minimum"][:5] == ("7.810", "-2.052", "3.578", "0.3440", "0.25650")
    assert points["Theorem 2 *"] == (
        "8.794", "-0.977", "4.527", "0.0000", "0.25903", "0.0000", "",
    )  # fmt: skip
    assert any(note.startswith("* Theorem 2's point is not the minimum") for note in table.notes)


def test_what_differs_between_rows_has_a_column(store: Store) -> None:
    store.add(COLLAPSE, BCE, loss="bce")
    store.add({**COLLAPSE, "dataset": "cifar100"}, BCE, loss="bce")
    table = build_theory_table(load_results(store.root))
    assert table.columns[:2] == ("Dataset", "λ_b")
    assert {row[0] for row in table.rows} == {"cifar10", "cifar100"}
    assert any(note.startswith("in all rows: Model resnet18, Setting K=10") for note in table.notes)


def test_theorem2_is_unmarked_where_it_is_the_minimum(store: Store) -> None:
    store.add(COLLAPSE, BCE, loss="bce", lambda_b=0.0)
    points = _points(build_theory_table(load_results(store.root)))
    assert points["Theorem 2"][:5] == points["minimum"][:5]
    assert points["minimum"][2] == "5.281"


def test_ce_has_no_theorem2_and_no_alpha_but_its_initial_bias(store: Store) -> None:
    measured = {**BCE, "s_pos_mean_train": 5.68, "bias_mean": 9.9}
    store.add(COLLAPSE, measured, lambda_b=0.0, bias_init_mean=10.0)
    table = build_theory_table(load_results(store.root))
    points = _points(table)
    assert list(points) == ["measured", "minimum"]
    assert table.rows[0][1] == "10"
    assert points["measured"][2] == "9.900"
    assert points["minimum"] == ("5.679", "-0.631", "–", "0.0000", "0.11782", "", "")


def test_too_few_features_for_the_etf_are_marked(store: Store) -> None:
    store.add({**COLLAPSE, "num_features": 8}, BCE, loss="bce")
    table = build_theory_table(load_results(store.root))
    points = _points(table)
    assert {"minimum †", "Theorem 2 †*"} <= set(points)
    assert float(points["minimum †"][4]) > 0.25650  # what enough features would reach
    assert points["minimum †"][5] == "–"
    assert any("fewer features than K−1" in note for note in table.notes)


def test_no_room_for_a_shared_mean_is_marked(store: Store) -> None:
    store.add({**COLLAPSE, "num_features": 9}, BCE, loss="bce")
    points = _points(build_theory_table(load_results(store.root)))
    assert 0.25650 < float(points["minimum ‡"][4]) <= 0.25903


def test_unfinished_seed_is_a_dash_and_unstarted_cells_are_left_out(store: Store) -> None:
    trial_id = store.add(COLLAPSE, BCE, loss="bce")
    plan = {
        trial_id: {**COLLAPSE, "loss": "bce"},
        "x": {**COLLAPSE, "loss": "bce", "seed": 1},
        "y": COLLAPSE,
    }
    store.study("a", plan)
    table = build_theory_table(load_results(store.root))
    assert len(table.rows) == 3
    assert _points(table)["measured"] == ("–",) * 6 + ("",)
    assert any("1 of 2 seeds are finished; not: x (not started)" in n for n in table.notes)


def test_published_takes_no_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--published", "--results", "results"])
    assert capsys.readouterr().err.startswith("error: --published is of the paper's values alone")


def test_main_writes_and_prints(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(COLLAPSE, BCE, loss="bce")
    arguments = ["--results", str(store.root), "--format", "json"]
    assert main(arguments) == 0
    (table,) = json.loads(capsys.readouterr().out)
    sources = {(r["point"], r["metric"]): r["mean"] for r in table["records"]}
    assert sources["theorem2", "objective"] == pytest.approx(0.25903, abs=5e-6)
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "theory.json").exists()


def test_nothing_to_compare(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.add(COLLAPSE, BCE, loss="focal")
    assert main(["--results", str(store.root)]) == 1
    assert "--study neural_collapse" in capsys.readouterr().err
    assert main(["--results", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_agreement_counts_ufm_trials_at_the_minimum(store: Store) -> None:
    ufm = {**COLLAPSE, "model": "ufm", "dataset": "labels"}
    at = {**BCE, "s_pos_mean_train": 7.81, "s_neg_mean_train": -2.052, "bias_mean": 3.578}
    store.add(ufm, at, loss="bce")
    store.add(ufm, {**at, "bias_mean": 3.62}, loss="bce", seed=1)  # 1.2 % off
    store.add(ufm, {**at, "s_pos_mean_train": 5.68, "s_neg_mean_train": -0.63}, bias_init_mean=9.0)
    store.add(COLLAPSE, at, loss="bce", seed=3)  # a network's, not counted
    assert at_minimum(measured_trials(load_results(store.root))) == (2, 3)


def test_the_papers_table_1_beside_the_theory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--published", "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    rows = {tuple(row[:4]): row[4:] for row in table["rows"]}
    assert rows["BCE", "paper", "resnet18", "AdamW"] == [
        "7.50 [σ 0.05]",
        "-2.36 [σ 0.02]",
        "3.29 [σ 0.01]",
    ]
    assert rows["BCE", "minimum", "", ""] == ["7.81", "-2.05", "3.58"]
    assert rows["BCE", "Theorem 2", "", ""] == ["8.79", "-0.98", "4.53"]
    assert rows["CE", "minimum", "", ""] == ["5.68", "-0.63", "0.00"]
    assert len(rows) == 2 * 3 * 2 + 3


def test_what_docs_theory_says_of_table_1() -> None:
    text = (Path(__file__).parents[3] / "docs" / "theory.md").read_text(encoding="utf-8")
    values = {name: [] for name in ("s_pos", "s_neg", "bias")}
    for key, value in published.numbers(1).items():
        if (key.optimizer, key.loss) == ("adamw", "bce") and key.metric in values:
            values[key.metric].append(value.mean)
    spans = [f"{min(v):.2f} to {max(v):.2f}".replace("-", "−") for v in values.values()]
    assert f"s_pos {spans[0]}, s_neg {spans[1]} and b {spans[2]}" in " ".join(text.split())
