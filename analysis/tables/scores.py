"""Table 1: positive and negative scores, biases, alpha(b) and accuracy of the training set."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.paper import published
from analysis.tables.entries import (
    BLANK,
    OURS,
    PAPER,
    PAPER_AND_DIFFERENCE,
    Entry,
    Line,
    Quantity,
    any_number,
    assemble,
    measured,
    published_entry,
)
from analysis.tables.names import (
    comparison_notes,
    loss_name,
    optimizer_name,
    reference_models,
    reference_note,
)
from analysis.tables.paper_table import PaperTable
from analysis.tables.render import Table
from analysis.trials.cells import Block, Cell, blocks, in_order

_CELL_FIELDS = ("optimizer", "loss")
Column = tuple[str, str]  # optimizer, loss


def score_table(table: PaperTable, trials: pd.DataFrame, *, compare: bool) -> Table:
    """Table 1 of `cells.collapse_trials`; dashes where a cell lacks trials."""
    parts = list(blocks(trials, _CELL_FIELDS))
    optimizers = in_order(trials["optimizer"], published.OPTIMIZERS)
    losses = in_order(trials["loss"], published.LOSSES)
    columns = [(optimizer, loss) for optimizer in optimizers for loss in losses]
    lines = [line for block in parts for line in _block_lines(table, block, columns, compare)]
    notes = [
        "[σ x]: standard deviation over a trial's samples (for b̂ over its K biases), "
        "mean over seeds; it is the ± of the paper's Table 1",
        "A: accuracy in percent; α(b̂): right side of Eq. (12) at the mean bias, BCE only",
    ]
    if compare:
        compared = [block for block in parts if _is_papers(block)]
        others = [block for block in parts if not _is_papers(block)]
        models = reference_models(1, others, compared)
        lines += [line for model in models for line in _reference_lines(table, model, columns)]
        notes += comparison_notes(compared)
        notes += [reference_note(1, others)] if models else []
    heads = [f"{optimizer_name(o)} {loss_name(loss)}" for o, loss in columns]
    labels = ("Dataset", "Model", "Quantity", *(["Source"] if compare else []))
    return assemble(table.file_name, table.title, (*labels, *heads), lines, notes)


def _block_lines(
    table: PaperTable, block: Block, columns: Sequence[Column], compare: bool
) -> Iterator[Line]:
    cells = {column: block.cell(optimizer=column[0], loss=column[1]) for column in columns}
    for quantity in table.quantities:
        ours = [_entry(block, column, cell, quantity) for column, cell in cells.items()]
        labels = (block.dataset, block.label, quantity.symbol)
        yield (*labels, OURS) if compare else labels, ours
        if compare and _is_papers(block):
            pairs = zip(columns, ours, strict=True)
            papers = [_published(block.dataset, block.model, c, quantity, o) for c, o in pairs]
            if any_number(papers):
                yield (*labels, PAPER_AND_DIFFERENCE), papers


def _entry(block: Block, column: Column, cell: Cell, quantity: Quantity) -> Entry:
    optimizer, loss = column
    if quantity.name == "alpha_bias" and loss != "bce":
        return BLANK  # Eq. (12) is BCE's alone
    identity = {
        "table": 1,
        "dataset": block.dataset,
        "model": block.label,
        "optimizer": optimizer,
        "augment": "none",
        "loss": loss,
    }
    where = f"{block.dataset} {block.label} {optimizer} {loss}"
    return measured(cell, quantity, identity, where)


def _is_papers(block: Block) -> bool:
    """Whether the paper has this very row: its network, dataset and lambdas."""
    lambdas = block.trials[["lambda_w", "lambda_h", "lambda_b"]]
    same = all(math.isclose(value, published.LAMBDA) for value in lambdas.to_numpy().ravel())
    return same and not block.model_kwargs and published.has(1, block.dataset, block.model)


def _published(
    dataset: str, model: str, column: Column, quantity: Quantity, ours: Entry | None = None
) -> Entry:
    optimizer, loss = column
    key = published.Key(dataset, model, optimizer, "none", loss, quantity.name)
    identity = {"table": 1, **key._asdict()}
    return published_entry(published.numbers(1).get(key), quantity, identity, ours=ours)


def _reference_lines(table: PaperTable, model: str, columns: Sequence[Column]) -> Iterator[Line]:
    dataset = published.REFERENCE_DATASET
    for quantity in table.quantities:
        entries = [_published(dataset, model, column, quantity) for column in columns]
        yield (f"paper, {dataset}", model, quantity.symbol, PAPER), entries
