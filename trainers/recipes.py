"""What the paper trains with when a study says no more than the optimizer's name."""

from typing import Final, Literal, NamedTuple

Schedule = Literal["step", "cosine", "constant"]
COSINE_END: Final = 1e-5


class Recipe(NamedTuple):
    """Defaults of an optimizer; None where it has no such setting."""

    lr: float
    schedule: Schedule
    momentum: float | None
    weight_decay: float | None


RECIPES: Final[dict[str, Recipe]] = {
    "sgd": Recipe(lr=0.01, schedule="step", momentum=0.9, weight_decay=5e-4),
    "adamw": Recipe(lr=0.001, schedule="cosine", momentum=None, weight_decay=0.05),
    "lbfgs": Recipe(lr=1.0, schedule="constant", momentum=None, weight_decay=None),
}
