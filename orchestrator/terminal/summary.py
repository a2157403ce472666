"""What a sweep leaves at its end: tables, figures, and a few lines that say where they are."""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markdown import Markdown

from analysis.store.results import ResultStore
from orchestrator.plan.ledger import Ledger
from orchestrator.plan.plan import Plan
from orchestrator.plan.recorded import continue_command
from orchestrator.terminal.words import axes_of, counted, describe
from trainers.config import TrialConfig

if TYPE_CHECKING:
    from analysis.trials.load import Results

LISTED: Final = 20
NONE: Final = "none of these trials is in one"


def show_summary(
    plan: Plan, ledger: Ledger, *, argv: Sequence[str], facts: Mapping[str, str]
) -> bool:
    """Print how the trials ended, then the facts, also with --quiet. Whether all finished.

    Args: `ledger` as it is now; `argv`, the words that the sweep was started with.
    """
    ended = Counter(ledger.status(i) for i in plan.trials)
    bad = {i: ledger.rows[i] for i in plan.trials if ledger.status(i) in ("failed", "diverged")}
    if bad:
        again = "failed" if ended["failed"] else "diverged"
        facts = {**facts, "next": continue_command(argv, "--rerun", again)}
    left = {*plan.to_do}
    before = sum(plan.ledger.status(i) == "finished" for i in plan.trials if i not in left)
    for line in bad_trials(bad, plan.trials):
        print(line)
    all_of_them = counted(len(plan.trials), "trial")
    counts = {
        "finished": f"{ended['finished']} of {all_of_them} ({before} before)",
        "failed": f"{ended['failed']}, diverged {ended['diverged']}",
    }
    print(in_lines({**counts, **facts}))
    return ended["finished"] == len(plan.trials)


def bad_trials(
    rows: Mapping[str, Mapping[str, Any]], trials: Mapping[str, TrialConfig]
) -> Iterator[str]:
    """Trials that failed or diverged, by their reason; the most frequent first, no more than 20.

    Reasons that differ in numbers alone, such as the epoch, are one; the first of them is shown.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i, row in rows.items():
        groups[row["status"], re.sub(r"\d[\d.e+-]*", "#", row["reason"])].append(i)
    axes = axes_of(trials.values())
    listed = sorted(groups.values(), key=len, reverse=True)[:LISTED]
    each = LISTED // max(len(listed), 1)
    for ids in listed:
        first = rows[ids[0]]
        yield f"{len(ids)} {first['status']}: {first['reason']}"
        for i in islice(ids, each):
            yield f"  {i} {describe(trials[i], axes)}"
        if len(ids) > each:
            yield f"  and {len(ids) - each} more"
    if len(groups) > len(listed):
        others = len(rows) - sum(map(len, listed))
        yield f"and {others} more for {len(groups) - len(listed)} other reasons"


def write_analysis(store: ResultStore, console: Console) -> dict[str, str]:
    """Tables and figures of everything in the store: where they are, or why not, and what next."""
    from analysis.store.errors import ResultsError

    try:
        return _write_analysis(store, console)
    except (OSError, ResultsError) as error:  # the trials are safe, and this can be made again
        return {
            "tables": f"could not be made ({error})",
            "next": f"python -m analysis.tables --results {shlex.quote(store.location)}",
        }


def _write_analysis(store: ResultStore, console: Console) -> dict[str, str]:
    from analysis.figures.catalogue import QUICK, build_figures, needed_tables
    from analysis.figures.drawing import save  # matplotlib is no part of planning a sweep
    from analysis.store.files import write_text
    from analysis.tables.catalogue import build_tables
    from analysis.tables.render import EXTENSIONS, render_tables
    from analysis.tables.theory import build_theory_table
    from analysis.trials.load import load_results

    folder = Path(store.root if store.is_local else "report")
    results = load_results(store.location, tables=needed_tables(QUICK))
    built = [table for table in build_tables(results, allow_partial=True) if table.rows]
    if built:
        show_tables(render_tables(built, "markdown"), console)
    theory = [
        table for table in [build_theory_table(results)] if table.rows
    ]  # long: to be looked up
    written = {"tables": built, "theory": theory}
    for name, found in written.items():
        for fmt in ("markdown", "latex") if found else ():
            write_text(folder / "tables" / f"{name}.{EXTENSIONS[fmt]}", render_tables(found, fmt))
    drawn = 0
    for kind in QUICK:
        for name, figure in build_figures(results, kind):
            save(figure, folder / "figures" / f"{name}.png")
            drawn += 1
    place = shlex.quote(store.location)
    return {
        "tables": f"{folder / 'tables'} ({len(built + theory)})" if built or theory else NONE,
        "figures": f"{folder / 'figures'} ({drawn})" if drawn else NONE,
        "theory": f"{_agreement(results)}python -m analysis.theory --results {place}",
        "next": f"python -m analysis.report --results {place}"
        + ("" if store.is_local else " --out report.html"),
    }


def _agreement(results: "Results") -> str:
    from analysis.theory.setting import at_minimum
    from analysis.trials.measured import measured_trials

    there, trials = at_minimum(measured_trials(results))
    if not trials:
        return ""
    return f"{there} of {trials} ufm trials: scores, BCE's bias within 1 % of the minimum; "


def show_tables(markdown: str, console: Console) -> None:
    """Tables drawn to the width of a terminal; as they are in a log."""
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        console.print(markdown, highlight=False, soft_wrap=True, markup=False)


def in_lines(facts: Mapping[str, str]) -> str:
    """Names and values in two columns. Never wrapped: commands are there to be copied."""
    width = max(map(len, facts))
    return "\n".join(f"{key:{width}}  {value}" for key, value in facts.items())
