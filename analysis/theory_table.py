"""Measured scores and biases beside the minimum of Eq. (3) and Theorem 2's point."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.cells import FINISHED, UFM, Block, Cell, blocks, theory_trials
from analysis.entries import (
    BLANK,
    DASH,
    Entry,
    Line,
    Quantity,
    assemble,
    measured,
    without_shared,
)
from analysis.families import short
from analysis.free_model import numeric_minimum
from analysis.minima import (
    Minimum,
    alpha_bias,
    minimum,
    squared_norm,
    theorem2_holds,
    theorem2_point,
)
from analysis.names import loss_name, optimizer_name
from analysis.render import Record, Table
from analysis.stats import format_number

TITLE = "Theory. Measured values beside the minimum of Eq. (3) and the point of Theorem 2"
QUANTITIES = (
    Quantity("s_pos", "s_pos", "s_pos_mean_train", 3),
    Quantity("s_neg", "s_neg", "s_neg_mean_train", 3),
    Quantity("bias", "b̂", "bias_mean", 3),
    Quantity("nc2", "nc2", "nc2_train", 4),
    Quantity("objective", "objective", "train_objective", 5),
    Quantity("alpha_bias", "α(b̂)", "alpha_bias", 4),
)
CELL_FIELDS = (
    "batch_size", "lambda_w", "lambda_h", "lambda_b", "bias_init_mean", "optimizer", "loss"
)  # fmt: skip
LABELS = (
    "Dataset", "Model", "Setting", "λ_b", "initial b", "Optimizer", "Loss", "Point"
)  # fmt: skip
NEAR = 0.01  # relative deviation of a trial that counts as being at the minimum
WIDE = 3  # the first labels are long, and as a rule the same in all rows
_NOT_MINIMUM = "*"
_NO_ETF = "†"
_NO_ROOM = "‡"
_NOTES = (
    "minimum: the global minimum of Eq. (3) for balanced classes; n = batch_size / K samples of a "
    "class share one loss",
    "initial b: bias_init_mean; with CE and small λ_b the bias stays near it, since its gradient "
    "vanishes (– where λ_b = 0: there any bias is a minimum of CE)",
    "off: measured s_pos against the minimum's, relative",
)
_MARKS = {
    _NOT_MINIMUM: f"{_NOT_MINIMUM} Theorem 2's point is not the minimum: λ_b b > √(n λ_W λ_H) "
    "there, so a mean that W and the features share is cheaper than the bias",
    _NO_ETF: f"{_NO_ETF} fewer features than K−1: the simplex ETF doesn't exist, so Theorem "
    "2's point can't be reached; the minimum is numerical (the lowest of four seeded runs of "
    "L-BFGS on Eq. (3))",
    _NO_ROOM: f"{_NO_ROOM} K−1 features hold the simplex ETF but no mean beside it, so the formula "
    "with a shared mean doesn't apply; the minimum is numerical (L-BFGS on Eq. (3))",
}


@dataclass(frozen=True)
class Setting:
    """What a prediction depends on."""

    loss: str
    K: int
    n: float
    lambda_w: float
    lambda_h: float
    lambda_b: float
    d: int

    @property
    def has_formula(self) -> bool:
        """Whether the closed form holds: its ETF needs K-1 features, a shared mean one more."""
        if self.d != self.K - 1:
            return self.d >= self.K
        point = self.theorem2_point()
        return point is None or self.holds(point)

    def holds(self, theorem2: Minimum) -> bool:
        """Whether Theorem 2's point is the minimum where there is room for a shared mean."""
        return theorem2_holds(theorem2.bias, self.n, self.lambda_w, self.lambda_h, self.lambda_b)

    def minimum(self) -> Minimum:
        """The global minimum of Eq. (3), by formula where there is one, else by L-BFGS."""
        arguments = (self.K, self.n, self.lambda_w, self.lambda_h, self.lambda_b)
        if self.has_formula:
            return minimum(self.loss, *arguments)
        return numeric_minimum(self.loss, *arguments, self.d)

    def theorem2_point(self) -> Minimum | None:
        """Theorem 2's point; None for CE, which has Theorem 1 and no other point."""
        if self.loss != "bce":
            return None
        return theorem2_point(self.K, self.n, self.lambda_w, self.lambda_h, self.lambda_b)

    def alpha(self, point: Minimum) -> float:
        """Eq. (12)'s right side at a point; NaN for CE, whose bias it doesn't describe."""
        if self.loss != "bce":
            return math.nan
        rho = squared_norm(point, self.K, self.n, self.lambda_w, self.lambda_h)
        arguments = (self.K, self.n, self.lambda_w, self.lambda_h, self.lambda_b, rho)
        return alpha_bias(point.bias, *arguments)

    @property
    def label(self) -> str:
        """The setting in a table, without lambda_b, which has a column of its own."""
        lambdas = f"λ_W={short(self.lambda_w)} λ_H={short(self.lambda_h)}"
        return f"K={self.K} n={self.n:g} {lambdas}"


def setting_of(trial: pd.Series) -> Setting:
    """The setting of one row of `cells.theory_trials`."""
    K = int(trial["num_classes"])
    lambdas = (float(trial[name]) for name in ("lambda_w", "lambda_h", "lambda_b"))
    width = trial["num_features"]
    d = K if pd.isna(width) else int(width)  # unknown before the trial has run: take enough
    # A batch can't hold more than there is; a trial without a row of its own has no num_train.
    batch = np.fmin(float(trial["batch_size"]), float(trial["num_train"]))
    return Setting(str(trial["loss"]), K, float(batch) / K, *lambdas, d=d)


