"""Which of the paper's claims hold in these results, each with its effect and how sure it is.

A claim about BCE against CE is judged by pairs of trials that differ in nothing but the loss: it
holds if the 95 % confidence interval of their mean difference lies on its side of zero, fails if on
the other, and is open between.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.paper import published
from analysis.tables.render import Table
from analysis.theory.setting import NEAR, at_minimum, setting_of
from analysis.trials.cells import (
    UFM,
    Block,
    blocks,
    classification_trials,
    collapse_trials,
    network_trials,
    theory_trials,
)
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED, measured_trials
from analysis.trials.stats import PairedSummary, format_number, paired_difference

HOLDS, FAILS, OPEN, UNTESTED = "holds", "does not hold", "open", "not tested"
NOT_REACHED = "not reached"
COLLAPSED = {"nc1_train": 0.01, "nc2_centered_train": 0.1, "nc3_train": 0.1}  # at most
BIAS_NEAR = 0.1  # CE's biases from zero; BCE's from the predicted one, relative
_SYMBOLS = {"nc1_train": "NC1", "nc2_centered_train": "NC2 of centred W", "nc3_train": "NC3"}
_COLLAPSE_FIELDS = ("optimizer", "loss")
_TEST_FIELDS = ("optimizer", "augment", "loss")


_NOTES = (
    "a pair: a CE and a BCE trial that differ in nothing else; p of the paired t-test, of this "
    "claim alone. Pairs of one cell, with other seeds, are taken as independent",
    "sooner: epochs until each is at the level that both of a pair reach in the end",
    "open: the interval reaches to both sides of zero, or only a part of the trials agrees; more "
    "seeds, or longer trainings, decide it",
    "not reached: where a claim tells where trainings end, and none of these has got there",
)


class Verdict(NamedTuple):
    """One claim of the paper, what these results say to it, and from how much."""

    claim: str
    verdict: str
    effect: str
    basis: str


def verdicts(results: Results) -> list[Verdict]:
    """All claims, in the paper's order; those without trials are `not tested`."""
    trials = measured_trials(results)
    trials = trials[trials["status"] == FINISHED]
    collapse, tests = collapse_trials(trials), classification_trials(trials)
    return [
        _minimum_is_reached(trials),
        _collapse_is_reached(collapse),
        *_bce_is_faster(collapse, results.epochs),
        _ce_biases_vanish(network_trials(theory_trials(trials))),
        _bce_bias_is_predicted(collapse),
        _bce_bias_separates(collapse),
        *_bce_is_higher(tests),
    ]


def verdict_table(found: Sequence[Verdict]) -> Table:
    """The verdicts as a table like the others."""
    title = "What of the paper holds in these results"
    rows = tuple(tuple(each) for each in found)
    columns = ("Claim", "Verdict", "Effect [95 % interval]", "From")
    return Table("verdict-table", title, columns, rows, _NOTES, ())


def _minimum_is_reached(trials: pd.DataFrame) -> Verdict:
    claim = "Without a network, both losses end at the minimum of Eq. (3)"
    there, count = at_minimum(trials)
    if not count:
        return _untested(claim)
    both = {*published.LOSSES} <= {*trials.loc[trials["model"] == UFM, "loss"]}
    return Verdict(
        claim,
        _of_ends(there, count) if both or not there else OPEN,
        f"{there} of {count} trials: scores, and BCE's bias, within {100 * NEAR:g} %",
        f"{count} ufm trials, limit {100 * NEAR:g} % is ours",
    )


def _collapse_is_reached(trials: pd.DataFrame) -> Verdict:
    claim = "Both losses end in neural collapse"
    if trials.empty:
        return _untested(claim)
    below = [trials[name] <= most for name, most in COLLAPSED.items()]
    reached = np.logical_and.reduce(below)
    medians = ", ".join(f"{_SYMBOLS[name]} {trials[name].median():.2g}" for name in COLLAPSED)
    limits = ", ".join(f"{_SYMBOLS[name]} ≤ {most:g}" for name, most in COLLAPSED.items())
    return Verdict(
        claim,
        _of_ends(int(reached.sum()), len(trials)),
        f"{reached.sum()} of {len(trials)} trials reach {limits}; medians {medians}",
        f"{len(trials)} trials at their last epoch, limits are ours",
    )


