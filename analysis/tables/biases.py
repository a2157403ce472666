"""Tables S-8 and S-9: where scores and biases end, by initial bias and by bias decay.

The numbers behind Fig. 3. The paper's supplementary has them; its layout and values are not in the
main text, so the minimum of Eq. (3) stands beside ours instead (assumed layout).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from analysis.paper import published
from analysis.tables.entries import (
    BLANK,
    OURS,
    Entry,
    Line,
    Quantity,
    assemble,
    measured,
    without_shared,
)
from analysis.tables.names import loss_name, optimizer_name
from analysis.tables.paper_table import PaperTable
from analysis.tables.render import Table
from analysis.theory.setting import setting_of
from analysis.trials.bias_families import (
    BIAS_INIT,
    CELL_FIELDS,
    Family,
    axis_text,
    families,
)
from analysis.trials.cells import Block, Cell, blocks, in_order, network_trials, theory_trials
from analysis.trials.stats import format_number

MINIMUM = "minimum"
_SETTING = 4  # labels of what was trained; often the same in all rows
_PREDICTED = ("bias", "s_pos", "s_neg")


def bias_table(table: PaperTable, trials: pd.DataFrame, *, varying: str, compare: bool) -> Table:
    """Table S-8 or S-9 of `family_trials`; dashes where a cell lacks trials."""
    found = list(_families(trials, varying))
    places = sorted({place for _, family in found for place in family.places})
    places = places if varying == BIAS_INIT else places[::-1]
    lines = [
        line for block, family in found for line in _lines(table, block, family, places, compare)
    ]
    notes = ["[σ x]: standard deviation over a trial's samples (for b̂ over its K biases)"]
    if compare:
        notes += [
            "minimum: of Eq. (3) for balanced classes; CE's bias is at any value where λ_b = 0",
            "the paper has these tables in its supplementary; their layout here is our own",
        ]
    symbol = "b₀" if varying == BIAS_INIT else "λ_b"
    labels = ("Dataset", "Model", "Fixed", "Optimizer", "Loss", "Quantity")
    labels = (*labels, "Source") if compare else labels
    labels, lines, alike = without_shared(labels, lines, _SETTING)
    heads = [f"{symbol}={axis_text(place)}" for place in places]
    return assemble(table.file_name, table.title, (*labels, *heads), lines, [*alike, *notes])


def family_trials(trials: pd.DataFrame, *, varying: str) -> pd.DataFrame:
    """Those of networks that theory is about in which `varying` varies, and it alone."""
    families = _families(network_trials(theory_trials(trials)), varying)
    parts = [family.trials for _, family in families]
    return pd.concat(parts) if parts else trials.iloc[:0]


def _families(trials: pd.DataFrame, varying: str) -> Iterator[tuple[Block, Family]]:
    for block in blocks(trials, CELL_FIELDS):
        for family in families(block):
            if family.varying == varying:
                yield replace(block, trials=family.trials), family


def _lines(
    table: PaperTable, block: Block, family: Family, places: Sequence[float], compare: bool
) -> Iterator[Line]:
    fixed = f"{'λ_b' if family.varies_bias else 'b₀'}={axis_text(family.fixed)}"
    for optimizer in in_order(block.trials["optimizer"], published.OPTIMIZERS):
        for loss in in_order(block.trials["loss"], published.LOSSES):
            cells = [
                block.cell(optimizer=optimizer, loss=loss, **{family.varying: place})
                for place in places
            ]
            if not any(cell.planned for cell in cells):
                continue
            identity = {
                "table": table.name,
                "dataset": block.dataset,
                "model": block.label,
                "optimizer": optimizer,
                "loss": loss,
            }
            labels = (
                block.dataset, block.label, fixed, optimizer_name(optimizer), loss_name(loss)
            )  # fmt: skip
            for quantity in table.quantities:
                ours = [
                    measured(
                        cell,
                        quantity,
                        {**identity, family.varying: place},
                        f"{block.dataset} {block.label} {optimizer} {loss} "
                        f"{family.varying}={axis_text(place)}",
                    )
                    for place, cell in zip(places, cells, strict=True)
                ]
                yield (*labels, quantity.symbol, *([OURS] if compare else [])), ours
                if compare and quantity.name in _PREDICTED:
                    yield (
                        (*labels, quantity.symbol, MINIMUM),
                        [_minimum(c, quantity) for c in cells],
                    )


def _minimum(cell: Cell, quantity: Quantity) -> Entry:
    if not cell.planned:
        return BLANK
    value = getattr(setting_of(cell.trials.iloc[0]).minimum(), quantity.name)
    return BLANK if math.isnan(value) else Entry(format_number(value, quantity.decimals))
