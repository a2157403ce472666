"""In which order trials start, by what they cost."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.plan.ledger import Kind, Ledger, kind_of
from trainers.config import TrialConfig


def by_kind(trials: Mapping[str, TrialConfig], ids: Iterable[str]) -> dict[Kind, list[str]]:
    """The ids of each kind of trial, in order."""
    kinds: dict[Kind, list[str]] = defaultdict(list)
    for i in ids:
        kinds[kind_of(trials[i].row())].append(i)
    return dict(kinds)


def running_order(
    kinds: Mapping[Kind, Sequence[str]], trials: Mapping[str, TrialConfig], ledger: Ledger
) -> list[str]:
    """A trial of each kind first, so that mistakes and costs show at once; then the longest first.

    That leaves short ones to fill the gaps at the end. A kind that was never measured counts as
    long an epoch as the longest that was; equals keep their order.
    """
    unknown = max((cost.seconds_per_epoch for cost in ledger.costs.values()), default=1.0)
    seconds: dict[str, float] = {}
    for kind, ids in kinds.items():
        cost = ledger.costs.get(kind)
        per_epoch = cost.seconds_per_epoch if cost else unknown
        seconds |= {i: per_epoch * trials[i].epochs for i in ids}
    scouts = {ids[0] for ids in kinds.values()}
    return sorted(seconds, key=lambda i: (i not in scouts, -seconds[i]))
