"""How the terminal counts and names things."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.plan.slots import Node
from trainers.config import DEFAULT_LAMBDA, TrialConfig


def counted(number: int, thing: str) -> str:
    """A number of things: `1 kind`, `2 kinds`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def nodes_in_words(nodes: Sequence[Node]) -> str:
    """What there is in all, as `2 nodes with 16 CPU, 8 GPU`."""
    totals = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    there = ", ".join(f"{total:g} {name}" for name, total in totals.items() if total)
    return f"{counted(len(nodes), 'node')} with {there or 'no CPU'}"


def describe(config: TrialConfig, axes: Iterable[str] = ()) -> str:
    """A trial in a few words: what a person tells trials apart by, `axes` among it."""
    parts = [config.dataset, config.model, config.loss, config.optimizer]
    if config.augment != "none":
        parts.append(config.augment)
    if config.lambda_b is not None and (config.lambda_b != DEFAULT_LAMBDA or config.bias_init_mean):
        parts.append(f"λ_b={config.lambda_b:g} bias_init_mean={config.bias_init_mean:g}")
    parts += [f"{name}={getattr(config, name)}" for name in axes]
    return " ".join((*parts, f"seed={config.seed}"))


def axes_of(trials: Iterable[TrialConfig]) -> tuple[str, ...]:
    """The fields that tell trials apart which `describe` would give the same words."""
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for config in trials:
        alike[describe(config)].append(vars(config))
    return tuple(
        name
        for name in TrialConfig.model_fields
        if any(fields[name] != group[0][name] for group in alike.values() for fields in group)
    )
