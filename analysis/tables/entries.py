"""One number in a table: from a cell's seeds, from the paper, or a dash with its reason.

An entry holds the text that is printed and the record that CSV and JSON carry, with the ids of the
trials behind it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from analysis.paper.published import Published
from analysis.tables.render import Record, Table
from analysis.trials.cells import Cell
from analysis.trials.measured import FINISHED
from analysis.trials.stats import (
    format_number,
    format_paired,
    format_summary,
    holm,
    paired_difference,
    summarize,
)

DASH = "–"
OURS = "ours"
PAPER = "paper"
PAPER_AND_DIFFERENCE = "paper (ours − paper)"
DELTA = "Δ = BCE − CE"
_MOST_NOTES = 40  # an unfinished sweep of thousands has a note for each of its cells


class Quantity(NamedTuple):
    """A metric as a table shows it."""

    name: str  # in records and in the published files
    symbol: str
    column: str  # of the epochs table
    decimals: int
    percent: bool = False
    spread_column: str | None = None  # standard deviation inside a trial, over its samples


@dataclass(frozen=True)
class Entry:
    """The text of a number (without n and p, which `assemble` adds) and its record."""

    text: str
    n: int | None = None
    mean: float = math.nan
    p: float = math.nan  # of its own test, not yet corrected for the others of the table
    record: Record | None = None
    note: str | None = None


Line = tuple[Sequence[str], Sequence[Entry]]  # the labels of a row, then its numbers
BLANK = Entry("")  # nobody planned a trial for it, or it isn't defined there


def measured(cell: Cell, quantity: Quantity, identity: Record, where: str) -> Entry:
    """Mean ± sd over the seeds of a cell, or a dash that says why there is none.

    Args: `identity` tells in records, `where` in notes, which cell this is.
    """
    if cell.planned == 0:
        return BLANK
    values = cell.by_seed(quantity.column)
    record = {
        **identity,
        "metric": quantity.name,
        "source": OURS,
        "planned": cell.planned,
        "trial_ids": cell.trial_ids,
    }
    if not cell.is_complete:
        record |= {"mean": math.nan, "sd": math.nan, "n": cell.finished}
        return Entry(DASH, record=record, note=_partial_note(cell, where))
    summary = summarize(values.values())
    record |= summary._asdict()
    if math.isnan(summary.mean):
        return Entry(DASH, record=record, note=_undefined_note(values, quantity, where))
    text = format_summary(summary, quantity.decimals, percent=quantity.percent)
    if quantity.spread_column:
        spread = summarize(cell.by_seed(quantity.spread_column).values()).mean
        record["spread"] = spread
        text += _spread_text(spread, quantity)
    return Entry(text, summary.n, summary.mean, record=record)


def _partial_note(cell: Cell, where: str) -> str:
    rows = cell.trials[cell.trials["status"] != FINISHED]
    missing = ", ".join(f"{t} ({s})" for t, s in zip(rows["trial_id"], rows["status"], strict=True))
    return f"{DASH} {where}: {cell.finished} of {cell.planned} seeds are finished; not: {missing}"


def _undefined_note(values: Mapping[int, float], quantity: Quantity, where: str) -> str:
    seeds = ", ".join(str(seed) for seed, value in values.items() if math.isnan(value))
    return f"{DASH} {where}: {quantity.symbol} is undefined (null in the results) at seed {seeds}"


def _spread_text(spread: float, quantity: Quantity) -> str:
    return f" [σ {format_number(spread, quantity.decimals)}]"


def delta(ce: Cell, bce: Cell, quantity: Quantity, identity: Record) -> Entry:
    """BCE − CE, paired by seed; from two seeds on with its confidence interval and p."""
    if ce.planned == 0 or bce.planned == 0:
        return BLANK
    ids = (*ce.trial_ids, *bce.trial_ids)
    record = {**identity, "metric": quantity.name, "source": OURS, "trial_ids": ids}
    if not (ce.is_complete and bce.is_complete):
        return Entry(DASH, record=record)  # the note stands at the losses' own cells
    paired = paired_difference(bce.by_seed(quantity.column), ce.by_seed(quantity.column))
    record |= paired._asdict()
    if math.isnan(paired.mean):  # an undefined value, or no seed in common
        return Entry(DASH, record=record)
    text = format_paired(paired, quantity.decimals, percent=quantity.percent)
    return Entry(text, paired.n, paired.mean, paired.p, record)


def published_entry(
    value: Published | None, quantity: Quantity, identity: Record, *, ours: Entry | None = None
) -> Entry:
    """The paper's number; in brackets how far ours is from it, where there is ours."""
    if value is None:
        return BLANK
    percent = quantity.percent
    text = format_number(
        value.mean, quantity.decimals, percent=percent, sign=identity["loss"] == "delta"
    )
    if not math.isnan(value.spread):
        text += _spread_text(value.spread, quantity)
    if ours is not None and not math.isnan(ours.mean):
        off = ours.mean - value.mean
        text += f" ({format_number(off, quantity.decimals, percent=percent, sign=True)})"
    record = {**identity, "metric": quantity.name, "source": PAPER, "mean": value.mean}
    if not math.isnan(value.spread):
        record["spread"] = value.spread
    return Entry(text, record=record)


