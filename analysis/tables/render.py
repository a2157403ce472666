"""A table as Markdown, LaTeX, HTML, CSV or JSON: pure functions of the intermediate `Table`.

Markdown, LaTeX and HTML print `rows`; CSV and JSON carry `records`, in full precision and as
fractions.
"""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import ChoiceLoader, Environment, PackageLoader
from markupsafe import Markup, escape

Record = Mapping[str, object]
EXTENSIONS = {"markdown": "md", "latex": "tex", "html": "html", "csv": "csv", "json": "json"}


@dataclass(frozen=True)
class Table:
    """What is printed: every row has as many texts as there are columns."""

    name: str  # stem of its file, like `table1`
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    records: tuple[Record, ...]  # one per number, with what it is a number of


def render_tables(tables: Sequence[Table], fmt: str) -> str:
    """Several tables as one text; `fmt` is a key of EXTENSIONS.

    Raises: ValueError for another format.
    """
    renderers: dict[str, Callable[[Sequence[Table]], str]] = {
        "markdown": lambda tables: "\n".join(map(markdown, tables)),
        "latex": lambda tables: "\n".join([_LATEX_NEEDS, *map(latex, tables)]),
        "html": lambda tables: html_page("page.html", tables=tables),
        "csv": csv_text,
        "json": json_text,
    }
    if fmt not in renderers:
        raise ValueError(f"format={fmt!r} is unknown; use one of {sorted(renderers)}")
    return renderers[fmt](tables)


def markdown(table: Table) -> str:
    """A GitHub table, padded so that it reads in a terminal too."""
    lines = [f"**{table.title}**", ""]
    if table.rows:
        grid = [[_escape_pipe(text) for text in row] for row in (table.columns, *table.rows)]
        widths = [max(3, *map(_width, column)) for column in zip(*grid, strict=True)]
        head, *body = [_markdown_row(row, widths) for row in grid]
        lines += [head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body, ""]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _markdown_row(texts: Sequence[str], widths: Sequence[int]) -> str:
    padded = (
        text + " " * (width - _width(text)) for text, width in zip(texts, widths, strict=True)
    )
    return "| " + " | ".join(padded) + " |"


def _escape_pipe(text: str) -> str:
    return text.replace("|", r"\|")


def _width(text: str) -> int:
    return sum(not unicodedata.combining(character) for character in text)


_LATEX_NEEDS = r"% \usepackage{booktabs, adjustbox}"


def latex(table: Table) -> str:
    r"""A `table` with booktabs rules, shrunk where a page is too narrow for it.

    Needs `\usepackage{booktabs, adjustbox}` and nothing else.
    """
    title = re.sub(r"^Table \S+\. ", "", table.title)  # LaTeX numbers it
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_escape(title)}}}"]
    lines += [rf"\label{{tab:{table.name}}}"]
    if table.rows:
        body = [" & ".join(map(latex_escape, row)) + r" \\" for row in table.rows]
        head = " & ".join(map(latex_escape, table.columns)) + r" \\"
        lines += [r"\begin{adjustbox}{max width=\linewidth}"]
        lines += [rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\toprule", head]
        lines += [r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}"]
    lines += [rf"\par\footnotesize {latex_escape(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


# Longest first, so that a symbol of several characters isn't taken apart.
_LATEX = {
    "α(b̂)": r"$\alpha(\hat{b})$",
    "A_Uni": r"$\mathcal{A}_{\mathrm{Uni}}$",
    "E_com": r"$\mathcal{E}_{\mathrm{com}}$",
    "E_dis": r"$\mathcal{E}_{\mathrm{dis}}$",
    "s_pos": r"$s_{\mathrm{pos}}$",
    "s_neg": r"$s_{\mathrm{neg}}$",
    "λ_W": r"$\lambda_{W}$",
    "λ_H": r"$\lambda_{H}$",
    "λ_b": r"$\lambda_{b}$",
    "b̂": r"$\hat{b}$",
    "b₀": r"$b_{0}$",
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "σ": r"$\sigma$",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "ρ": r"$\rho$",
    "√": r"$\surd$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "−": r"$-$",
    "–": "--",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "*": r"$^{*}$",
}
_LATEX_PATTERN = re.compile(r"(?<![\w.])-(?=\d)|" + "|".join(map(re.escape, _LATEX)))


def latex_escape(text: str) -> str:
    """Text with special characters escaped, our symbols in math mode and `code` as such."""
    escaped = _LATEX_PATTERN.sub(lambda match: _LATEX.get(match[0], "$-$"), text)
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)


def html_page(name: str, *packages: str, **values: object) -> str:
    """A whole HTML document that needs nothing but itself: a template with its values.

    Templates are in the folder `templates` of `packages`, then in that of this one.
    """
    loaders = [PackageLoader(package) for package in (*packages, "analysis.tables")]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["with_code"] = _with_code
    return environment.get_template(name).render(**values) + "\n"


def _with_code(note: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(note))))


def csv_text(tables: Sequence[Table]) -> str:
    """Tidy CSV: one number a line; NaN is an empty field."""
    records = [_joined(_plain(record)) for table in tables for record in table.records]
    columns = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def json_text(tables: Sequence[Table]) -> str:
    """A JSON list of tables, each with its text as printed and its numbers; NaN is null."""
    return json.dumps([_as_json(table) for table in tables], indent=1, ensure_ascii=False) + "\n"


def _joined(record: Record) -> Record:
    lists = {k: " ".join(v) for k, v in record.items() if isinstance(v, tuple)}
    return {**record, **lists}


def _as_json(table: Table) -> dict[str, object]:
    fields = ("name", "title", "columns", "rows", "notes")
    plain = {field: getattr(table, field) for field in fields}
    return {**plain, "records": [_plain(record) for record in table.records]}


def _plain(record: Record) -> dict[str, object]:
    missing = (k for k, v in record.items() if isinstance(v, float) and not math.isfinite(v))
    return {**record, **dict.fromkeys(missing)}
