"""Layers that normalise by the batch they see, which ranks of a trial have to see as one."""

from typing import Final

from timm.layers import BatchNormAct2d, SyncBatchNormAct, convert_sync_batchnorm
from torch import nn

from analysis.store.errors import InputError

# Those of which the synchronised form computes the same, activation included.
CONVERTIBLE: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d)
SYNCHRONISED: Final = (nn.SyncBatchNorm, SyncBatchNormAct)


def sees_the_batch(model: nn.Module) -> bool:
    """Whether what a model makes of a sample depends, in training, on the others beside it."""
    return any(map(_normalises_by_batch, model.modules()))


def _normalises_by_batch(layer: nn.Module) -> bool:
    """BatchNorm and its kin, such as EvoNorm, by the variance that they keep for evaluation."""
    tracked = "running_var" in layer._buffers
    return isinstance(layer, nn.modules.batchnorm._BatchNorm) or (
        tracked and not isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    )


def check_synchronises(model: nn.Module, name: str) -> None:
    """Raises InputError for a layer whose synchronised form would compute something else."""
    for path, layer in model.named_modules():
        if _normalises_by_batch(layer) and type(layer) not in (*CONVERTIBLE, *SYNCHRONISED):
            raise InputError(
                f"model={name} normalises by the batch in {path} ({type(layer).__name__}), which "
                "can't be done over several GPUs; use --workers 1"
            )


def synchronise(model: nn.Module, name: str) -> None:
    """Let BatchNorm see the batches of all ranks together, in place.

    By timm's own conversion: torch's drops the activations inside of timm's norms, so that
    DenseNet121 would have none. Raises InputError as `check_synchronises` does.
    """
    check_synchronises(model, name)
    convert_sync_batchnorm(model)
