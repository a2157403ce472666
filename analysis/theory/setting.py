"""The point where theory says that a trial ends, from its row."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.store.alpha_bias import alpha_bias
from analysis.theory.minima import (
    Minimum,
    minimum,
    squared_norm,
    theorem2_holds,
    theorem2_point,
)
from analysis.theory.numeric import numeric_minimum
from analysis.trials.bias_families import axis_text
from analysis.trials.cells import UFM, theory_trials
from analysis.trials.measured import FINISHED


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
        return alpha_bias(
            point.bias,
            rho,
            num_classes=self.K,
            n=self.n,
            lambda_w=self.lambda_w,
            lambda_h=self.lambda_h,
            lambda_b=self.lambda_b,
        )

    @property
    def label(self) -> str:
        """The setting in a table, without lambda_b, which has a column of its own."""
        lambdas = f"λ_W={axis_text(self.lambda_w)} λ_H={axis_text(self.lambda_h)}"
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


NEAR = 0.01  # relative deviation of a trial that counts as being at the minimum


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
