"""What the terminal shows while a sweep runs."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from trainers.config import TrialConfig

MARKS: Final = {
    "finished": "[green]✓[/]",
    "failed": "[red]✗ failed[/]",
    "diverged": "[yellow]✗ diverged[/]",
}
SPEED_WINDOW_S: Final = 30.0


class SweepProgress:
    """A bar over all epochs of a sweep, and a line for each trial that ends."""

    def __init__(self, trials: Mapping[str, TrialConfig], *, console: Console) -> None:
        self._trials = trials
        self._console = console
        self._epochs = dict.fromkeys(trials, 0)
        self._ended: dict[str, str] = {}
        self._images: list[tuple[float, float]] = []  # when, how many
        self._started = time.monotonic()
        self._bar = Progress(
            BarColumn(bar_width=30),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            disable=not console.is_terminal or console.quiet,
            transient=True,
        )
        total = sum(config.epochs for config in trials.values())
        self._task: TaskID = self._bar.add_task(self._text(), total=total, eta="")

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def rows(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """New epochs of a trial."""
        for row in rows:
            self._epochs[trial_id] = max(self._epochs[trial_id], row["epoch"])
            self._images.append((time.monotonic(), row["samples_per_s"] * row["train_s"]))
        self._refresh()

    def ended(self, trial: Mapping[str, Any]) -> None:
        """A trial's last row."""
        trial_id, status = trial["trial_id"], trial["status"]
        self._ended[trial_id] = status
        config = self._trials[trial_id]
        self._epochs[trial_id] = config.epochs
        reason = f" ({escape(trial['reason'])})" if trial["reason"] else ""
        wall = f" [dim]{trial['wall_s']:.0f} s[/]" if trial.get("wall_s") is not None else ""
        self._console.print(
            f"{MARKS[status]} [dim]{len(self._ended):>{len(str(len(self._trials)))}}"
            f"/{len(self._trials)}[/] {trial_id} {describe(config)}"
            f"{wall}{reason}",
            highlight=False,
            soft_wrap=True,
        )
        self._refresh()

    def _refresh(self) -> None:
        done = sum(self._epochs.values())
        self._bar.update(self._task, completed=done, description=self._text(), eta=self._eta(done))

    def _text(self) -> str:
        started = sum(epoch > 0 for epoch in self._epochs.values())
        parts = [
            f"{len(self._ended)}/{len(self._trials)} trials",
            f"{started - len(self._ended)} running",
        ]
        if bad := sum(status != "finished" for status in self._ended.values()):
            parts.append(f"[red]{bad} failed[/]")
        if speed := self._images_per_s():
            parts.append(f"{speed:,.0f} images/s")
        return ", ".join(parts)

    def _images_per_s(self) -> float:
        now = time.monotonic()
        self._images = [(at, n) for at, n in self._images if now - at <= SPEED_WINDOW_S]
        span = min(SPEED_WINDOW_S, now - self._started)
        return sum(n for _, n in self._images) / span if span > 1 else 0.0

    def _eta(self, done: int) -> str:
        total = sum(config.epochs for config in self._trials.values())
        elapsed_s = time.monotonic() - self._started
        if not done or elapsed_s < 5:
            return ""
        left_s = elapsed_s / done * (total - done)
        return f"about {duration(left_s)} left"


def describe(config: TrialConfig) -> str:
    """A trial in a few words: what a person tells trials apart by."""
    parts = [config.dataset, config.model, config.loss, config.optimizer]
    if config.augment != "none":
        parts.append(config.augment)
    if config.lambda_b is not None and (config.lambda_b != 5e-4 or config.bias_init_mean):
        parts.append(f"λ_b={config.lambda_b:g} bias_init_mean={config.bias_init_mean:g}")
    return " ".join((*parts, f"seed={config.seed}"))


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `12 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
