"""Verdicts against pairs whose differences, intervals and crossings are worked out by hand."""

import math

import pytest
from scipy import stats

from analysis.report.verdicts import FAILS, HOLDS, NOT_REACHED, OPEN, UNTESTED, Verdict, verdicts
from analysis.theory.minima import minimum
from analysis.trials.load import load_results
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

NAMES: tuple[str, ...] = ("nc1_train", "nc2_centered_train", "nc3_train")


def _found(store: Store) -> dict[str, Verdict]:
    return {each.claim: each for each in verdicts(load_results(store.root))}


def _curve(values: list[float], **last: float) -> list[dict[str, float]]:
    rows = [dict.fromkeys(NAMES, value) for value in values]
    return [*rows[:-1], {**rows[-1], **last}]


def test_without_trials_nothing_is_tested(store: Store) -> None:
    store.add(CLASSIFICATION, status="failed")
    found = _found(store).values()
    assert {each.verdict for each in found} == {UNTESTED}
    assert len(found) == 12


def test_sooner_is_counted_to_the_level_that_both_reach(store: Store) -> None:
    # Of each pair CE ends at 0.2 and BCE at 0.1: the level is 0.2, which CE reaches at epoch 4 and
    # BCE at epoch 2 (seed 0), at epoch 4 and 1 (seed 1). Differences -2 and -3.
    for seed, bce in ((0, [0.9, 0.2, 0.15, 0.1]), (1, [0.2, 0.9, 0.15, 0.1])):
        store.add(COLLAPSE, _curve([0.9, 0.8, 0.4, 0.2]), seed=seed)
        store.add(COLLAPSE, _curve(bce), loss="bce", seed=seed)
    store.add(COLLAPSE, _curve([0.5, 0.2]), loss="bce", seed=7)  # without a pair
    found = _found(store)["BCE reaches NC1 sooner"]
    half = stats.t.ppf(0.975, 1) * math.sqrt(0.5) / math.sqrt(2)
    assert found.effect == f"BCE − CE = -2.5 epochs [{-2.5 - half:+.1f}, {-2.5 + half:+.1f}]"
    assert found.verdict == OPEN
    assert found.basis.startswith("2 pairs of trials; in 0 BCE's is higher; p=0.13")


def test_the_model_without_a_network_ends_at_the_minimum(store: Store) -> None:
    ufm = {**COLLAPSE, "model": "ufm", "dataset": "labels"}
    at = {"s_pos_mean_train": 7.81, "s_neg_mean_train": -2.052, "bias_mean": 3.578}
    claim = "Without a network, both losses end at the minimum of Eq. (3)"
    store.add(ufm, at, loss="bce")
    found = _found(store)[claim]
    assert (found.verdict, found.effect.split(" trials")[0]) == (OPEN, "1 of 1")  # of one loss
    store.add(ufm, {"s_pos_mean_train": 5.679, "s_neg_mean_train": -0.631, "bias_mean": 0.0})
    found = _found(store)[claim]
    assert (found.verdict, found.effect.split(" trials")[0]) == (HOLDS, "2 of 2")
    store.add(ufm, {**at, "bias_mean": 3.62}, loss="bce", seed=1)  # 1.2 % off
    found = _found(store)[claim]
    assert (found.verdict, found.effect.split(" trials")[0]) == (OPEN, "2 of 3")


