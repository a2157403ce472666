"""The documents: their links lead somewhere, their commands and studies are ones that exist."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import duckdb
import pandas as pd
import polars
import pytest
import torch

from analysis.store.command_line import Parser
from analysis.store.results import ResultStore
from analysis.trials.cells import setting_apart
from orchestrator.options import parse_options
from orchestrator.plan.plan import make_plan
from orchestrator.plan.study import expand, load_study, parse_study
from tests.analysis.recorded_store import CLASSIFICATION, Store
from tests.commands import BLOCK, DOCUMENTS, OTHERS, ROOT, commands

SWEEP = "orchestrator.sweep"
names = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(language: str) -> list[tuple[str, str]]:
    """Name of the document and text of every block in a language."""
    return [
        (path.name, match[2])
        for path in DOCUMENTS
        for match in BLOCK.finditer(path.read_text("utf-8"))
        if match[1] == language
    ]


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@names
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", path.read_text("utf-8"))):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_architecture_names_files_that_exist() -> None:
    text = BLOCK.sub("", (ROOT / "docs" / "architecture.md").read_text("utf-8"))
    rooms = re.findall(r"^\| `(\w+/\w*/?)` \|.*\| (.*) \|$", text, re.MULTILINE)
    assert len(rooms) > 12
    for room, inside in rooms:
        for name in re.findall(r"`(\w+\.py)`", inside):
            assert (ROOT / room / name).is_file(), f"{room}{name}"
    known = {path.name for path in ROOT.rglob("*.py")}
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / name).is_file() if "/" in name else name in known, name


def test_commands_exist(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is parsed by its own program, and what a sweep is asked for expands to trials."""
    monkeypatch.setattr("sys.path", [*sys.path])  # planning adds to it
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands():
        words, program = command.words, command.program
        if program == "make":
            assert set(words[1:]) <= targets, command
        elif program not in OTHERS:
            check_program(program, arguments(words), str(command), store)
        elif "--" in words:  # of Ray, then a sweep's
            after = words[words.index("--") + 1 :]
            check_sweep([w for w in after if w not in ("python", "-m", SWEEP)], store)
        elif "cluster/slurm.sbatch" in words:
            check_sweep(words[words.index("cluster/slurm.sbatch") + 1 :], store)


def arguments(words: list[str]) -> list[str]:
    """What follows the module or the file."""
    at = words.index("-m") + 1 if "-m" in words else 1
    return words[at + 1 :]


def check_program(module: str, argv: list[str], what: str, store: ResultStore) -> None:
    """A module of ours with these arguments."""
    if module == SWEEP:
        check_sweep(argv, store)
    elif module.startswith("benchmarks") or not argv or argv[0] == ">":
        assert find_spec(module) or (ROOT / f"{module.replace('.', '/')}.py").is_file(), what
    else:
        check_options(module, argv, what)


def check_sweep(argv: list[str], store: ResultStore) -> None:
    """The options, and the trials that they ask for."""
    options = parse_options(argv)
    if not any(name.endswith(".yaml") for name in options.what.studies):  # those are the reader's
        assert make_plan(options.what, store, resources=options.resources).trials, argv


def test_every_command_is_run_by_a_test_or_says_what_it_needs() -> None:
    told = {str(command): command.run_by for command in commands()}
    assert [command for command, test in told.items() if test is None] == []
    assert len(told) > 60
    for test in {*told.values()}:
        if found := re.fullmatch(r"(test_\w+)\.(test_\w+)", test or ""):
            assert f"def {found[2]}(" in (ROOT / "tests" / f"{found[1]}.py").read_text(), test


class GotThroughError(Exception):
    """Got through the parser: nothing of the program itself is to run."""


def door(module: str) -> ModuleType:
    """The module, or what a package runs."""
    found = import_module(module)
    return import_module(f"{module}.__main__") if hasattr(found, "__path__") else found


def check_options(module: str, argv: list[str], what: str) -> None:
    """Whether a program's own parser takes them."""

    def stop(self: Parser, args: list[str] | None = None) -> Namespace:
        ArgumentParser.parse_args(self, args)
        raise GotThroughError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", stop)
        try:
            door(module).main(argv)
        except GotThroughError:
            return
        except SystemExit:
            pass
    pytest.fail(what)


