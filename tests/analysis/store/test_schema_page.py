from pathlib import Path

import pytest

from analysis.store.schema import TABLES
from analysis.store.schema_page import page


def test_the_document_is_what_the_schema_says() -> None:
    document = Path(__file__).parents[3] / "docs" / "results.md"
    assert document.read_text("utf-8") == page(), (
        "python -m analysis.store.schema_page > docs/results.md"
    )


@pytest.mark.parametrize("table", TABLES)
def test_every_column_says_what_it_is(table: str) -> None:
    for field in TABLES[table]:
        assert field.metadata[b"description"] or field.name == "samples_per_s", field.name
        assert f"| `{field.name}` | {field.type} |" in page()
