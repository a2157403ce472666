from analysis.tables.catalogue import build_table
from analysis.tables.render import Table
from analysis.trials.load import load_results
from tests.analysis.recorded_store import ADAMW, COLLAPSE, Store

METRICS = {
    "s_pos_mean_train": 7.0, "s_pos_std_train": 0.2, "s_neg_mean_train": -3.0,
    "s_neg_std_train": 0.1, "bias_mean": 2.0, "bias_std": 0.0, "alpha_bias": -0.01,
    "accuracy_train": 0.999,
}  # fmt: skip


def _by_quantity(table: Table, *labels: str) -> dict[str, tuple[str, ...]]:
    size = 3 + ("Source" in table.columns)
    return {
        row[2]: row[size:]
        for row in table.rows
        if set(labels) <= set(row[:size]) and row[0] == "cifar10"
    }


def test_table1_keeps_spread_in_a_trial_and_over_seeds_apart(store: Store) -> None:
    # s_pos 7 and 9: mean 8, sample sd sqrt(2) = 1.41; sds inside 0.2 and 0.4: mean 0.30.
    # The paper (cifar10, resnet18, SGD, BCE): 6.56 ± 0.20, bias 2.26 ± 0.07, A 100.0.
    store.add(COLLAPSE, METRICS, loss="bce")
    second = {**METRICS, "s_pos_mean_train": 9.0, "s_pos_std_train": 0.4}
    store.add(COLLAPSE, second, loss="bce", seed=1)
    table = build_table(load_results(store.root), 1)
    assert table.columns == ("Dataset", "Model", "Quantity", "Source", "SGD BCE")
    assert _by_quantity(table, "ours") == {
        "s_pos": ("8.00 ± 1.41 [σ 0.30]",),
        "s_neg": ("-3.00 ± 0.00 [σ 0.10]",),
        "b̂": ("2.00 ± 0.00 [σ 0.00]",),
        "α(b̂)": ("-0.01 ± 0.00",),
        "A": ("99.90 ± 0.00",),
    }
    assert _by_quantity(table, "paper (ours − paper)") == {
        "s_pos": ("6.56 [σ 0.20] (+1.44)",),
        "s_neg": ("-3.46 [σ 0.19] (+0.46)",),
        "b̂": ("2.26 [σ 0.07] (-0.26)",),
        "α(b̂)": ("-0.03 (+0.02)",),
        "A": ("100.00 (-0.10)",),
    }


def test_columns_are_optimizers_by_losses_in_the_papers_order(store: Store) -> None:
    for config in (ADAMW, {}):
        for loss in ("bce", "ce"):
            store.add({**COLLAPSE, **config}, METRICS, loss=loss)
    table = build_table(load_results(store.root), 1, compare=False)
    assert table.columns[3:] == ("SGD CE", "SGD BCE", "AdamW CE", "AdamW BCE")
    assert _by_quantity(table)["α(b̂)"] == ("", "-0.01", "", "-0.01")  # Eq. (12) is BCE's


def test_lambdas_are_variants_and_only_the_papers_is_compared(store: Store) -> None:
    store.add(COLLAPSE, METRICS, lambda_b=0.0)
    store.add(COLLAPSE, METRICS)
    table = build_table(load_results(store.root), 1)
    models = {(row[1], row[3]) for row in table.rows}
    assert models == {
        ("resnet18 (lambda_b=0)", "ours"),
        ("resnet18 (lambda_b=0.0005)", "ours"),
        ("resnet18 (lambda_b=0.0005)", "paper (ours − paper)"),
    }


def test_selects_unaugmented_networks_with_bias_from_zero(store: Store) -> None:
    for other in ({"augment": "da1"}, {"bias_init_mean": 10.0}, {"model": "ufm"}):
        store.add({**COLLAPSE, **other}, METRICS)
    assert not build_table(load_results(store.root), 1).rows


def test_digits_get_the_papers_cifar10_below(store: Store) -> None:
    store.add(COLLAPSE, METRICS, dataset="digits")
    rows = build_table(load_results(store.root), 1).rows
    assert rows[5] == ("paper, cifar10", "resnet18", "s_pos", "paper", "5.71 [σ 0.23]")
    assert rows[8] == ("paper, cifar10", "resnet18", "α(b̂)", "paper", "")


def test_a_recipe_of_our_own_is_told_beside_the_papers_rows(store: Store) -> None:
    store.add(COLLAPSE, METRICS, epochs=100, lr=0.05, schedule="cosine")
    store.add({**COLLAPSE, **ADAMW}, METRICS, epochs=100)
    notes = build_table(load_results(store.root), 1).notes
    departs = "resnet18 departs from the paper: SGD lr=0.05 (paper: 0.01), SGD schedule=cosine"
    assert any(departs in note and "AdamW" not in note for note in notes)