def test_studies_are_studies() -> None:
    whole = 0
    for document, text in blocks("yaml"):
        if text.startswith("resources:") or "dataset:" not in text:
            text = "dataset: digits\nmodel: resnet18\nloss: ce\noptimizer: sgd\n" + text
        needed = {"model": "resnet18", "loss": "ce", "optimizer": "sgd"}
        missing = [f"{k}: {v}\n" for k, v in needed.items() if not re.search(rf"^{k}:", text, re.M)]
        study = parse_study("".join(missing) + text, name="it", where=document)
        if not study.plugins:
            assert expand(study), text
        whole += 1
    assert whole >= 4


def test_the_axes_of_the_readmes_table_are_enough_for_its_sweeps() -> None:
    ours = (each.words for each in commands() if each.document == "README")
    (words,) = (words for words in ours if "--by" in words)
    by = words[words.index("--by") + 1 : words.index("--metric")]
    trials = expand(load_study("digits")) | expand(load_study("ufm"))
    frame = pd.DataFrame([config.row() for config in trials.values()])
    for values, rows in frame.groupby(by, dropna=False):
        assert setting_apart(rows) == [], values


def test_python_is_python() -> None:
    for _, text in blocks("python"):
        ast.parse(text)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `results` of two finished trials, in the current folder."""
    store = Store(tmp_path / "results")
    for loss, accuracy in (("ce", 0.5), ("bce", 0.75)):
        store.add(CLASSIFICATION, {"accuracy_test": accuracy, "nc1_train": 0.25}, loss=loss)
    monkeypatch.chdir(tmp_path)
    return store.root


@pytest.mark.parametrize("document", ["README.md", "results.md", "metrics.md"])
def test_python_that_reads_results_runs(document: str, results: Path) -> None:
    known = {
        "features": torch.randn(60, 8), "labels": torch.arange(60) % 3,
        "weight": torch.randn(3, 8), "bias": torch.zeros(3),
    }  # fmt: skip
    ran = 0
    for name, text in blocks("python"):
        if name == document and ("results/" in text or "from_features" in text):
            exec(compile(text, name, "exec"), known)
            ran += 1
    assert ran == 1


def test_duckdb_and_polars_read_the_folder(results: Path) -> None:
    ((_, query),) = blocks("sql")
    with duckdb.connect() as database:
        rows = database.execute(query.partition(";")[0]).fetchall()
    assert sorted(rows) == [("bce", 0.75), ("ce", 0.5)]
    assert sorted(polars.read_parquet(results / "epochs")["accuracy_test"]) == [0.5, 0.75]


@pytest.mark.slow
def test_costs_are_those_of_the_script() -> None:
    table = runpy.run_path(str(ROOT / "docs" / "costs.py"))["table"]()
    assert table in (ROOT / "docs" / "reproducing.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("document", ["first-sweep", "your-own"])
def test_the_tutorial(document: str, tmp_path: Path) -> None:
    """The files it shows, and the sweeps and tables it makes of them."""
    text = (ROOT / "docs" / f"{document}.md").read_text("utf-8")
    found = BLOCK.findall(text)
    for _, block in found:
        if name := re.match(r"# (\w+\.(py|yaml))\n", block):
            (tmp_path / name[1]).write_text(block)
    lines = [line for language, block in found if language == "sh" for line in block.splitlines()]
    for line in lines:
        if line.startswith("python ") and "--results" in line:
            run(shlex.split(line, comments=True)[1:], tmp_path)
    (report,) = tmp_path.glob("*/report.html")
    scripts = [
        block for language, block in found if language == "python" and "import pandas" in block
    ]
    for script in scripts:
        run(["-c", script], tmp_path)
    assert "BCE" in report.read_text("utf-8")


def run(words: list[str], folder: Path) -> None:
    """A command as it is typed, with a Ray of its own and fewer epochs."""
    words = [str(ROOT / word) if word.startswith("orchestrator/") else word for word in words]
    if words[0].endswith("sweep.py") and "--dry-run" not in words:
        words += ["--address", "local", "--epochs", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
