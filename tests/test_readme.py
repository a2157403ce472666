"""What the README and other documents say can be typed, typed: on a study that a laptop trains.

Which commands these are, and what becomes of the others, is in `tests/commands.py`.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT, Command, commands
from tests.orchestrator.sweeps import TABLES, Rows, rows

pytestmark = [pytest.mark.slow, pytest.mark.ray]
# Stands for the README's studies. The first trial of `moody` that takes a step with a file `broken`
# beside it takes the file away and fails.
STUDY = """
plugins: [moods]
dataset: digits
model: mlp
model_kwargs: {hidden: [16]}
loss: [moody, bce]
optimizer: [sgd, adamw]
samples_per_class: 20
batch_size: 20
epochs: 3
"""
MOODS = """
from pathlib import Path

from torch.nn.functional import cross_entropy
from trainers.registry import register_loss

@register_loss("moody")
def moody(logits, targets):
    if len(logits) == 20 and Path({broken!r}).exists():
        Path({broken!r}).unlink()
        raise RuntimeError("in a bad mood")
    return cross_entropy(logits, targets)
"""


def of_test(name: str) -> list[Command]:
    return [each for each in commands() if each.run_by == f"test_readme.{name}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "small.yaml").write_text(STUDY)
    (folder / "moods.py").write_text(MOODS.format(broken=str(folder / "broken")))
    (folder / "broken").touch()
    return folder


def sweep(folder: Path, words: list[str]) -> tuple[int, str]:
    """The command as it is typed, of the small study, with a Ray of its own; exit code, output."""
    words = [{"neural_collapse": "small.yaml"}.get(word, word) for word in words]
    words = [word.replace("/tmp/", "tried/").replace("/data/", "moved/") for word in words]
    command = [sys.executable, str(ROOT / words[1]), *words[2:], "--address", "local"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


def counts(out: str) -> tuple[int, int, int]:
    """Trials, those done before and those to run, as a sweep says at its start."""
    found = re.search(r"(\d+) trials, (\d+) done(?: before)?, (\d+) to run", out)
    assert found, out
    trials, done, to_run = map(int, found.groups())
    return trials, done, to_run


def test_sweeps(folder: Path, undisturbed: Rows, home: Path) -> None:
    """Each command does only what is new: a try, seeds, one seed more, the failed, an axis, a move.

    Leaves results in `moved/run1`, with classification trials of another sweep beside them.
    """
    typed = iter(of_test("test_sweeps"))

    def do(*expected: str) -> tuple[int, str]:
        command = next(typed)
        assert all(word in command.words for word in expected), command
        return sweep(folder, command.words)

    code, out = do("--dry-run")
    assert (code, counts(out)) == (0, (70, 0, 70))
    code, out = do("--limit")
    assert (code, counts(out)) == (0, (4, 0, 4))
    code, out = do("0", "1", "2")
    assert (code, counts(out)) == (1, (12, 0, 12)), out
    failed = int(re.findall(r"failed +(\d+)", out)[-1])
    assert failed in (1, 2)  # two may have seen the file
    assert "in a bad mood" in out
    code, out = do("0", "1", "2", "3")
    assert (code, counts(out)) == (1, (16, 12, 4)), out
    code, out = do("--rerun")
    assert (code, counts(out)) == (0, (4, 4 - failed, failed)), out
    code, out = do("lambda_b=[5e-4, 0]")
    assert (code, counts(out)) == (0, (8, 4, 4)), out
    (folder / "moved").mkdir()
    (folder / "results").rename(folder / "moved" / "run1")
    before = rows(folder / "moved" / "run1")
    code, out = do("--results", "/data/run1")
    assert (code, counts(out)) == (0, (4, 4, 0)), out
    assert rows(folder / "moved" / "run1") == before
    assert len(before["trials"]) == 20
    assert {row["attempts"] for row in before["trials"]} == {1}  # the failed began anew
    assert next(typed, None) is None
    for name in (*TABLES, "studies"):
        shutil.copytree(
            home / "whole" / name,
            folder / "moved" / "run1" / name,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(".*"),  # of a sweep that another test adds to it
        )


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_what_reads_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table, figure and report that a document names, from what the sweeps left."""
    monkeypatch.chdir(folder)
    if not (folder / "moved" / "run1").is_dir():
        pytest.skip("the sweeps did not get so far")
    (folder / "moved" / "run1").rename("results")
    typed = {tuple(each.words[2:]): each for each in of_test("test_what_reads_results")}
    last = [words for words in typed if words[0].endswith("compact")]
    for module, *words in [*(each for each in typed if each not in last), *last]:
        argv = words[: words.index(">")] if ">" in words else words
        monkeypatch.setattr("sys.argv", [module, *argv])
        monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns of one that is there
        code = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
        assert not code, (module, words)
    assert list((folder / "results" / "trials").iterdir())
    assert (folder / "results" / "report.html").stat().st_size > 100_000


def test_make_sweep(tmp_path: Path) -> None:
    """The first command of all, with fewer trials and epochs, and without its installation."""
    for name in ("Makefile", "pyproject.toml", "analysis", "orchestrator", "trainers"):
        (tmp_path / name).symlink_to(ROOT / name)
    stamp = f"{sys.prefix}/sweep.stamp"
    options = "OPTIONS=--epochs 2 --seeds 0 --limit 24 --address local"
    done = subprocess.run(
        ["make", "-o", stamp, "sweep", f"VENV={sys.prefix}", options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    out = done.stdout
    assert done.returncode == 0, out + done.stderr
    assert re.findall(r"finished +(\d+) of (\d+)", out) == [("24", "24"), ("20", "20")]
    assert all(f"Table {number}" in out for number in (1, 2, 3))
    assert (tmp_path / "results" / "report.html").is_file()
    assert (tmp_path / "results" / "mlflow.db").is_file()
