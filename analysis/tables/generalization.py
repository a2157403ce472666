"""Tables 2 and 3: what BCE and CE reach on the test set, and their difference."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.paper import published
from analysis.tables.entries import (
    BLANK,
    DELTA,
    OURS,
    PAPER,
    PAPER_AND_DIFFERENCE,
    Entry,
    Line,
    Quantity,
    any_number,
    assemble,
    delta,
    measured,
    published_delta,
    published_entry,
)
from analysis.tables.names import (
    AUGMENT_NAMES,
    comparison_notes,
    loss_name,
    optimizer_name,
    reference_models,
    reference_note,
)
from analysis.tables.paper_table import PaperTable
from analysis.tables.render import Table
from analysis.trials.cells import Block, blocks, in_order

_CELL_FIELDS = ("optimizer", "augment", "loss")
_DELTA_KEY = "delta"  # stands in a record where the loss does


class Column(NamedTuple):
    """A column of numbers."""

    optimizer: str
    augment: str
    quantity: Quantity


def generalization_table(table: PaperTable, trials: pd.DataFrame, *, compare: bool) -> Table:
    """Table 2 or 3 of `cells.classification_trials`; dashes where a cell lacks trials."""
    number = int(table.name)
    parts = list(blocks(trials, _CELL_FIELDS))
    compared = [block for block in parts if _is_papers(block, number)]
    others = [block for block in parts if not _is_papers(block, number)]
    columns = _columns(table, trials, with_reference=compare and bool(others))
    lines = [line for block in parts for line in _block_lines(block, number, columns, compare)]
    notes = [
        f"{DELTA}: mean over the seeds that both have [95 % confidence interval], p of the "
        "two-sided paired t-test, Holm-corrected over this table; both from two seeds on"
    ]
    if compare:
        models = reference_models(number, others, compared)
        lines += [line for model in models for line in _reference_lines(model, number, columns)]
        notes += comparison_notes(compared)
        notes += [reference_note(number, others)] if models else []
    labels = ("Dataset", "Model", "Loss", *(["Source"] if compare else []))
    return assemble(table.file_name, table.title, (*labels, *map(_head, columns)), lines, notes)


def _head(column: Column) -> str:
    augment = AUGMENT_NAMES.get(column.augment, column.augment)
    return f"{optimizer_name(column.optimizer)} {augment} {column.quantity.symbol}"


def _columns(table: PaperTable, trials: pd.DataFrame, *, with_reference: bool) -> list[Column]:
    """Optimizers and augmentations that have trials; a reference needs one that the paper has."""
    augments = in_order(trials["augment"], published.AUGMENTS)
    papers = {key.augment for key in published.numbers(int(table.name))}
    if with_reference and not papers & set(augments):
        augments = in_order([*augments, *papers], published.AUGMENTS)
    optimizers = in_order(trials["optimizer"], published.OPTIMIZERS)
    return [Column(o, a, q) for o in optimizers for a in augments for q in table.quantities]


def _is_papers(block: Block, number: int) -> bool:
    """Whether the paper has this dataset and this very network."""
    return not block.model_kwargs and published.has(number, block.dataset, block.model)


def _block_lines(
    block: Block, number: int, columns: Sequence[Column], compare: bool
) -> Iterator[Line]:
    losses = in_order(block.trials["loss"], published.LOSSES)
    has_delta = set(published.LOSSES) <= set(losses)
    for loss in [*losses, *([_DELTA_KEY] if has_delta else [])]:
        labels = (block.dataset, block.label, DELTA if loss == _DELTA_KEY else loss_name(loss))
        ours = [_entry(block, number, column, loss) for column in columns]
        yield (*labels, OURS) if compare else labels, ours
        if compare and _is_papers(block, number):
            pairs = zip(columns, ours, strict=True)
            papers = [
                _published(block.dataset, block.model, number, column, loss, entry)
                for column, entry in pairs
            ]
            if any_number(papers):
                yield (*labels, PAPER_AND_DIFFERENCE), papers


def _entry(block: Block, number: int, column: Column, loss: str) -> Entry:
    optimizer, augment, quantity = column
    identity = {
        "table": number,
        "dataset": block.dataset,
        "model": block.label,
        "optimizer": optimizer,
        "augment": augment,
        "loss": loss,
    }
    if loss == _DELTA_KEY:
        ce, bce = (
            block.cell(optimizer=optimizer, augment=augment, loss=name) for name in published.LOSSES
        )
        return delta(ce, bce, quantity, identity)
    cell = block.cell(optimizer=optimizer, augment=augment, loss=loss)
    where = f"{block.dataset} {block.label} {optimizer} {augment} {loss}"
    return measured(cell, quantity, identity, where)


def _published(
    dataset: str, model: str, number: int, column: Column, loss: str, ours: Entry | None = None
) -> Entry:
    if ours is not None and not ours.text:
        return BLANK  # nobody planned a trial to set beside it
    optimizer, augment, quantity = column
    key = published.Key(dataset, model, optimizer, augment, loss, quantity.name)
    numbers = published.numbers(number)
    value = numbers.get(key)
    if loss == _DELTA_KEY:
        value = published_delta(
            *(numbers.get(key._replace(loss=each)) for each in published.LOSSES)
        )
    return published_entry(value, quantity, {"table": number, **key._asdict()}, ours=ours)


def _reference_lines(model: str, number: int, columns: Sequence[Column]) -> Iterator[Line]:
    dataset = published.REFERENCE_DATASET
    for loss in (*published.LOSSES, _DELTA_KEY):
        entries = [_published(dataset, model, number, column, loss) for column in columns]
        shown = DELTA if loss == _DELTA_KEY else loss_name(loss)
        yield (f"paper, {dataset}", model, shown, PAPER), entries
