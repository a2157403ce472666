import math

import pytest

from analysis.tables.catalogue import build_table
from analysis.tables.render import Table
from analysis.trials.load import load_results
from tests.analysis.recorded_store import ADAMW, CLASSIFICATION, Store, channels

CE, BCE = (0.92, 0.93, 0.94), (0.93, 0.95, 0.94)


def _fill(store: Store, **config: object) -> None:
    """Accuracies of three seeds; uniform accuracy is 0.10 lower, E_com 0.5, E_dis 0.25."""
    for loss, accuracies in (("ce", CE), ("bce", BCE)):
        for seed, accuracy in enumerate(accuracies):
            metrics = {
                "accuracy_test": accuracy,
                "uniform_accuracy_test": accuracy - 0.10,
                "compactness_test": 0.5,
                "distinctiveness_test": 0.25,
            }
            store.add({**CLASSIFICATION, **config}, metrics, loss=loss, seed=seed)


def _rows(table: Table) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Numbers of a row by its labels, without dataset and model."""
    labels = len(table.columns) - sum(c.startswith(("SGD", "AdamW")) for c in table.columns)
    return {row[:labels]: row[labels:] for row in table.rows}


def test_table2_beside_the_paper(store: Store) -> None:
    _fill(store)
    table = build_table(load_results(store.root), 2)
    assert table.columns == ("Dataset", "Model", "Loss", "Source", "SGD DA1 A", "SGD DA1 A_Uni")
    own = ("cifar10", "resnet18")
    # CE 92, 93, 94: mean 93, sample sd 1. BCE 93, 95, 94: mean 94, sd 1. Differences 1, 2, 0:
    # mean 1, sd 1, t = sqrt(3) with 2 degrees of freedom, p = 1 - t / sqrt(2 + t^2) = 0.2254, of
    # two tests 0.4508; t's quantile at 97.5 % is 4.3027, so the interval is 1 -+ 4.3027 / sqrt(3).
    # The paper has CE 92.82, 85.20 and BCE 93.22, 91.92.
    assert _rows(table) == {
        (*own, "CE", "ours"): ("93.00 ± 1.00", "83.00 ± 1.00"),
        (*own, "CE", "paper (ours − paper)"): ("92.82 (+0.18)", "85.20 (-2.20)"),
        (*own, "BCE", "ours"): ("94.00 ± 1.00", "84.00 ± 1.00"),
        (*own, "BCE", "paper (ours − paper)"): ("93.22 (+0.78)", "91.92 (-7.92)"),
        (*own, "Δ = BCE − CE", "ours"): (
            "+1.00 [-1.48, +3.48] p=0.45",
            "+1.00 [-1.48, +3.48] p=0.45",
        ),
        (*own, "Δ = BCE − CE", "paper (ours − paper)"): ("+0.40 (+0.60)", "+6.72 (-5.72)"),
    }
    assert "(ddof=1) over n seeds, n=3 in every cell" in table.notes[0]


def test_records_are_fractions_in_full_precision(store: Store) -> None:
    _fill(store)
    records = build_table(load_results(store.root), 2, compare=False).records
    (record,) = (r for r in records if (r["loss"], r["metric"]) == ("ce", "accuracy"))
    assert record["mean"] == pytest.approx(0.93)
    assert record["sd"] == pytest.approx(0.01)
    assert (record["n"], record["planned"], record["source"]) == (3, 3, "ours")
    (delta,) = (r for r in records if (r["loss"], r["metric"]) == ("delta", "accuracy"))
    assert delta["p"] == pytest.approx(1 - math.sqrt(3 / 5))
    assert delta["p_holm"] == pytest.approx(2 - 2 * math.sqrt(3 / 5))
    assert delta["low"] == pytest.approx(0.01 - 0.04302652729911275 / math.sqrt(3))
    assert delta["sd"] == pytest.approx(0.01)
    assert set(str(delta["trial_ids"]).split("'")[1::2]) == {f"{i:012x}" for i in range(6)}


def test_table3_has_four_decimals_and_a_delta(store: Store) -> None:
    _fill(store)
    rows = _rows(build_table(load_results(store.root), 3, compare=False))
    own = ("cifar10", "resnet18")
    assert rows[*own, "CE"] == ("0.5000 ± 0.0000", "0.2500 ± 0.0000")
    assert rows[*own, "Δ = BCE − CE"] == ("+0.0000", "+0.0000")


def test_dataset_outside_the_paper_gets_reference_rows(store: Store) -> None:
    _fill(store, dataset="digits", model_kwargs=channels(16, 32))
    table = build_table(load_results(store.root), 2)
    rows = _rows(table)
    assert ("digits", "resnet18 channels=16,32", "CE", "ours") in rows
    reference = ("paper, cifar10", "resnet18")
    assert rows[*reference, "CE", "paper"] == ("92.82", "85.20")
    assert rows[*reference, "BCE", "paper"] == ("93.22", "91.92")
    assert rows[*reference, "Δ = BCE − CE", "paper"] == ("+0.40", "+6.72")
    assert any("no row like those of digits resnet18 channels=16,32" in n for n in table.notes)


def test_reference_brings_its_columns_where_ours_have_none(store: Store) -> None:
    _fill(store, dataset="digits", augment="none")
    results = load_results(store.root)
    columns = build_table(results, 2).columns
    assert columns[4:] == (
        "SGD no DA A", "SGD no DA A_Uni", "SGD DA1 A", "SGD DA1 A_Uni",
        "SGD DA1+DA2 A", "SGD DA1+DA2 A_Uni",
    )  # fmt: skip
    assert build_table(results, 2, compare=False).columns[3:] == ("SGD no DA A", "SGD no DA A_Uni")


def test_without_compare_the_paper_is_not_mentioned(store: Store) -> None:
    _fill(store)
    table = build_table(load_results(store.root), 2, compare=False)
    assert "paper" not in str(table)


def test_delta_takes_the_seeds_that_both_losses_have(store: Store) -> None:
    # Seeds 0, 1 of CE and 1, 2 of BCE: only seed 1 pairs, 0.80 - 0.70.
    for loss, seed, value in (("ce", 0, 0.1), ("ce", 1, 0.7), ("bce", 1, 0.8), ("bce", 2, 0.9)):
        store.add(CLASSIFICATION, {"accuracy_test": value}, loss=loss, seed=seed)
    rows = _rows(build_table(load_results(store.root), 2, compare=False))
    assert rows["cifar10", "resnet18", "Δ = BCE − CE"][0] == "+10.00 (n=1)"
    assert rows["cifar10", "resnet18", "CE"][0] == "40.00 ± 42.43 (n=2)"  # 0.6 / sqrt(2)


def test_learning_rates_are_never_averaged(store: Store) -> None:
    for lr, value in ((0.01, 0.5), (0.1, 0.7)):
        store.add(CLASSIFICATION, {"accuracy_test": value}, lr=lr)
    store.add(CLASSIFICATION, {"accuracy_test": 0.6}, **ADAMW)
    rows = _rows(build_table(load_results(store.root), 2, compare=False))
    assert {labels[1]: row[0] for labels, row in rows.items() if row[0]} == {
        "resnet18 (lr=0.01)": "50.00", "resnet18 (lr=0.1)": "70.00",
    }  # fmt: skip


def test_recipes_that_differ_by_optimizer_share_a_row(store: Store) -> None:
    store.add(CLASSIFICATION, {"accuracy_test": 0.5})
    store.add(CLASSIFICATION, {"accuracy_test": 0.6}, weight_decay=0.05, **ADAMW)
    rows = _rows(build_table(load_results(store.root), 2, compare=False))
    assert rows == {("cifar10", "resnet18", "CE"): ("50.00", "–", "60.00", "–")}


def test_undefined_metric_is_a_dash_with_its_reason(store: Store) -> None:
    store.add(CLASSIFICATION, {"accuracy_test": 0.5})
    store.add(CLASSIFICATION, {"accuracy_test": None}, seed=1)
    table = build_table(load_results(store.root), 2, compare=False)
    assert table.rows[0][3] == "–"
    note = "– cifar10 resnet18 sgd da1 ce: A is undefined (null in the results) at seed 1"
    assert note in table.notes


def test_departure_from_the_papers_recipe_is_noted(store: Store) -> None:
    store.add(CLASSIFICATION, {"accuracy_test": 0.5}, epochs=2, samples_per_class=20)
    notes = build_table(load_results(store.root), 2).notes
    departs = "departs from the paper: epochs=2 (paper: 100), samples_per_class=20 (paper: all)"
    assert any(departs in note for note in notes)
