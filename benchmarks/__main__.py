"""Every benchmark, one after the other, into one table: benchmarks/RESULTS.md.

python -m benchmarks [--only NAME ...] [--small]
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from analysis.store.command_line import Parser
from benchmarks.rows import Row
from trainers.machine import usable_cpus

ROOT: Final = Path(__file__).parents[1]
# What is run by which command, and what makes it as small as it can be.
COMMANDS: Final = {
    "input_pipeline": (["input_pipeline"], "--images 1000 --rounds 1"),
    "evaluation": (["evaluation"], "--images 32 --rounds 1"),
    "metrics": (["metrics"], "--samples 2000 --rounds 1"),
    "train_step": (["train_step"], "--steps 1 --rounds 1"),
    "compiled": (["train_step", "--compiled"], "--steps 1 --rounds 1"),
    "analysis": (["analysis"], "--trials 64 --epochs 2"),
    "analysis_10000": (["analysis", "--trials", "10000"], "--trials 64 --epochs 2"),
    "planning": (["planning"], "--trials 64"),
    "sweep": (["sweep"], "--trials 4 --long 2"),
    "scale": (["scale"], "--trials 12 --nodes 1 2"),
    "whole": (["whole"], "--trials 4 --samples-per-class 20 --epochs 1 --rounds 1"),
}
HEAD: Final = ("benchmark", "what", "ours", "peer", "ratio (min to max)", "target", "")


class BenchmarkError(Exception):
    """A benchmark that ended otherwise than with its rows; the message is its last line."""


def measured(name: str, *, small: bool) -> list[Row]:
    """Run a benchmark in a process of its own, and take its rows. Raises BenchmarkError."""
    (module, *options), least = COMMANDS[name]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{module}", *options]
        command += [*(least.split() if small else []), "--json", str(rows)]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            said = _passed_on(process)
        if process.returncode:
            raise BenchmarkError(said or f"exit code {process.returncode}")
        return [Row(**fields) for fields in json.loads(rows.read_text(encoding="utf-8"))]


def _passed_on(process: subprocess.Popen[str]) -> str:
    """The last line of what a process says on stderr, which is shown as it comes."""
    last = ""
    for line in process.stderr or ():
        sys.stderr.write(line)
        last = line.strip() or last
    return last


def machine() -> Iterator[str]:
    """Where, with what, of which code and when."""
    yield f"{usable_cpus()} cores, {_cpu()}, {platform.system()} {platform.release()}"
    names = ("torch", "timm", "ray", "pyarrow", "pandas")
    yield f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)
    yield f"commit {_commit()}, {datetime.now(UTC):%Y-%m-%d}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    # Their own results are no change of what is measured.
    others = git("status", "--porcelain", "--untracked-files=no", ".", ":!benchmarks/RESULTS.md")
    changed = " with changes" if others else ""
    return git("rev-parse", "--short", "HEAD") + changed


def table(results: dict[str, list[Row] | BenchmarkError], *, small: bool) -> str:
    """The whole file."""
    lines = [["---"] * len(HEAD)]
    for name, found in results.items():
        if isinstance(found, BenchmarkError):
            lines.append([name, str(found), "", "", "", "", "failed"])
        else:
            lines += [[name, *row.cells()] for row in found]
    text = "\n".join(f"| {' | '.join(_escaped(line))} |" for line in [list(HEAD), *lines])
    how = (
        "The smallest form of each, to see that it runs: the numbers mean nothing."
        if small
        else ("Written by `make bench`. A ratio is ours over the peer's, the median of the rounds.")
    )
    facts = "\n".join(f"- {line}" for line in machine())
    return f"# Results of the benchmarks\n\n{how}\n\n{facts}\n\n{text}\n"


def _escaped(cells: list[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]


def main(argv: Sequence[str] | None = None) -> int:
    """Run them; 1 if any failed, which the table tells."""
    parser = Parser(prog="python -m benchmarks", description="Run every benchmark.")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, metavar="NAME",
        help=f"of {', '.join(COMMANDS)}")  # fmt: skip
    parser.add_argument("--small", action="store_true", help="only to see that each runs")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    args = parser.parse_args(argv)
    results: dict[str, list[Row] | BenchmarkError] = {}
    for name in args.only or COMMANDS:
        print(f"== {name}", flush=True)
        try:
            results[name] = measured(name, small=args.small)
        except BenchmarkError as error:
            results[name] = error
            print(f"failed: {error}", file=sys.stderr, flush=True)
        # Each time anew: what was measured so far is kept if somebody stops the rest.
        args.out.write_text(table(results, small=args.small), encoding="utf-8")
    print(args.out)
    return 1 if any(isinstance(found, BenchmarkError) for found in results.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
