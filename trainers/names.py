"""Which models and optimizers there are. timm is asked only for names that aren't known without."""

from typing import Final

from analysis.store.errors import InputError, unknown
from trainers.recipes import RECIPES

# Names that need no look into timm, whose import takes seconds.
KNOWN: Final = ("densenet121", "mlp", "resnet18", "resnet50", "ufm")


def check_model(name: str) -> None:
    """Raises InputError, with the nearest name, unless `name` is ours or a model of timm."""
    if name in KNOWN:
        return
    import timm

    known = timm.is_model(name)
    if known and "." in name:  # timm looks at the tag, as in resnet18.a1_in1k, only later
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError:
            raise unknown("model", name, timm.list_pretrained()) from None
    if not known:
        raise unknown("model", name, ["mlp", "ufm", *timm.list_models()])


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
