"""What the terminal shows while a sweep runs."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.eta import Meter
from orchestrator.ledger import Cost, Kind
from trainers.config import TrialConfig

MARKS: Final = {
    "finished": "[green]✓[/]",
    "failed": "[red]✗ failed[/]",
    "diverged": "[yellow]✗ diverged[/]",
}
SHOWN: Final = 8  # running trials
HEARTBEAT_S: Final = 60.0  # a line in a log at least so often, while anything happens


class SweepProgress:
    """A line for each trial that ends; below, on a terminal, all of the sweep and what runs.

    Where there is no terminal, a line once a minute says how far it is.
    """

    def __init__(
        self,
        trials: Mapping[str, TrialConfig],
        *,
        console: Console,
        costs: Mapping[Kind, Cost] | None = None,
    ) -> None:
        """`costs` of kinds that ran before let the first estimate be a good one."""
        self._trials = trials
        self._console = console
        self._meter = Meter(trials, costs or {}, now=time.monotonic())
        self._said = time.monotonic()
        self._live = Live(
            get_renderable=self._view, console=console, refresh_per_second=2, transient=True
        )
        self._is_live = console.is_terminal and not console.quiet

    def __enter__(self) -> "SweepProgress":
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def rows(self, trial_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """New epochs of a trial."""
        self._meter.rows(trial_id, rows, now=time.monotonic())
        if not self._is_live and time.monotonic() - self._said >= HEARTBEAT_S:
            self._said = time.monotonic()
            self._console.print(self._counts(), highlight=False, soft_wrap=True)

    def ended(self, trial: Mapping[str, Any]) -> None:
        """A trial's last row."""
        trial_id, status = trial["trial_id"], trial["status"]
        self._meter.end(trial_id, status)
        count, total = len(self._meter.ended), len(self._trials)
        reason = f" ({escape(trial['reason'])})" if trial["reason"] else ""
        wall = f" [dim]{trial['wall_s']:.0f} s[/]" if trial.get("wall_s") is not None else ""
        self._console.print(
            f"{MARKS[status]} [dim]{count:>{len(str(total))}}/{total}[/] {trial_id} "
            f"{describe(self._trials[trial_id])}{wall}{reason}",
            highlight=False,
            soft_wrap=True,
        )

    def _counts(self) -> str:
        meter = self._meter
        parts = [f"{len(meter.ended)}/{len(self._trials)} trials", f"{len(meter.running)} running"]
        if meter.failed:
            parts.append(f"[red]{meter.failed} failed[/]")
        if speed := meter.images_per_s(time.monotonic()):
            parts.append(f"{speed:,.0f} images/s")
        left_s = meter.seconds_left()
        if left_s is not None:
            parts.append(f"about {duration(left_s)} left")
        return ", ".join(parts)

    def _view(self) -> Group:
        """The bar over all epochs, and the trials that run."""
        meter = self._meter
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=meter.total_epochs, completed=meter.done_epochs, width=24)
        head.add_row(bar, Text.from_markup(self._counts()))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("running", no_wrap=True)
        for name in ("epoch", "train loss", "test acc.", "s/epoch"):
            table.add_column(name, no_wrap=True, justify="right", min_width=9)
        running = list(meter.running.items())
        for trial_id, row in running[:SHOWN]:
            config, accuracy = self._trials[trial_id], row.get("accuracy_test")
            table.add_row(
                describe(config),
                f"{row['epoch']}/{config.epochs}",
                f"{row['train_loss']:.4g}",
                "" if accuracy is None else f"{accuracy:.2%}",
                f"{row['epoch_s']:.3g}",
            )
        more = [Text(f"and {len(running) - SHOWN} more")] if len(running) > SHOWN else []
        return Group(head, table, *more) if running else Group(head)


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
