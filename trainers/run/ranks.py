"""The processes of one trial: who this one is, and what they tell each other."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn

from analysis.store.errors import InputError
from trainers.model.batch_norm import sees_the_batch, synchronise
from trainers.run.device import default_device

T = TypeVar("T")
# What NCCL says of how it was called, and of this process's own GPU: nobody else is gone then.
OWN_FAULTS: Final = (
    "ncclInvalidUsage", "ncclInvalidArgument", "Duplicate GPU detected", "invalid device ordinal",
    "out of memory",
)  # fmt: skip


class RankLostError(OSError):
    """Another process of the trial is gone; this trial can be taken up at its checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among the `world_size` of its trial, and its device."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's contiguous part of `count` samples; the first ranks have one more."""
        each, more = divmod(count, self.world_size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, on every rank, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, mine: T) -> list[T]:
        """All ranks' objects in rank order, on the main rank; elsewhere this rank's alone."""
        if self.world_size == 1:
            return [mine]
        gathered: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(mine, gathered)
        return gathered if gathered is not None else [mine]

    def from_main(self, mine: T) -> T:
        """The main rank's object, on every rank."""
        if self.world_size == 1:
            return mine
        box = [mine]
        dist.broadcast_object_list(box)
        return box[0]

    def copy_buffers(self, model: nn.Module) -> None:
        """Give every rank the main one's buffers, such as BatchNorm's running statistics."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def alone(gpus: float | None = None) -> Ranks:
    """A trial of one process, which was given so much of a GPU."""
    return Ranks(default_device(gpus))


def world_size() -> int:
    """How many processes torchrun started; 1 without it. Raises InputError for half a torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return 1
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        value = os.environ.get(name, "")
        if not value.isdigit():
            raise InputError(
                f"WORLD_SIZE is set and {name} is {value!r}, no number; start it with torchrun, or "
                "unset WORLD_SIZE"
            )
    return int(os.environ["WORLD_SIZE"])


@contextmanager
def from_environment() -> Iterator[Ranks]:
    """One of the processes that torchrun started, or a process by itself."""
    if world_size() == 1:
        yield alone()
        return
    with join(
        "env://",
        rank=int(os.environ["RANK"]),
        world_size=world_size(),
        local_rank=int(os.environ["LOCAL_RANK"]),
        one_node=int(os.environ["LOCAL_WORLD_SIZE"]) == world_size(),
    ) as ranks:
        yield ranks


@contextmanager
def join(
    init_method: str,
    *,
    rank: int,
    world_size: int,
    local_rank: int = 0,
    one_node: bool = False,
    gpus: float | None = None,
) -> Iterator[Ranks]:
    """Form the group of a trial's processes; raises when not all of them come.

    Args: `init_method` is where they meet, as in `torch.distributed.init_process_group`; with
    `one_node` nothing listens beyond the loopback interface; `gpus` as for `default_device`.
    """
    if one_node:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = default_device(gpus)
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=world_size)
    try:
        yield Ranks(device, rank, world_size)
    finally:
        dist.destroy_process_group()


def talk_through(address: str) -> None:
    """Let ranks on other nodes reach this one at `address`, unless the environment says otherwise.

    By itself gloo takes the address of the host's name, which on Debian is a loopback one.
    """
    for name, known in psutil.net_if_addrs().items():
        if address in (each.address for each in known):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def wrap(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The model for training: as it is for one process, else with gradients averaged by DDP."""
    if ranks.world_size == 1:
        return model
    on_gpu = ranks.device.type == "cuda"
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[ranks.device] if on_gpu else None,
        gradient_as_bucket_view=True,
        # Buckets are laid out anew after the first step otherwise, and with three ranks or more
        # the layout decides in which order their gradients are added: a trial that is resumed
        # would differ in the last bit.
        find_unused_parameters=True,
    )


def synchronise_batch_norm(model: nn.Module, name: str, ranks: Ranks) -> str | None:
    """Let BatchNorm inside a model see the global batch where PyTorch can; what it sees now.

    `global batch` on GPUs; `per rank`, with a warning, on CPUs; None in one process or without it.
    Raises InputError if the model, `name` to the user, has a norm that can't see it.
    """
    if ranks.world_size == 1 or not sees_the_batch(model):
        return None
    if ranks.device.type == "cuda":
        synchronise(model, name)
        return "global batch"
    if ranks.is_main:
        warnings.warn(
            "BatchNorm sees each rank's part of a batch, not the global one: PyTorch has no "
            "SyncBatchNorm on CPUs; numbers depend on the number of workers",
            stacklevel=2,
        )
    return "per rank"


def lost_rank(error: BaseException) -> bool:
    """Whether an error says that another rank is gone, rather than that this one failed."""
    if any(text in str(error) for text in OWN_FAULTS):
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )
