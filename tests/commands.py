"""The commands of the documents, and which test runs each."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SPAN = re.compile(r"`(python -m [^`]+|python \w+/[^`]+)`")
TUTORIALS = ("first-sweep", "your-own")
# What is above a command says what it needs, where that is more than a laptop.
NEEDS_MORE = re.compile(r"cluster|GPU|own machines|AWS|Slurm|Kubernetes", re.IGNORECASE)
# Programs that are not ours. What they are given is not looked at, but for a sweep's options.
OTHERS = {
    "source", "mv", "export", "git", "docker", "kubectl", "sbatch", "ray", "mlflow", "$EDITOR",
    "python3", "pip", "chmod", "cd", "pre-commit",
}  # fmt: skip


class Command(NamedTuple):
    """A command and where it stands."""

    document: str  # the file's name without .md; that of its folder for a README in one
    section: str  # headings from the document's own to the nearest
    words: list[str]

    def __str__(self) -> str:
        return f"{self.document}: {shlex.join(self.words)}"

    @property
    def program(self) -> str:
        """`make`, a program of others, or a module of ours: `analysis.tables`."""
        first, *rest = self.words
        if first not in ("python", "torchrun"):
            return first.removeprefix(".venv/bin/")
        while rest[0] != "-m" and not rest[0].endswith(".py"):
            rest = rest[1:]
        name = rest[1] if rest[0] == "-m" else rest[0].removesuffix(".py").replace("/", ".")
        return "orchestrator.sweep" if name.endswith("sweep") and "bench" not in name else name

    @property
    def run_by(self) -> str | None:
        """The test that runs it, or why none does; None if nobody knows."""
        program, package = self.program, self.program.partition(".")[0]
        if program in OTHERS:
            return "not ours"
        if self.document in TUTORIALS:
            return "test_docs.test_the_tutorial"
        if NEEDS_MORE.search(self.section):
            return "needs a cluster or a GPU, as its section says"
        if package == "make":
            by = {"sweep": "test_readme.test_make_sweep", "bench": "benchmarks"}
            return by.get(self.words[1], "what runs the tests")
        if package == "analysis" or program == "orchestrator.tracking":
            return "test_readme.test_what_reads_results"
        if program == "orchestrator.sweep":
            by_make = " ".join(self.words[2:]) in ("--study ufm", "--study digits")
            return "test_readme.test_make_sweep" if by_make else "test_readme.test_sweeps"
        return {
            "benchmarks": "test_benchmarks.py; their page says that they want an idle machine",
            "trainers": "test_fashion_mnist.py",
            "docs": "test_docs.test_costs_are_those_of_the_script",
            "cluster": "cluster/test_machines.py",
        }.get(package)


def commands() -> Iterator[Command]:
    """Every command of the shell blocks, and those in the text that begin with `python`."""
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        name = path.parent.name if path.stem == "README" and path.parent != ROOT else path.stem
        title = HEADING.search(text)
        assert title, path
        for match in BLOCK.finditer(text):
            if match[1] == "sh":
                for line in match[2].replace("\\\n", " ").splitlines():
                    yield from _parts(name, _section(text, match.start()), line)
        prose = BLOCK.sub("", text)
        for match in SPAN.finditer(prose):
            yield from _parts(name, _section(prose, match.start()), match[1].replace("\n", " "))


def _section(text: str, at: int) -> str:
    headings = HEADING.findall(BLOCK.sub(_blank, text)[:at])
    return " / ".join((headings[0], headings[-1]))


def _blank(match: re.Match[str]) -> str:
    """As long as the block, so that places stay."""
    return " " * len(match[0])


def _parts(document: str, section: str, line: str) -> Iterator[Command]:
    words = shlex.split(line, comments=True)
    while words and "=" in words[0] and not words[0].startswith("-"):  # FAULT_ROUNDS=10 ...
        words = words[1:]
    while "&&" in words:
        at = words.index("&&")
        yield Command(document, section, words[:at])
        words = words[at + 1 :]
    if words:
        yield Command(document, section, words)