def _bce_is_faster(trials: pd.DataFrame, epochs: pd.DataFrame) -> Iterator[Verdict]:
    for metric, symbol in _SYMBOLS.items():
        first = _first_epochs(trials, epochs, metric)
        found = _paired(trials, _COLLAPSE_FIELDS, lambda trial, f=first: f.get(trial, math.nan))
        effect = "BCE − CE = {} epochs".format
        yield _judged(f"BCE reaches {symbol} sooner", found, effect, better=-1, decimals=1)


def _first_epochs(trials: pd.DataFrame, epochs: pd.DataFrame, metric: str) -> dict[str, float]:
    """By trial id the first epoch at which `metric` is at the level that both of its pair reach.

    The level is the higher of the two last values, so that each of them gets there.
    """
    rows = epochs[epochs["trial_id"].isin(trials["trial_id"])].sort_values(["trial_id", "epoch"])
    curves = {str(i): rows for i, rows in rows.groupby("trial_id")[["epoch", metric]]}
    found: dict[str, float] = {}
    for ce, bce in _pairs(trials, _COLLAPSE_FIELDS):
        pair = [curves[i].dropna() for i in (ce["trial_id"], bce["trial_id"])]
        if any(curve.empty for curve in pair):
            continue
        level = max(curve[metric].iloc[-1] for curve in pair)
        for trial, curve in zip((ce, bce), pair, strict=True):
            found[trial["trial_id"]] = float(curve.loc[curve[metric] <= level, "epoch"].iloc[0])
    return found


def _ce_biases_vanish(trials: pd.DataFrame) -> Verdict:
    """By all K biases: of their mean CE's gradient is zero, so it stays where it began."""
    claim = "CE with λ_b > 0: the biases vanish"
    chosen = trials[(trials["loss"] == "ce") & (trials["lambda_b"] > 0)]
    if chosen.empty:
        return _untested(claim)
    size = (chosen["bias_mean"] ** 2 + chosen["bias_std"] ** 2) ** 0.5
    return Verdict(
        claim,
        _of_ends(int((size <= BIAS_NEAR).sum()), len(chosen)),
        f"root mean square of a trial's biases: median {size.median():.2g}, largest "
        f"{size.max():.2g}",
        f"{len(chosen)} CE trials, limit {BIAS_NEAR:g} is ours",
    )


def _bce_bias_is_predicted(trials: pd.DataFrame) -> Verdict:
    claim = "BCE: the biases end at the predicted minimum of Eq. (3)"
    chosen = theory_trials(trials)
    chosen = chosen[chosen["loss"] == "bce"]
    if chosen.empty:
        return _untested(claim)
    lowest = [setting_of(row).minimum() for _, row in chosen.iterrows()]
    target = np.array([point.bias for point in lowest])
    gap = np.array([point.s_pos - point.s_neg for point in lowest])
    scale = np.maximum(np.abs(target), BIAS_NEAR * gap)  # for two classes the bias is zero
    off = (chosen["bias_mean"].to_numpy(np.float64) - target) / scale
    return Verdict(
        claim,
        _of_ends(int((np.abs(off) <= BIAS_NEAR).sum()), len(off)),
        f"on average {100 * off.mean():+.0f} % off, from {100 * off.min():+.0f} % to "
        f"{100 * off.max():+.0f} %",
        f"{len(off)} BCE trials, limit {100 * BIAS_NEAR:g} % is ours",
    )


