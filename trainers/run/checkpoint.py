"""Checkpoints of a running trial: everything that the next epoch depends on.

Data order, augmentation and the learning rate are functions of (config, epoch), so the weights,
the optimizer's and the scaler's state and the rows so far are all there is.
"""

import errno
import io
import re
import sys
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from pyarrow import fs
from torch import Tensor
from torch.utils.serialization import config as serialization

from analysis.store.errors import one_line
from analysis.store.results import CHECKPOINTS, KEPT, ResultStore
from analysis.store.rows import EpochRow

FORMAT: Final = 3
# A file is MAGIC, the CRC-32 of what follows, and what follows: what `torch.save` makes of a State.
MAGIC: Final = b"collapse-grid checkpoint\n"
CRC_BYTES: Final = 4
# Before format 3 it was the zip file of `torch.save` alone, whose parts have checksums that
# `torch.load` doesn't look at.
ZIP_FORMAT: Final = 2
ZIP_MAGIC: Final = b"PK\x03\x04"
NAME: Final = re.compile(r"epoch_(\d{6}|[1-9]\d{6,})\.pt")  # others are not looked at


class DamagedError(Exception):
    """A file is not the checkpoint of this trial that was written under its name."""


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
    data_fingerprint: str | None = None  # of what it was trained on; None: unknown, or no images
    format: int = FORMAT


def save(store: ResultStore, state: State) -> None:
    """Write a checkpoint whole, and drop all others but the one before it.

    Those of this epoch and later were found damaged when the trial was taken up.
    """
    found = _listed(store, state.trial_id)
    for epoch, file in found.items():
        if epoch >= state.epoch:
            _remove(store, file)
    path = (CHECKPOINTS, state.trial_id, f"epoch_{state.epoch:06d}.pt")
    store.write_bytes(to_bytes(state), *path)
    for epoch in [epoch for epoch in found if epoch < state.epoch][: 1 - KEPT]:
        _remove(store, found[epoch])


def to_bytes(state: State) -> bytes:
    """What a checkpoint's file holds."""
    start = len(MAGIC) + CRC_BYTES
    buffer = io.BytesIO()
    buffer.write(bytes(start))
    one_is_enough = serialization.patch("save.compute_crc32", False)  # pyright: ignore
    with one_is_enough:
        torch.save(vars(state), buffer)
    with buffer.getbuffer() as view:
        view[:start] = MAGIC + zlib.crc32(view[start:]).to_bytes(CRC_BYTES)
    return buffer.getvalue()


def load(store: ResultStore, trial_id: str) -> State:
    """A trial's newest checkpoint that is whole, or a State of no epochs.

    What is damaged, in whatever way, is told on stderr and left out: training on from it would give
    other numbers, and from an earlier one it gives the same. Raises OSError for a disk or store
    that doesn't answer.
    """
    newest_first = list(reversed(_listed(store, trial_id).items()))
    for index, (epoch, file) in enumerate(newest_first, 1):
        try:
            return _read(store, trial_id, file)
        except DamagedError as error:
            instead = "using the one before" if index < len(newest_first) else "starting anew"
            line = f"{trial_id}: the checkpoint of epoch {epoch} {error}; {instead}"
            print(line, file=sys.stderr)
    return State(trial_id)


def _read(store: ResultStore, trial_id: str, file: fs.FileInfo) -> State:
    """Raises DamagedError, and OSError as `load` does."""
    if file.type != fs.FileType.File:
        raise DamagedError("is a folder")
    try:
        data = store.read_bytes(CHECKPOINTS, trial_id, file.base_name)
    except OSError as error:
        if error.errno not in (errno.EIO, errno.ENOENT):  # a bad sector; removed just now
            raise
        raise DamagedError(f"can't be read ({one_line(error)})") from error
    return from_bytes(data, trial_id)


def from_bytes(data: bytes, trial_id: str) -> State:
    """The State that `to_bytes` was given. Raises DamagedError if it wasn't this trial's."""
    payload = _checked(data)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # what pickle and torch make of other files: anything
        raise DamagedError(f"can't be loaded ({one_line(error)})") from error
    known: dict[str, Any] = content if isinstance(content, dict) else {}
    found = known.get("trial_id"), known.get("format")
    if found not in ((trial_id, ZIP_FORMAT), (trial_id, FORMAT)):
        raise DamagedError(f"is of trial {found[0]}, format {found[1]}, not of format {FORMAT}")
    known["format"] = FORMAT
    return State(**known)


def _checked(data: bytes) -> memoryview:
    """What `torch.save` wrote. Raises DamagedError if a bit of it is another."""
    if data.startswith(ZIP_MAGIC):
        _check_zip(data)
        return memoryview(data)
    start = len(MAGIC) + CRC_BYTES
    content = memoryview(data)[start:]
    if data[:start] != MAGIC + zlib.crc32(content).to_bytes(CRC_BYTES):
        raise DamagedError(f"is damaged (checksum of its {len(data):,} bytes)")
    return content


def _check_zip(data: bytes) -> None:
    try:
        bad = zipfile.ZipFile(io.BytesIO(data)).testzip()
    except Exception as error:  # of many types: the file's lengths and offsets may be damaged
        raise DamagedError(f"is damaged ({one_line(error)})") from error
    if bad:
        raise DamagedError(f"is damaged (checksum of its {bad})")


def _listed(store: ResultStore, trial_id: str) -> dict[int, fs.FileInfo]:
    """What bears a checkpoint's name, by its epoch, in order."""
    selector = fs.FileSelector(store.path(CHECKPOINTS, trial_id), allow_not_found=True)
    infos = store.filesystem.get_file_info(selector)
    named = ((NAME.fullmatch(info.base_name), info) for info in infos)
    return dict(sorted((int(name[1]), info) for name, info in named if name))


def _remove(store: ResultStore, file: fs.FileInfo) -> None:
    if file.type == fs.FileType.Directory:
        store.filesystem.delete_dir(file.path)
    else:
        store.filesystem.delete_file(file.path)
