"""What a benchmark tells: a row for each thing measured, on the terminal and for the table."""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Row:
    """Ours against a peer in the same unit, where more is better; or a value with a limit."""

    what: str
    ours: float  # median over the rounds
    unit: str
    target: float | None  # the least ratio to a peer, the most of a value; None: told alone
    peer: str = ""
    theirs: float | None = None
    ratios: list[float] = field(default_factory=list)  # ours over the peer's, round by round

    @property
    def ratio(self) -> float:
        """The median over the rounds: one disturbed round doesn't move it."""
        return median(self.ratios)

    @property
    def verdict(self) -> str:
        """Whether the target is met; empty if there is none."""
        if self.target is None:
            return ""
        met = self.ratio >= self.target if self.ratios else self.ours <= self.target
        return "met" if met else "missed"

    def cells(self) -> list[str]:
        """What, ours, peer, ratio, target and verdict, for a table."""
        ours, peer, ratio = f"{_shown(self.ours)} {self.unit}".rstrip(), "", ""
        sign = "≤"
        if self.theirs is not None:
            peer, sign = f"{_shown(self.theirs)}, {self.peer}", "≥"
            ratio = f"{self.ratio:.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f})"
        target = "" if self.target is None else f"{sign} {self.target:g}"
        return [self.what, ours, peer, ratio, target, self.verdict]


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
    argv: Sequence[str] | None,
) -> int:
    """A benchmark's `main`: print each row as it comes, and keep them all with --json."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    args = parser.parse_args(argv)
    rows = []
    for row in measure(args):
        print(" | ".join(cell for cell in row.cells() if cell), flush=True)
        rows.append(row)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    return 0
