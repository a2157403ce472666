"""What a table of the paper is, apart from its numbers: one record each, in `catalogue.py`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from analysis.tables.entries import Quantity
from analysis.tables.render import Table


class Builder(Protocol):
    """Makes a table of the trials that its record selects; `compare` sets other values beside."""

    def __call__(self, table: "PaperTable", trials: pd.DataFrame, *, compare: bool) -> Table:
        """The table, with dashes where a cell lacks trials."""
        ...


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One of the paper's tables."""

    name: str  # as on the command line, like `s8`
    title: str
    study: str  # that runs its trials
    quantities: tuple[Quantity, ...]
    select: Callable[[pd.DataFrame], pd.DataFrame]  # its trials of `measured.measured_trials`
    build: Builder

    @property
    def label(self) -> str:
        """Its number as it is printed: `S-8` for `s8`."""
        return self.name.upper().replace("S", "S-")

    @property
    def file_name(self) -> str:
        """The stem of its file."""
        return f"table{self.name}"
