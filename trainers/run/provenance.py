"""Where a number came from: versions and commit."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypedDict

import torch

PACKAGE: Final = "collapse-grid"
REPOSITORY: Final = Path(__file__).resolve().parents[2]


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
        "git_commit": git_commit(REPOSITORY),
    }


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout in a folder, with `-dirty` if it was changed since.

    None if it is none, or has no commit yet.
    """
    if not (folder / ".git").exists():
        return None
    # Somebody else's checkout is as good as one's own: what is asked is only what its code is,
    # which runs already.
    command = ["git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=40"]
    # GIT_DIR and its like, which git sets where a hook starts this, would name another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*command, "--exclude=*"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or no commit yet
        return None
    return done.stdout.strip()