def test_collapse_and_biases(store: Store) -> None:
    reached = {"nc1_train": 1e-4, "nc2_centered_train": 0.01, "nc3_train": 0.01}
    scores = {"s_neg_mean_train": -2.05, "s_pos_mean_train": 7.81}
    store.add(COLLAPSE, {**reached, "bias_mean": 0.01, "bias_std": 0.02})
    store.add(COLLAPSE, {**reached, **scores, "bias_mean": 3.5}, loss="bce")  # of 3.578: -2 %
    found = _found(store)
    assert found["Both losses end in neural collapse"].verdict == HOLDS
    assert found["CE with λ_b > 0: the biases vanish"].verdict == HOLDS
    predicted = found["BCE: the biases end at the predicted minimum of Eq. (3)"]
    assert (predicted.verdict, predicted.effect) == (
        HOLDS,
        "on average -2 % off, from -2 % to -2 %",
    )
    assert found["BCE: the bias lies between the negative and the positive scores"].verdict == HOLDS
    store.add(COLLAPSE, {**reached, "nc1_train": 0.5, "bias_mean": 0.2, "bias_std": 0.0}, seed=1)
    found = _found(store)
    assert found["Both losses end in neural collapse"].verdict == OPEN
    assert found["CE with λ_b > 0: the biases vanish"].verdict == OPEN


@pytest.mark.parametrize(
    ("start", "mean", "std", "verdict"),
    [
        (0.0, 0.001, 0.05, HOLDS),
        (0.0, 0.001, 0.6, NOT_REACHED),  # the mean stays where it began, whatever the rest does
        (10.0, 9.8, 0.3, NOT_REACHED),  # where it began counts as well
        (10.0, 0.06, 0.05, HOLDS),
        (10.0, 0.08, 0.08, NOT_REACHED),
    ],
)
def test_all_of_ce_s_biases_must_vanish(
    store: Store, start: float, mean: float, std: float, verdict: str
) -> None:
    store.add(COLLAPSE, {"bias_mean": mean, "bias_std": std}, bias_init_mean=start)
    found = _found(store)["CE with λ_b > 0: the biases vanish"]
    assert found.verdict == verdict
    size = f"{math.sqrt(mean**2 + std**2):.2g}"
    assert found.effect.endswith(f"median {size}, largest {size}")


def test_with_two_classes_bce_s_bias_is_predicted_to_be_zero(store: Store) -> None:
    config = {**COLLAPSE, "num_classes": 2}
    gap = 2 * minimum("bce", 2, 64, 5e-4, 5e-4, 5e-4).s_pos  # s_neg = -s_pos
    claim = "BCE: the biases end at the predicted minimum of Eq. (3)"
    for seed, tenths in enumerate((0.05, -0.08)):  # of a tenth of the gap
        store.add(config, {"bias_mean": tenths * gap / 10}, loss="bce", seed=seed)
    found = _found(store)[claim]
    assert (found.verdict, found.effect) == (HOLDS, "on average -2 % off, from -8 % to +5 %")
    store.add(config, {"bias_mean": 0.02 * gap}, loss="bce", seed=2)
    assert _found(store)[claim].verdict == OPEN


def test_a_training_that_is_not_there_yet_refutes_nothing(store: Store) -> None:
    store.add(COLLAPSE, dict.fromkeys(NAMES, 0.9))
    assert _found(store)["Both losses end in neural collapse"].verdict == NOT_REACHED


@pytest.mark.parametrize(("sign", "verdict"), [(1, HOLDS), (-1, FAILS)])
def test_higher_with_certainty(store: Store, sign: int, verdict: str) -> None:
    for seed in range(4):
        for loss, value in (("ce", 0.5), ("bce", 0.5 + sign * (0.1 + 0.001 * seed))):
            store.add(CLASSIFICATION, {"uniform_accuracy_test": value}, loss=loss, seed=seed)
    found = _found(store)
    uniform = found["BCE has the higher uniform accuracy 𝒜_Uni"]
    assert uniform.verdict == verdict
    assert uniform.effect.startswith(f"BCE − CE = {sign * 10.15:+.2f} points [")
    assert found["BCE has the higher accuracy 𝒜"].verdict == UNTESTED  # undefined everywhere


def test_one_pair_decides_nothing(store: Store) -> None:
    for loss, value in (("ce", 0.5), ("bce", 0.9)):
        store.add(CLASSIFICATION, {"accuracy_test": value}, loss=loss)
    found = _found(store)["BCE has the higher accuracy 𝒜"]
    assert (found.verdict, found.effect) == (OPEN, "BCE − CE = +40.00 points")
    assert "no interval" in found.basis
