"""Tables 2 and 3: what BCE and CE reach on the test set, and their difference."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from analysis import paper
from analysis.cells import Block, blocks, in_order
from analysis.entries import (
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
from analysis.names import (
    AUGMENT_NAMES,
    comparison_notes,
    loss_name,
    optimizer_name,
    reference_models,
    reference_note,
)
from analysis.render import Table

TITLES = {
    2: "Table 2. Accuracy and uniform accuracy on the test set, in percent",
    3: "Table 3. Compactness and distinctiveness of the features of the test set",
}
QUANTITIES = {
    2: (
        Quantity("accuracy", "A", "accuracy_test", 2, percent=True),
        Quantity("uniform_accuracy", "A_Uni", "uniform_accuracy_test", 2, percent=True),
    ),
    3: (
        Quantity("compactness", "E_com", "compactness_test", 4),
        Quantity("distinctiveness", "E_dis", "distinctiveness_test", 4),
    ),
}
_CELL_FIELDS = ("optimizer", "augment", "loss")
_DELTA_KEY = "delta"  # stands in a record where the loss does


class Column(NamedTuple):
    """A column of numbers."""

    optimizer: str
    augment: str
    quantity: Quantity


def generalization_table(trials: pd.DataFrame, number: int, *, compare: bool) -> Table:
    """Table 2 or 3 of `cells.classification_trials`; dashes where a cell lacks trials."""
    parts = list(blocks(trials, _CELL_FIELDS))
    compared = [block for block in parts if _is_papers(block, number)]
    others = [block for block in parts if not _is_papers(block, number)]
    columns = _columns(trials, number, with_reference=compare and bool(others))
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
    return assemble(f"table{number}", TITLES[number], (*labels, *map(_head, columns)), lines, notes)


def _head(column: Column) -> str:
    augment = AUGMENT_NAMES.get(column.augment, column.augment)
    return f"{optimizer_name(column.optimizer)} {augment} {column.quantity.symbol}"


def _columns(trials: pd.DataFrame, number: int, *, with_reference: bool) -> list[Column]:
    """Optimizers and augmentations that have trials; a reference needs one that the paper has."""
    augments = in_order(trials["augment"], paper.AUGMENTS)
    published = {key.augment for key in paper.published(number)}
    if with_reference and not published & set(augments):
        augments = in_order([*augments, *published], paper.AUGMENTS)
    optimizers = in_order(trials["optimizer"], paper.OPTIMIZERS)
    return [Column(o, a, q) for o in optimizers for a in augments for q in QUANTITIES[number]]


def _is_papers(block: Block, number: int) -> bool:
    """Whether the paper has this dataset and this very network."""
    return not block.model_kwargs and paper.has(number, block.dataset, block.model)


def _block_lines(
    block: Block, number: int, columns: Sequence[Column], compare: bool
) -> Iterator[Line]:
    losses = in_order(block.trials["loss"], paper.LOSSES)
    has_delta = set(paper.LOSSES) <= set(losses)
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
            block.cell(optimizer=optimizer, augment=augment, loss=name) for name in paper.LOSSES
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
    key = paper.Key(dataset, model, optimizer, augment, loss, quantity.name)
    numbers = paper.published(number)
    value = numbers.get(key)
    if loss == _DELTA_KEY:
        value = published_delta(*(numbers.get(key._replace(loss=each)) for each in paper.LOSSES))
    return published_entry(value, quantity, {"table": number, **key._asdict()}, ours=ours)


def _reference_lines(model: str, number: int, columns: Sequence[Column]) -> Iterator[Line]:
    dataset = paper.REFERENCE_DATASET
    for loss in (*paper.LOSSES, _DELTA_KEY):
        entries = [_published(dataset, model, number, column, loss) for column in columns]
        shown = DELTA if loss == _DELTA_KEY else loss_name(loss)
        yield (f"paper, {dataset}", model, shown, PAPER), entries
