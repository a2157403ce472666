"""Where results are: a local path or a URI. `trainers` and `analysis` both open it here."""

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from pyarrow import fs

Options = Mapping[str, Mapping[str, Any]]  # of file systems, by their type's name

# 25 s of trying, with back-off. What pyarrow does by itself with S3, the "standard" strategy, has a
# quota of retries that a hundred failures use up; from then on each failure would be final. With
# Google's store it tries for a quarter of an hour, in which no signal ends it.
PATIENT: Final[dict[str, dict[str, Any]]] = {
    "s3": {
        "allow_delayed_open": True,  # one request for a small file
        "retry_strategy": fs.AwsDefaultS3RetryStrategy(max_attempts=10),
    },
    "gcs": {"retry_time_limit": timedelta(seconds=25)},
}
IMPATIENT: Final[dict[str, dict[str, Any]]] = {"gcs": {"retry_time_limit": timedelta(seconds=5)}}


def open_location(location: str, options: Options = PATIENT) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path inside it. Writes and asks nothing.

    Raises: ValueError or OSError if it can't be understood.
    """
    if "://" not in location:
        return fs.LocalFileSystem(), os.path.realpath(location)
    filesystem, root = fs.FileSystem.from_uri(location)
    if not root.strip("/"):
        raise ValueError("names no bucket or folder; write it as s3://bucket/prefix")
    if filesystem.type_name in options:
        _, (own,) = filesystem.__reduce__()  # pyright: ignore[reportAssignmentType]
        filesystem = type(filesystem)(**(own | options[filesystem.type_name]))
    return filesystem, root.rstrip("/")


# Of a URI: a user's password (of a database it may hold slashes), a token, a password asked for.
SECRETS: Final = {
    r"(https?://[^\s:/@]*:)[^\s/]*@": r"\1***@",
    r"((?<!http)(?<!https)://[^\s:/@]+:)\S*@": r"\1***@",
    r"(https?://)[^\s:/@*]+@": r"\1***@",
    r"([?&](?:password|token)=)[^&\s]+": r"\1***",
}


def without_password(text: str) -> str:
    """A URI, or what holds some, that can be shown and stored."""
    for secret, shown in SECRETS.items():
        text = re.sub(secret, shown, text)
    return text
