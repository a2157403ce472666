"""The report as one HTML text: what its template, `templates/report.html`, shows."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pandas as pd

from analysis.figures.catalogue import NAMES as FIGURE_NAMES
from analysis.figures.catalogue import build_figures
from analysis.figures.drawing import as_bytes
from analysis.report.verdicts import (
    FAILS,
    HOLDS,
    NOT_REACHED,
    OPEN,
    UNTESTED,
    verdict_table,
    verdicts,
)
from analysis.store.schema import STATUSES
from analysis.tables.catalogue import build_tables
from analysis.tables.render import Table, html_page
from analysis.tables.theory import build_theory_table
from analysis.trials.gaps import commands
from analysis.trials.load import Results
from analysis.trials.measured import FINISHED, NOT_STARTED, measured_trials

_MOST_FAILURES = 200  # listed one by one
_BADGES = {
    HOLDS: "holds", FAILS: "fails", OPEN: "open", NOT_REACHED: "open", UNTESTED: "untested"
}  # fmt: skip


def build_report(results: Results) -> str:
    """The whole document. Args: results with the tables in `figures.catalogue.needed_tables()`.

    Raises: ResultsError if a trial's rows are missing.
    """
    trials = measured_trials(results)
    return html_page(
        "report.html",
        "analysis.report",
        path=results.path,
        finished=int((trials["status"] == FINISHED).sum()),
        planned=len(trials),
        verdicts=verdict_table(verdicts(results)),
        badges=_BADGES,
        tables=list(_tables(results)),
        pictures=list(_pictures(results)),
        coverage=coverage(results, trials),
        failures=failures(trials),
        provenance=provenance(results),
    )


class _Picture(NamedTuple):
    """A figure in the page."""

    name: str
    svg: str  # in base64
    alt: str


def _tables(results: Results) -> Iterator[Table]:
    yield from build_tables(results, allow_partial=True)
    theory = build_theory_table(results)
    if theory.rows:
        yield theory


def _pictures(results: Results) -> Iterator[_Picture]:
    for kind in FIGURE_NAMES:
        for name, figure in build_figures(results, kind):
            svg = base64.b64encode(as_bytes(figure, "svg")).decode()
            yield _Picture(name, svg, figure.get_suptitle().replace("\n", "; "))


def coverage(results: Results, trials: pd.DataFrame) -> Table:
    """How many trials of each study, dataset and model are in which state."""
    states = (*STATUSES, NOT_STARTED)
    studies = results.plan[["trial_id", "study"]]
    rows = trials.drop(columns="study").merge(studies, on="trial_id", how="left")
    rows["study"] = rows["study"].fillna("in no study")
    lines = []
    for (study, dataset, model), group in rows.groupby(["study", "dataset", "model"], sort=True):
        counts = group["status"].value_counts()
        cells = (str(counts.get(state, 0) or "") for state in states)
        lines.append((str(study), str(dataset), str(model), str(len(group)), *cells))
    columns = ("Study", "Dataset", "Model", "Planned", *(state.capitalize() for state in states))
    left = trials[trials["status"] != FINISHED]
    notes = tuple(f"{command}: runs what is missing" for command in commands(left))
    return Table("coverage-table", "Trials by state", columns, tuple(lines), notes, ())


def failures(trials: pd.DataFrame) -> Table:
    """Every trial that failed or diverged, and why."""
    bad = trials[trials["status"].isin(("failed", "diverged"))].sort_values("trial_id")
    names = ("trial_id", "status", "dataset", "model", "loss", "optimizer", "seed", "reason")
    rows = tuple(
        tuple("" if pd.isna(row[n]) else str(row[n]) for n in names)
        for _, row in bad.head(_MOST_FAILURES).iterrows()
    )
    notes = [] if len(bad) else ["No trial failed or diverged."]
    if len(bad) > len(rows):
        notes.append(f"and {len(bad) - len(rows)} more")
    title = "Trials that failed or diverged"
    return Table("failures-table", title, names if rows else (), rows, tuple(notes), ())


def provenance(results: Results) -> Table:
    """What made these results: versions, commits, machines, times."""
    trials = results.trials
    facts = {
        "Results": results.path,
        "Report made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Trials started": _span(trials["started_at"]),
        "Training and evaluation": f"{_duration(trials['wall_s'].sum())} of slots",
    }
    for title, column in (
        ("Commit", "git_commit"),
        ("Package", "version_package"),
        ("torch", "version_torch"),
        ("timm", "version_timm"),
        ("Python", "version_python"),
        ("Device", "device"),
        ("Processes a trial", "world_size"),
    ):
        counts = trials[column].value_counts()
        shown = (f"{value} ({n} trial{'s' * (n != 1)})" for value, n in counts.items())
        facts[title] = ", ".join(shown) or "not recorded"
    note = (
        "every number's trials and files: python -m analysis.tables --trace "
        f"--results {results.path}"
    )
    title = "Where these numbers come from"
    return Table("provenance-table", title, ("What", "Value"), tuple(facts.items()), (note,), ())


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _span(times: pd.Series) -> str:
    known = times.dropna()
    if known.empty:
        return "not recorded"
    return f"{known.min():%Y-%m-%d %H:%M} to {known.max():%Y-%m-%d %H:%M} UTC"