def theory_table(trials: pd.DataFrame) -> Table:
    """One group of rows per cell of `cells.theory_trials` that has a finished trial."""
    lines = [
        line
        for block in blocks(trials, CELL_FIELDS)
        for _, cell in block.cells(CELL_FIELDS)
        if cell.finished
        for line in _cell_lines(block, cell)
    ]
    points = [str(labels[-1]) for labels, _ in lines]
    marks = [note for mark, note in _MARKS.items() if any(mark in point for point in points)]
    labels, lines, alike = without_shared(LABELS, lines, WIDE)
    columns = (*labels, *(q.symbol for q in QUANTITIES), "off")
    return assemble("theory", TITLE, columns, lines, [*alike, *_NOTES, *marks])


def at_minimum(trials: pd.DataFrame) -> tuple[int, int]:
    """How many finished `ufm` trials end at the minimum of Eq. (3), and how many there are.

    At the minimum: both mean scores, and for BCE the mean bias, off by no more than NEAR.
    CE's bias is left out: it has no unique minimum without decay, and hardly moves with little.
    """
    trials = theory_trials(trials)
    trials = trials[(trials["model"] == UFM) & (trials["status"] == FINISHED)]
    return sum(_is_at_minimum(trial) for _, trial in trials.iterrows()), len(trials)


def _is_at_minimum(trial: pd.Series) -> bool:
    point = setting_of(trial).minimum()
    pairs = [(trial["s_pos_mean_train"], point.s_pos), (trial["s_neg_mean_train"], point.s_neg)]
    if trial["loss"] == "bce":
        pairs.append((trial["bias_mean"], point.bias))
    least = NEAR * (point.s_pos - point.s_neg)  # for two classes BCE's bias is zero
    return all(abs(value - target) <= NEAR * max(abs(target), least) for value, target in pairs)


def _cell_lines(block: Block, cell: Cell) -> Iterator[Line]:
    trial = cell.trials.iloc[0]
    setting = setting_of(trial)
    lowest, theorem2 = setting.minimum(), setting.theorem2_point()
    labels = (
        block.dataset,
        block.label,
        setting.label,
        short(setting.lambda_b),
        f"{trial['bias_init_mean']:g}",
        optimizer_name(str(trial["optimizer"])),
        loss_name(setting.loss),
    )
    identity = _identity(block, trial, setting)
    etf = _NO_ETF if setting.d < setting.K - 1 else ""
    numeric = etf if setting.has_formula or etf else _NO_ROOM
    yield (*labels, "measured"), _measured_entries(cell, setting, lowest, identity, labels)
    yield (*labels, _marked("minimum", numeric)), _predicted(lowest, setting, "minimum", identity)
    if theorem2:
        name = _marked("Theorem 2", etf + ("" if setting.holds(theorem2) else _NOT_MINIMUM))
        yield (*labels, name), _predicted(theorem2, setting, "theorem2", identity)


def _marked(name: str, marks: str) -> str:
    return f"{name} {marks}" if marks else name


def _identity(block: Block, trial: pd.Series, setting: Setting) -> Record:
    return {
        "dataset": block.dataset,
        "model": block.label,
        "optimizer": trial["optimizer"],
        **vars(setting),
        "bias_init_mean": float(trial["bias_init_mean"]),
    }


def _measured_entries(
    cell: Cell, setting: Setting, lowest: Minimum, identity: Record, labels: tuple[str, ...]
) -> list[Entry]:
    where = " ".join((*labels[:2], f"λ_b={labels[3]}", f"initial b={labels[4]}", *labels[5:]))
    identity = {**identity, "point": "measured"}
    entries = [
        BLANK
        if quantity.name == "alpha_bias" and setting.loss != "bce"  # Eq. (12) is BCE's alone
        else measured(cell, quantity, identity, where)
        for quantity in QUANTITIES
    ]
    return [*entries, _deviation(entries[0], lowest, identity)]


def _deviation(s_pos: Entry, lowest: Minimum, identity: Record) -> Entry:
    if math.isnan(s_pos.mean) or math.isnan(lowest.s_pos) or lowest.s_pos == 0:
        return BLANK
    off = s_pos.mean / lowest.s_pos - 1
    record = {**identity, "metric": "s_pos_off", "source": "ours", "mean": off}
    return Entry(f"{format_number(off, 2, percent=True, sign=True)} %", record=record)


def _predicted(point: Minimum, setting: Setting, name: str, identity: Record) -> list[Entry]:
    # Eq. (13)'s rho is known from the scores only where W is an ETF, with or without a mean.
    known = name == "theorem2" or setting.has_formula
    values = {**point._asdict(), "alpha_bias": setting.alpha(point) if known else math.nan}
    entries = []
    for quantity in QUANTITIES:
        value = values[quantity.name]
        if quantity.name == "alpha_bias" and setting.loss != "bce":
            entries.append(BLANK)
            continue
        record = {**identity, "point": name, "metric": quantity.name, "source": "theory"}
        text = DASH if math.isnan(value) else format_number(value, quantity.decimals)
        entries.append(Entry(text, record={**record, "mean": value}))
    return [*entries, BLANK]
