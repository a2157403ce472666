from analysis.load import load_results
from analysis.tables import build_table
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
    assert by_bias.columns[-3:] == ("Source", "b₀=0", "b₀=10")
    rows = {row[2:7]: row[7:] for row in by_bias.rows}
    setting = ("λ_b=0", "SGD", "BCE")
    assert rows[*setting, "b̂", "ours"] == ("1.00 [σ 0.50]", "1.00 [σ 0.50]")
    # The minimum at K = 10, n = 12.8, lambda_W = lambda_H = 5e-4 and no decay: b = 5.281.
    assert rows[*setting, "b̂", "minimum"] == ("5.28", "5.28")
    by_decay = build_table(results, "s9", allow_partial=True)
    assert by_decay.columns[-2:] == ("λ_b=5e-4", "λ_b=0")
    rows = {row[2:7]: row[7:] for row in by_decay.rows}
    assert rows["b₀=10", "SGD", "BCE", "b̂", "minimum"] == ("3.58", "5.28")
    assert rows["b₀=10", "SGD", "BCE", "s_pos", "minimum"][0] == "7.81"


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
