import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from itertools import product

import pytest

from analysis.tables.catalogue import build_tables
from analysis.tables.render import Table, latex, latex_escape, markdown, render_tables
from analysis.tables.theory import build_theory_table
from analysis.trials.load import load_results
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

TABLE = Table(
    name="t",
    title="50 % & more: s_pos",
    columns=("Model", "b̂"),
    rows=(("a|b_c", "-1.50 ± 0.20 [σ 0.10]"), ("x=1,2", "–")),
    notes=("λ_b ≤ 5e-4 {set} ~ ^ \\ # $",),
    records=({"metric": "x", "mean": 0.5, "n": 2}, {"metric": "y", "mean": math.nan}),
)


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line)[1:-1]


def test_markdown_has_equal_columns_and_lines_up() -> None:
    lines = [line for line in markdown(TABLE).splitlines() if line.startswith("|")]
    assert [len(_cells(line)) for line in lines] == [2] * 4
    assert [cell.strip() for cell in _cells(lines[2])] == [r"a\|b_c", "-1.50 ± 0.20 [σ 0.10]"]
    assert len({len(line.replace("\u0302", "")) for line in lines}) == 1  # b̂ is two characters


def _check_latex(text: str) -> None:
    bare = text.replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    begins, ends = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert sorted(begins) == sorted(ends)
    assert len(re.findall(r"(?<!\\)\$", text.replace(r"\\", ""))) % 2 == 0
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) <= 1
    assert text.isascii()


def test_latex_is_balanced_and_escaped() -> None:
    text = latex(TABLE)
    _check_latex(text)
    assert r"\caption{50 \% \& more: $s_{\mathrm{pos}}$}" in text
    assert r"a|b\_c & $-$1.50 $\pm$ 0.20 [$\sigma$ 0.10] \\" in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1


def test_latex_of_every_table_is_balanced(store: Store) -> None:
    scores = {"s_pos_mean_train": 1.0, "s_neg_mean_train": -1.0, "bias_mean": 2.0, "bias_std": 0.1}
    for loss, bias, decay in product(("ce", "bce"), (0.0, 10.0), (0.0, 5e-4)):
        store.add(COLLAPSE, scores, loss=loss, bias_init_mean=bias, lambda_b=decay)
    for loss in ("ce", "bce"):
        store.add(CLASSIFICATION, {"accuracy_test": 0.5}, dataset="my_data", loss=loss)
        store.add(CLASSIFICATION, status="running", loss=loss, seed=1)
    results = load_results(store.root)
    for table in (*build_tables(results, allow_partial=True), build_theory_table(results)):
        assert table.rows
        _check_latex(latex(table))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-0.5", "$-$0.5"),
        ("5e-4", "5e-4"),
        ("α(b̂)", r"$\alpha(\hat{b})$"),
        ("A_Uni", r"$\mathcal{A}_{\mathrm{Uni}}$"),
        ("da1+da2", "da1+da2"),
        ("`a_b`: c", r"\texttt{a\_b}: c"),
    ],
)
def test_latex_escape(text: str, expected: str) -> None:
    assert latex_escape(text) == expected


def test_csv_is_tidy_and_nan_is_empty() -> None:
    rows = list(csv.DictReader(io.StringIO(render_tables([TABLE], "csv"))))
    assert rows == [
        {"metric": "x", "mean": "0.5", "n": "2"},
        {"metric": "y", "mean": "", "n": ""},
    ]


def test_json_is_strict_and_nan_is_null() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    (table,) = json.loads(render_tables([TABLE], "json"), parse_constant=refuse)
    assert table["records"][1] == {"metric": "y", "mean": None}
    assert table["rows"][1] == ["x=1,2", "–"]


def test_table_without_rows_is_its_notes() -> None:
    empty = Table("t", "T", (), (), ("no trials",), ())
    assert markdown(empty) == "**T**\n\n- no trials\n"
    _check_latex(latex(empty))
    assert render_tables([empty], "csv").strip() == ""


def test_unknown_format_lists_the_known() -> None:
    with pytest.raises(ValueError, match="format='rst' is unknown; use one of"):
        render_tables([TABLE], "rst")


def test_html_is_a_whole_page_that_asks_nobody() -> None:
    text = render_tables([TABLE], "html")
    parser = _Structure()
    parser.feed(text)
    assert parser.open == []
    assert parser.rows == [list(row) for row in (TABLE.columns, *TABLE.rows)]
    assert "http" not in text.replace('rel="icon" href="data:,"', "")


class _Structure(HTMLParser):
    """The texts of a page's table, and tags that were never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
