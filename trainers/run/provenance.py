"""Where a number came from: versions and commit."""

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import torch

PACKAGE = "collapse-grid"
REPOSITORY = Path(__file__).resolve().parents[2]


class Versions(TypedDict):
    """The version columns of `trials`."""

    version_package: str
    version_torch: str
    version_timm: str
    version_python: str
    git_commit: str | None


@lru_cache(maxsize=1)
def versions() -> Versions:
    """Of this package, and of what it stands on."""
    return {
        "version_package": version(PACKAGE),
        "version_torch": torch.__version__,
        "version_timm": version("timm"),
        "version_python": platform.python_version(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of this code, with `-dirty` if it was changed since; None if not a checkout."""
    if not (REPOSITORY / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return done.stdout.strip()
