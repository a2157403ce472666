"""Checkpoints of a running trial: everything that the next epoch depends on.

Data order, augmentation and the learning rate are functions of (config, epoch), so the weights,
the optimizer's and the scaler's state and the rows so far are all there is.
"""

import io
import pickle
import sys
import zipfile
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from analysis.store.results import CHECKPOINTS, KEPT, ResultStore
from analysis.store.rows import EpochRow

FORMAT = 2


@dataclass
class State:
    """A trial after `epoch` epochs (0: none yet)."""

    trial_id: str
    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)  # of the loss, with fp16
    class_means: Tensor | None = None  # of the last evaluation of the training set
    rows: list[EpochRow] = field(default_factory=list)
    wall_s: float = 0.0
    format: int = FORMAT


def save(store: ResultStore, state: State) -> None:
    """Write a checkpoint whole, then drop those before the last two."""
    store.write_bytes(to_bytes(state), CHECKPOINTS, state.trial_id, _name(state.epoch))
    for name in store.names(CHECKPOINTS, state.trial_id)[:-KEPT]:
        store.filesystem.delete_file(store.path(CHECKPOINTS, state.trial_id, name))


def to_bytes(state: State) -> bytes:
    """What a checkpoint's file holds."""
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    return buffer.getvalue()


def load(store: ResultStore, trial_id: str) -> State:
    """The newest readable checkpoint of a trial, or a State of no epochs.

    Raises ValueError for a checkpoint of another trial or format: training on from it would mix two
    trials.
    """
    for name in reversed(store.names(CHECKPOINTS, trial_id)):
        try:
            data = store.read_bytes(CHECKPOINTS, trial_id, name)
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            print(
                f"{trial_id}: {name} is unreadable ({error}); using the one before", file=sys.stderr
            )
            continue
        known = content if isinstance(content, dict) else {}
        found = known.get("trial_id"), known.get("format")
        if found != (trial_id, FORMAT):
            raise ValueError(
                f"{CHECKPOINTS}/{trial_id}/{name} is of trial {found[0]}, format {found[1]}, not "
                f"of {trial_id}, format {FORMAT}; remove it to start anew"
            )
        return State(**content)
    return State(trial_id)


def _name(epoch: int) -> str:
    return f"epoch_{epoch:06d}.pt"  # zero-padded: names sort as epochs do
