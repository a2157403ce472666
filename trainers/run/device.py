"""The device that a process trains on: which one, its name and its memory."""

import gc
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import torch

from analysis.store.errors import InputError

AMPERE: Final = (8, 0)  # the first of NVIDIA's compute capabilities with TF32


def device_name(device: torch.device) -> str:
    """What a trial ran on: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def device_memory_bytes(device: torch.device) -> int:
    """All the memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used at once: of the device since its last reset, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)  # which nobody else can have
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def take_share(device: torch.device, share: float | None) -> None:
    """Begin with no memory of a GPU, and be able to take no more than a share of it (None: all)."""
    if device.type == "cuda":
        give_memory_back(device)
        torch.cuda.set_per_process_memory_fraction(share or 1.0, device)
        torch.cuda.reset_peak_memory_stats(device)


def give_memory_back(device: torch.device) -> None:
    """Let other processes have what this one has kept of a GPU for its own next tensors."""
    if device.type == "cuda":
        gc.collect()  # a trainer refers to itself
        with suppress(RuntimeError):  # a GPU that is lost has nothing to give
            torch.cuda.empty_cache()


def check_has_tf32(device: torch.device) -> None:
    """Raises InputError unless a device multiplies in TF32, so that a trial's id says the truth."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < AMPERE:
        raise InputError(
            f"precision=tf32 needs a GPU of NVIDIA's Ampere or later, not {device_name(device)}; "
            "use fp32"
        )


def allow_tf32(allowed: bool) -> None:
    """Let float32 be rounded to 10 bits of mantissa in matrix products and convolutions, or not.

    PyTorch lets convolutions do so unless it is told otherwise.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """`allow_tf32` for as long as this lasts; not at all after it."""
    allow_tf32(allowed)
    try:
        yield
    finally:
        allow_tf32(False)


def default_device(gpus: float | None = None) -> torch.device:
    """A GPU if there is one, and if a process was given some of it (None: by nobody)."""
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")
