"""Runs a function as the ranks of a group, each in a process of its own, over gloo."""

import pickle
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """`function(ranks, *args)` of every rank, in rank order. It must be a module's own function."""
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_one, args=(function, folder, rank, world_size, args))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=240)
        assert [process.exitcode for process in processes] == [0] * world_size
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(world_size)]


def _one(
    function: Callable[..., Any], folder: str, rank: int, world_size: int, args: tuple[Any, ...]
) -> None:
    import torch

    from trainers.run.ranks import join

    torch.set_num_threads(1)
    meet_at = f"file://{folder}/store"
    with join(meet_at, rank=rank, world_size=world_size, one_node=True) as ranks:
        Path(folder, str(rank)).write_bytes(pickle.dumps(function(ranks, *args)))
