"""What a large plan costs before its first trial: to be listed, and to find what is done.

python -m benchmarks.planning [--trials 10000]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.store.results import ResultStore
from benchmarks.analysis import cost, write_results
from benchmarks.rows import Row, run
from orchestrator.plan.ledger import read_ledger

LIMITS_S = {10_000: (5.0, 10.0)}  # trials: to be listed, to be read
FULL = 1_944  # trials of the study `full` with one seed


def measure(args: argparse.Namespace) -> Iterator[Row]:
    """`--dry-run` of a part of `full`; the ledger of as many finished trials."""
    listed_s, read_s = LIMITS_S.get(args.trials, (None, None))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "results"
        seeds = map(str, range(-(-args.trials // FULL)))
        command = [sys.executable, "-m", "orchestrator.sweep", "--dry-run", "--results", str(root)]
        command += ["--study", "full", "--limit", str(args.trials), "--seeds", *seeds]
        yield Row(f"dry run of {args.trials} trials", cost(command)[0], "s", listed_s)
        write_results(root, args.trials, 1)
        begin = time.perf_counter()
        ledger = read_ledger(ResultStore(root))
        taken_s = time.perf_counter() - begin
        assert len(ledger.rows) == args.trials
        yield Row(f"ledger of {args.trials} finished trials", taken_s, "s", read_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    return run(parser, measure, argv)


if __name__ == "__main__":
    raise SystemExit(main())
