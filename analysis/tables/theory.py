"""Measured scores and biases beside the minimum of Eq. (3) and Theorem 2's point."""

import math
from collections.abc import Iterator

import pandas as pd

from analysis.tables.entries import (
    BLANK,
    DASH,
    Entry,
    Line,
    Quantity,
    assemble,
    measured,
    without_shared,
)
from analysis.tables.names import loss_name, optimizer_name
from analysis.tables.render import Record, Table
from analysis.theory.minima import (
    Minimum,
)
from analysis.theory.setting import Setting, setting_of
from analysis.trials.bias_families import axis_text
from analysis.trials.cells import Block, Cell, blocks, theory_trials
from analysis.trials.load import Results
from analysis.trials.measured import measured_trials
from analysis.trials.stats import format_number

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


def _cell_lines(block: Block, cell: Cell) -> Iterator[Line]:
    trial = cell.trials.iloc[0]
    setting = setting_of(trial)
    lowest, theorem2 = setting.minimum(), setting.theorem2_point()
    labels = (
        block.dataset,
        block.label,
        setting.label,
        axis_text(setting.lambda_b),
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


def build_theory_table(results: Results) -> Table:
    """Measured values, the minimum and Theorem 2's point, by cell; no rows if no trial fits."""
    return theory_table(theory_trials(measured_trials(results)))
