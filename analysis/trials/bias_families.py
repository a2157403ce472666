"""The two groups of trials behind Fig. 3: one by the initial bias, one by the bias decay."""

from dataclasses import dataclass

import pandas as pd

from analysis.trials.cells import Block

BIAS_INIT, BIAS_DECAY = "bias_init_mean", "lambda_b"
CELL_FIELDS = ("optimizer", "loss", BIAS_DECAY, BIAS_INIT)


@dataclass(frozen=True, eq=False)
class Family:
    """Trials of a block in which one of (lambda_b, bias_init_mean) varies, the other is fixed."""

    trials: pd.DataFrame
    varying: str
    fixed: float  # value of the other field
    places: tuple[float, ...]  # values of the varying field, as they stand on an axis

    @property
    def varies_bias(self) -> bool:
        """Whether it is the initial bias that varies, as in Fig. 3's upper row."""
        return self.varying == BIAS_INIT


def families(block: Block) -> list[Family]:
    """What a block has trials for: by initial bias, by bias decay."""
    found = (_bias_init_family(block.trials), _bias_decay_family(block.trials))
    return [family for family in found if family]


def _bias_init_family(trials: pd.DataFrame) -> Family | None:
    counts = trials.groupby(BIAS_DECAY)[BIAS_INIT].nunique()
    several = counts[counts > 1]
    if several.empty:
        return None
    fixed = float(several.index.min())  # 0 in the paper
    rows = trials[trials[BIAS_DECAY] == fixed]
    places = tuple(sorted(rows[BIAS_INIT].unique().astype(float)))
    return Family(rows, BIAS_INIT, fixed, places)


def _bias_decay_family(trials: pd.DataFrame) -> Family | None:
    counts = trials.groupby(BIAS_INIT)[BIAS_DECAY].nunique()
    several = counts[counts == counts.max()]
    if counts.max() < 2:
        return None
    fixed = float(several.index.max())  # 10 in the paper
    rows = trials[trials[BIAS_INIT] == fixed]
    places = tuple(sorted(rows[BIAS_DECAY].unique().astype(float), reverse=True))
    return Family(rows, BIAS_DECAY, fixed, places)


def axis_text(value: float) -> str:
    """A value on an axis: 5e-4 rather than 0.0005."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
