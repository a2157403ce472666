"""Files that people read: written whole or not at all."""

from pathlib import Path

from pyarrow import fs

from analysis.atomic import write_atomic


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file on this machine whole, making its folder if need be. Raises WriteError."""
    write_atomic(fs.LocalFileSystem(), str(path), content)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of a text, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))
