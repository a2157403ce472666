from analysis.tables.catalogue import build_table
from analysis.trials.load import load_results
from tests.analysis.recorded_store import COLLAPSE, Store

METRICS = {"bias_mean": 1.0, "bias_std": 0.5, "s_pos_mean_train": 8.0, "s_pos_std_train": 0.25}


def _fill(store: Store) -> None:
    for bias in (0.0, 10.0):
        store.add(COLLAPSE, METRICS, loss="bce", lambda_b=0.0, bias_init_mean=bias)
    store.add(COLLAPSE, METRICS, loss="bce", lambda_b=5e-4, bias_init_mean=10.0)


def test_by_initial_bias_and_by_bias_decay(store: Store) -> None:
    _fill(store)
    results = load_results(store.root)
    by_bias = build_table(results, "s8", allow_partial=True)
    assert by_bias.columns == ("Loss", "Quantity", "Source", "b₀=0", "b₀=10")
    shared = "in all rows: Dataset cifar10, Model resnet18, Fixed {}, Optimizer SGD"
    assert shared.format("λ_b=0") in by_bias.notes
    rows = {row[:3]: row[3:] for row in by_bias.rows}
    assert rows["BCE", "b̂", "ours"] == ("1.00 [σ 0.50]", "1.00 [σ 0.50]")
    # The minimum at K = 10, n = 12.8, lambda_W = lambda_H = 5e-4 and no decay: b = 5.281.
    assert rows["BCE", "b̂", "minimum"] == ("5.28", "5.28")
    by_decay = build_table(results, "s9", allow_partial=True)
    assert by_decay.columns[-2:] == ("λ_b=5e-4", "λ_b=0")
    assert shared.format("b₀=10") in by_decay.notes
    rows = {row[:3]: row[3:] for row in by_decay.rows}
    assert rows["BCE", "b̂", "minimum"] == ("3.58", "5.28")
    assert rows["BCE", "s_pos", "minimum"][0] == "7.81"


def test_what_rows_differ_in_stands_in_them(store: Store) -> None:
    _fill(store)
    for bias in (0.0, 10.0):
        other = {**COLLAPSE, "optimizer": "adamw", "momentum": None}
        store.add(other, METRICS, loss="bce", lambda_b=0.0, bias_init_mean=bias)
    table = build_table(load_results(store.root), "s8", allow_partial=True)
    assert table.columns[:4] == ("Optimizer", "Loss", "Quantity", "Source")
    assert {row[0] for row in table.rows} == {"SGD", "AdamW"}
    assert "in all rows: Dataset cifar10, Model resnet18, Fixed λ_b=0" in table.notes


def test_without_compare_only_ours(store: Store) -> None:
    _fill(store)
    table = build_table(load_results(store.root), "s8", compare=False, allow_partial=True)
    assert "minimum" not in str(table.rows)
    assert "Source" not in table.columns


def test_a_single_value_is_no_table(store: Store) -> None:
    store.add(COLLAPSE, METRICS)
    table = build_table(load_results(store.root), "s8")
    assert table.rows == ()
    assert "--study bias_init" in table.notes[0]
