"""What a trial that does not finish came to: of which kind it is, and why in a sentence.

What runs again is decided by the kind, in `orchestrator.plan`; the sentence is for people.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch

from analysis.store.errors import InputError
from analysis.store.schema import Failure
from trainers.config import TrialConfig
from trainers.run.ranks import RankLostError

# Of a file that the user's code names; any other OSError is the machine's. None: Pillow's own.
_OF_OWN_FILES: Final = (
    None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST,
    errno.EINVAL,
)  # fmt: skip


class OwnCodeError(RuntimeError):
    """An OSError of the code that trains, such as a loss that opens a file which is not there."""


class Diverged(Exception):  # noqa: N818  (a way for a trial to end, not an error of the program)
    """The loss is no longer a finite number."""


class DeviceLostError(OSError):
    """A GPU, or what this process holds of it, can't be used any more; another process may."""


# Errors after which a process can do nothing more on its GPU, as CUDA and its libraries word them.
DEVICE_FAULTS: Final = (
    "device-side assert", "illegal memory access", "illegal instruction", "misaligned address",
    "unspecified launch failure", "uncorrectable ECC error", "hardware stack error",
    "unknown error", "GPU is lost", "fallen off the bus", "STATUS_EXECUTION_FAILED",
    "STATUS_MAPPING_ERROR",
)  # fmt: skip
# Of a GPU, of its libraries, of NCCL, and of a CPU.
OUT_OF_MEMORY: Final = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "allocate memory")


class Ending(NamedTuple):
    """How a trial ended that failed by itself."""

    failure: Failure
    reason: str


@contextmanager
def own_code() -> Iterator[None]:
    """Tells what a model or a loss can't find or open from what is wrong with the machine."""
    try:
        yield
    except OSError as error:
        if error.errno not in _OF_OWN_FILES or isinstance(
            error, RankLostError | ConnectionError | TimeoutError
        ):
            raise
        raise OwnCodeError(" ".join(f"{type(error).__name__}: {error}".split())) from error


def ending_of(error: Exception, config: TrialConfig, *, gpu_share: float | None) -> Ending:
    """What a trial ended by; `gpu_share` is what its sweep gave to each process of a GPU."""
    if isinstance(error, InputError):
        return Ending("input", str(error))
    if isinstance(error, OwnCodeError):
        return Ending("own_code", str(error))
    text = f"{type(error).__name__}: {error}"
    if is_device_fault(error):
        return Ending(
            "device",
            f"a GPU failed under it twice: most likely the trial itself is to blame ({text})",
        )
    if is_out_of_memory(error):
        largest = " with the largest share of a GPU that it gets," if (gpu_share or 0) >= 1 else ""
        return Ending(
            "out_of_memory",
            f"out of memory{largest} at batch_size={config.batch_size}; use more workers for a "
            f"trial, or fewer trials on a device ({text})",
        )
    if "Expected more than 1 value per channel" in text:
        return Ending(
            "own_code",
            f"batch_size={config.batch_size} leaves a batch of one sample, which BatchNorm can't "
            f"take where the image has become a pixel; choose another ({text})",
        )
    return Ending("own_code", text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    )


def is_device_fault(error: BaseException) -> bool:
    """Whether an error leaves this process without its GPU, so that all that follows would fail."""
    text = str(error)
    of_gpu = any(library in text.upper() for library in ("CUDA", "CUBLAS", "CUDNN"))
    is_one = any(fault in text for fault in DEVICE_FAULTS)
    return isinstance(error, RuntimeError) and of_gpu and is_one and not is_out_of_memory(error)
