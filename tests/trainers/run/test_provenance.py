"""The commit that a trial's row names is that of this code, whatever is around it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from trainers.run import provenance
from trainers.run.provenance import git_commit

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="needs git")


def git(folder: Path, *argv: str) -> str:
    author = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", *author, *argv], cwd=folder, env=clean, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def checkout(folder: Path, content: str) -> str:
    """A repository with a commit; which."""
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "code.py").write_text(content)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def test_this_codes_own_folder_is_asked() -> None:
    assert (provenance.REPOSITORY / "pyproject.toml").is_file()


def test_a_change_since_is_told(tmp_path: Path) -> None:
    commit = checkout(tmp_path / "mine", "one")
    assert git_commit(tmp_path / "mine") == commit
    (tmp_path / "mine" / "code.py").write_text("two")
    assert git_commit(tmp_path / "mine") == f"{commit}-dirty"


def test_no_repository_and_one_without_a_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_commit(tmp_path) is None


def test_another_repository_in_the_environment_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    commit = checkout(mine, "one")
    checkout(other, "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git" / "objects"))
    assert git_commit(mine) == commit


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user: needs root")
def test_a_checkout_of_somebody_else(tmp_path: Path) -> None:
    commit = checkout(tmp_path / "theirs", "one")
    for path in (tmp_path / "theirs", *(tmp_path / "theirs").rglob("*")):
        os.chown(path, 12345, 12345)
    assert git_commit(tmp_path / "theirs") == commit