def published_delta(ce: Published | None, bce: Published | None) -> Published | None:
    """The paper's BCE − CE, from its rows."""
    return Published(bce.mean - ce.mean, math.nan) if ce and bce else None


def without_shared(
    names: Sequence[str], lines: Sequence[Line], first: int
) -> tuple[list[str], list[Line], list[str]]:
    """Names and lines without those of the first labels that all lines share, and a note on them.

    A page is narrow.
    """
    shared = [i for i in range(first) if len({labels[i] for labels, _ in lines}) == 1]
    if not shared:
        return [*names], [*lines], []
    told = ", ".join(f"{names[i]} {lines[0][0][i]}" for i in shared)
    kept = [i for i in range(len(names)) if i not in shared]
    fewer: list[Line] = [([labels[i] for i in kept], entries) for labels, entries in lines]
    return [names[i] for i in kept], fewer, [f"in all rows: {told}"]


def assemble(
    name: str, title: str, columns: Sequence[str], lines: Sequence[Line], notes: Sequence[str]
) -> Table:
    """A table of its lines: n goes into the cells only where it isn't the same in all of them.

    The p-values are corrected for how many the table has.
    """
    lines = _with_p(lines)
    entries = [entry for _, entries in lines for entry in entries]
    sizes = sorted({entry.n for entry in entries if entry.n is not None})
    spread_note = [_seeds_note(sizes)] if sizes else []
    if len(sizes) > 1:
        lines = [(labels, [_with_n(entry) for entry in entries]) for labels, entries in lines]
    own = _shortened(list(dict.fromkeys(entry.note for entry in entries if entry.note)))
    return Table(
        name,
        title,
        tuple(columns),
        tuple((*labels, *(entry.text for entry in entries)) for labels, entries in lines),
        (*spread_note, *notes, *own),
        tuple(entry.record for entry in entries if entry.record is not None),
    )


def _with_p(lines: Sequence[Line]) -> list[Line]:
    corrected = iter(holm([entry.p for _, entries in lines for entry in entries]))
    return [
        (labels, [_tested(entry, p) for entry, p in zip(entries, corrected, strict=False)])
        for labels, entries in lines
    ]


def _tested(entry: Entry, p: float) -> Entry:
    if math.isnan(p):
        return entry
    record = {**(entry.record or {}), "p_holm": p}
    return replace(entry, text=f"{entry.text} p={p:.2g}", record=record)


def _seeds_note(sizes: Sequence[int]) -> str:
    """How the spread is estimated and over how many seeds, which every spread must state."""
    if list(sizes) == [1]:
        return "n=1: one seed each, so there is no spread over seeds"
    n = f"n={sizes[0]} in every cell" if len(sizes) == 1 else "n stated in each cell"
    return f"mean ± sample standard deviation (ddof=1) over n seeds, {n}"


def _with_n(entry: Entry) -> Entry:
    return entry if entry.n is None else replace(entry, text=f"{entry.text} (n={entry.n})")


def _shortened(notes: list[str]) -> list[str]:
    if len(notes) <= _MOST_NOTES:
        return notes
    rest = len(notes) - _MOST_NOTES
    return [*notes[:_MOST_NOTES], f"and {rest} more cells with a dash; --format json lists them"]


def any_number(entries: Iterable[Entry]) -> bool:
    """Whether a row has anything to show."""
    return any(entry.text for entry in entries)
