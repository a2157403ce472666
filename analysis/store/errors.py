"""Every way in which something can be wrong that is no mistake of this program's own.

Two trees: `InputError` is the user's to mend, `StoreError` the disk's or the store's. What belongs
to one process or one cluster alone (a lost rank, a lost cluster) is defined where it is raised.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

import pyarrow as pa

from analysis.store.schema import SCHEMA_VERSION

_LONGEST: Final = 300  # of what somebody else's error says
MOST_NAMES: Final = 12  # told one by one


class InputError(ValueError):
    """A mistake in what the user asked for, told in one line: what, where, what to do."""


class ResultsError(InputError):
    """A results folder that can't be read as one; a line for each file that is wrong."""


class VersionError(ResultsError):
    """Files that another version of the schema wrote."""

    def __init__(self, source: str, found: object, *, more: int = 0) -> None:
        """`more`: how many other files are like `source`."""
        self.source, self.found = source, found
        has = f"and {more} more have" if more else "has"
        super().__init__(
            f"{source} {has} schema_version {found}, this package reads {SCHEMA_VERSION}; read "
            "such results with the package version that wrote them, or choose another --results"
        )


class GapError(ResultsError):
    """A table lacks trials; the message lists them and the command that runs them."""


class StoreError(OSError):
    """The fault of the disk or the object store, and not of a trial."""


class WriteError(StoreError):
    """A file can't be written."""


class BusyError(StoreError):
    """A folder's files kept changing while it was read."""


class LeaseLostError(StoreError):
    """The lock could not be renewed in time, so that another process may hold it now."""


def unknown(kind: str, name: object, names: Sequence[str], *, where: str = "") -> InputError:
    """The error for a name that is not one of `names`: what is nearest, and where all of them are.

    `where` a long list can be read; a short one is told.
    """
    text = str(name)
    parts = [each for each in names if text and text in each][:3]
    near = get_close_matches(text, names, 1) or parts or get_close_matches(text, names, 1, 0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    all_of_them = ", ".join(names) if len(names) <= MOST_NAMES else f"{len(names)} names{where}"
    return InputError(f"{name!r} is not a known {kind}{hint} (known: {all_of_them})")


def one_line(error: BaseException) -> str:
    """What somebody else's error says, in one line.

    After its type, unless the type says nothing: of Arrow's, the machine's, and the most general.
    """
    general = type(error) in (OSError, ValueError) or isinstance(error, pa.ArrowException)
    plain = general or getattr(error, "strerror", None) is not None
    text = str(error) if plain and str(error) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_LONGEST]
