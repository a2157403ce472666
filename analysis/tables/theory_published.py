"""The paper's own Table 1 beside the minimum of Eq. (3) and Theorem 2's point. Needs no results."""

from collections.abc import Iterator

from analysis.paper import published
from analysis.tables.entries import PAPER, Entry, Line, Quantity, assemble, published_entry
from analysis.tables.names import loss_name, optimizer_name
from analysis.tables.render import Table
from analysis.tables.theory import Setting
from analysis.theory.minima import Minimum
from analysis.trials.stats import format_number

TITLE = "Theory. The published Table 1 beside the minimum of Eq. (3) and the point of Theorem 2"
QUANTITIES = (
    Quantity("s_pos", "s_pos", "s_pos_mean_train", 2),
    Quantity("s_neg", "s_neg", "s_neg_mean_train", 2),
    Quantity("bias", "b̂", "bias_mean", 2),
)
_K, _BATCH, _FEATURES = 10, 128, 512  # CIFAR10, the paper's batch, ResNet18's features
_NOTES = (
    "paper: [σ x] over the samples of its one run; minimum, Theorem 2: at K=10, n=128/10 and all "
    "λ=5e-4, for d ≥ K; CE's bias is there 0",
    "where λ_b b > √(n λ_W λ_H), as here, Theorem 2's point is not the minimum: docs/theory.md",
)


def published_theory() -> Table:
    """Each optimizer and network of the paper's Table 1, per loss, and below them the theory."""
    lines = [line for loss in published.LOSSES for line in _lines(loss)]
    columns = ("Loss", "Source", "Model", "Optimizer", *(q.symbol for q in QUANTITIES))
    return assemble("theory_published", TITLE, columns, lines, _NOTES)


def _lines(loss: str) -> Iterator[Line]:
    numbers = published.numbers(1)
    runs = dict.fromkeys((key.model, key.optimizer) for key in numbers)
    for model, optimizer in runs:
        entries = []
        for quantity in QUANTITIES:
            key = published.Key(
                published.REFERENCE_DATASET, model, optimizer, "none", loss, quantity.name
            )
            identity = {"table": "theory_published", **key._asdict()}
            entries.append(published_entry(numbers.get(key), quantity, identity))
        yield (loss_name(loss), PAPER, model, optimizer_name(optimizer)), entries
    lambdas = (published.LAMBDA, published.LAMBDA, published.LAMBDA)
    setting = Setting(loss, _K, _BATCH / _K, *lambdas, d=_FEATURES)
    yield (loss_name(loss), "minimum", "", ""), _predicted(setting.minimum())
    theorem2 = setting.theorem2_point()
    if theorem2:
        yield (loss_name(loss), "Theorem 2", "", ""), _predicted(theorem2)


def _predicted(point: Minimum) -> list[Entry]:
    return [Entry(format_number(getattr(point, q.name), q.decimals)) for q in QUANTITIES]
