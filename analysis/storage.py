"""Where results are: a local path or a URI. `trainers` and `analysis` both open it here."""

import os
from typing import Final

from pyarrow import fs

# 25 s of trying, with back-off. What pyarrow does by itself, the "standard" strategy, has a quota
# of retries that a hundred failures use up; from then on each failure would be final.
S3_RETRIES: Final = fs.AwsDefaultS3RetryStrategy(max_attempts=10)


def open_location(location: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path inside it. Writes and asks nothing.

    Raises: ValueError or OSError if it can't be understood.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.realpath(location)
    filesystem, root = fs.FileSystem.from_uri(location)
    if not root.strip("/"):
        raise ValueError("names no bucket or folder; write it as s3://bucket/prefix")
    return _patient(filesystem), root.rstrip("/")


def _patient(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same file system; S3 with more attempts, and with one request for a small file."""
    if filesystem.type_name != "s3":
        return filesystem
    _, (options,) = filesystem.__reduce__()  # pyright: ignore[reportAssignmentType]
    options |= {"allow_delayed_open": True, "retry_strategy": S3_RETRIES}
    return fs.S3FileSystem(**options)
