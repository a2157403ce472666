"""What the paper trains with when a study says no more than the optimizer's name."""

from typing import Final, Literal, NamedTuple

from trainers.registry import InputError, unknown

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


def check_optimizer(name: str) -> None:
    """Raises InputError, with the nearest name, unless a recipe or timm has the optimizer."""
    if name in RECIPES:
        return
    from timm.optim import get_optimizer_info, list_optimizers  # takes seconds, few studies need it

    names = [str(each) for each in list_optimizers()]
    if name not in names:
        raise unknown("optimizer", name, sorted({*RECIPES, *names}))
    if get_optimizer_info(name).second_order:
        raise InputError(
            f"{name} needs second derivatives, which training doesn't take; use another optimizer"
        )
