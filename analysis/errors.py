"""What is wrong with a results folder, for its user."""

from analysis.schema import SCHEMA_VERSION


class ResultsError(ValueError):
    """A results folder that can't be read as one; the message is one line for the user."""


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
