"""The typed rows hold what the schema's tables hold, column by column."""

from datetime import datetime
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
import pytest

from analysis.store.rows import ConfigRow, EpochRow, FeatureRow, ScoreRow, TrialRow
from analysis.store.schema import CONFIG_FIELDS, EPOCHS, FEATURES, SCORES, TRIALS

KINDS = {
    pa.string(): str, pa.int32(): int, pa.int64(): int, pa.float64(): float, pa.bool_(): bool,
    pa.timestamp("us", tz="UTC"): datetime,
}  # fmt: skip


def plain(hint: Any) -> type:
    """Without `Required` and `None`; a Literal is the type of its values."""
    if get_origin(hint) is Literal:
        (kind,) = {type(value) for value in get_args(hint)}
        return kind
    arguments = [each for each in get_args(hint) if each is not type(None)]
    return plain(arguments[0]) if arguments else hint


@pytest.mark.parametrize(
    ("row", "columns"),
    [(ConfigRow, pa.schema(list(CONFIG_FIELDS))), (TrialRow, TRIALS), (ScoreRow, SCORES)],
)
def test_a_row_has_its_tables_columns(row: type, columns: pa.Schema) -> None:
    hints = {name: plain(hint) for name, hint in get_type_hints(row).items()}
    assert hints == {field.name: KINDS[field.type] for field in columns}


def test_an_epochs_other_columns_are_numbers() -> None:
    hints = get_type_hints(EpochRow)
    for field in EPOCHS:
        assert plain(hints.get(field.name, float)) is KINDS[field.type], field.name
    assert set(hints) <= set(EPOCHS.names)


def test_features() -> None:
    assert list(get_type_hints(FeatureRow)) == FEATURES.names