def _bce_bias_separates(trials: pd.DataFrame) -> Verdict:
    claim = "BCE: the bias lies between the negative and the positive scores"
    chosen = trials[trials["loss"] == "bce"]
    if chosen.empty:
        return _untested(claim)
    between = (chosen["s_neg_mean_train"] < chosen["bias_mean"]) & (
        chosen["bias_mean"] < chosen["s_pos_mean_train"]
    )
    means = ", ".join(
        f"{symbol} {chosen[name].mean():.2f}"
        for symbol, name in (
            ("s_neg", "s_neg_mean_train"), ("b̂", "bias_mean"), ("s_pos", "s_pos_mean_train"),
        )
    )  # fmt: skip
    return Verdict(
        claim,
        _all_or_none(int(between.sum()), len(chosen)),
        f"{between.sum()} of {len(chosen)} trials; means {means}",
        f"{len(chosen)} BCE trials",
    )


def _bce_is_higher(trials: pd.DataFrame) -> Iterator[Verdict]:
    for name, column, scale, decimals in (
        ("accuracy 𝒜", "accuracy_test", 100, 2),
        ("uniform accuracy 𝒜_Uni", "uniform_accuracy_test", 100, 2),
        ("compactness ℰ_com", "compactness_test", 1, 4),
        ("distinctiveness ℰ_dis", "distinctiveness_test", 1, 4),
    ):
        values = dict(zip(trials["trial_id"], scale * trials[column], strict=True))
        found = _paired(trials, _TEST_FIELDS, values.__getitem__)
        unit = " points" if scale == 100 else ""
        effect = f"BCE − CE = {{}}{unit}".format
        yield _judged(f"BCE has the higher {name}", found, effect, better=1, decimals=decimals)


def _pairs(
    trials: pd.DataFrame, cell_fields: Sequence[str]
) -> Iterator[tuple[pd.Series, pd.Series]]:
    """CE and BCE trials that differ in the loss alone."""
    for block in blocks(trials, cell_fields):
        yield from _pairs_of(block, [f for f in cell_fields if f != "loss"])


def _pairs_of(block: Block, fields: Sequence[str]) -> Iterator[tuple[pd.Series, pd.Series]]:
    for _, rows in block.trials.groupby([*fields, "seed"], sort=True):
        by_loss = {row["loss"]: row for _, row in rows.iterrows()}
        if set(published.LOSSES) <= set(by_loss):
            yield by_loss["ce"], by_loss["bce"]


class _Found(NamedTuple):
    paired: PairedSummary
    higher: int  # pairs in which BCE's value is


def _paired(
    trials: pd.DataFrame, cell_fields: Sequence[str], value: Callable[[str], float]
) -> _Found:
    pairs = [
        (value(ce["trial_id"]), value(bce["trial_id"])) for ce, bce in _pairs(trials, cell_fields)
    ]
    pairs = [pair for pair in pairs if not math.isnan(sum(pair))]
    ce, bce = (dict(enumerate(side)) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    return _Found(paired_difference(bce, ce), sum(b > c for c, b in pairs))


def _judged(
    claim: str, found: _Found, effect: Callable[[str], str], *, better: int, decimals: int
) -> Verdict:
    paired, higher = found
    if not paired.n:
        return _untested(claim)
    text = format_number(paired.mean, decimals, sign=True)
    basis = f"{paired.n} pairs of trials; in {higher} BCE's is higher"
    if math.isnan(paired.low):
        return Verdict(claim, OPEN, effect(text), f"{basis}; no interval: too few, or all equal")
    low, high = (format_number(v, decimals, sign=True) for v in (paired.low, paired.high))
    ends = sorted(better * end for end in (paired.low, paired.high))
    verdict = HOLDS if ends[0] > 0 else FAILS if ends[1] < 0 else OPEN
    return Verdict(claim, verdict, f"{effect(text)} [{low}, {high}]", f"{basis}; p={paired.p:.2g}")


def _all_or_none(yes: int, of: int) -> str:
    return HOLDS if yes == of else FAILS if yes == 0 else OPEN


def _of_ends(yes: int, of: int) -> str:
    """For a claim about where trainings end: one that isn't there yet doesn't refute it."""
    return HOLDS if yes == of else NOT_REACHED if yes == 0 else OPEN


def _untested(claim: str) -> Verdict:
    return Verdict(claim, UNTESTED, "", "no trial of its kind is finished")
