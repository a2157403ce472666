"""What a sweep leaves at its end: tables, figures, and a few lines that say where they are."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown

from trainers.results import ResultStore

if TYPE_CHECKING:
    from analysis.load import Results


def write_analysis(store: ResultStore, console: Console) -> dict[str, str]:
    """Tables and figures of everything in the store; where they are."""
    from analysis import drawing, figures, tables  # matplotlib is no part of planning a sweep
    from analysis.load import load_results
    from analysis.render import render_tables

    folder = Path(store.root if store.is_local else "report")
    results = load_results(store.location)
    for fmt, suffix in (("markdown", "md"), ("latex", "tex")):
        built = tables.build_tables(results, tables.NUMBERS, allow_partial=True)
        text = render_tables([table for table in built if table.rows], fmt)
        path = folder / "tables" / f"tables.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if fmt == "markdown":
            show_tables(text, console)
    drawn = 0
    for number in figures.NUMBERS:
        for name, figure in figures.build_figures(results, number):
            drawing.save(figure, folder / "figures" / f"{name}.png")
            drawn += 1
    place = shlex.quote(store.location)
    return {
        "tables": str(folder / "tables"),
        "figures": f"{folder / 'figures'} ({drawn})" if drawn else "none of these trials has one",
        "theory": f"{_agreement(results)}python -m analysis.theory --results {place}",
    }


def _agreement(results: "Results") -> str:
    from analysis.theory import ufm_agreement

    there, trials = ufm_agreement(results)
    if not trials:
        return ""
    return f"{there} of {trials} ufm trials end within 1 % of the predicted minimum; "


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
