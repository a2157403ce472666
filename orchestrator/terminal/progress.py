"""What the terminal shows while a sweep runs. What there is to show is counted in `tally`."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from analysis.store.rows import EpochRow, TrialRow
from orchestrator.terminal.expected import beside_expected
from orchestrator.terminal.tally import Newest, State, Tally
from orchestrator.terminal.time_left import TimeLeft
from orchestrator.terminal.words import axes_of, counted, describe, duration
from trainers.config import TrialConfig

MARKS: Final = {
    "finished": "[green]✓[/]",
    "failed": "[red]✗ failed[/]",
    "diverged": "[yellow]✗ diverged[/]",
}
REFRESH_PER_S: Final = 2
HEARTBEAT_S: Final = 60.0


class SweepProgress:
    """A line for each trial that ends; below, on a terminal, a view of all of them.

    Where lines are all there is, as in a log, one a minute says how far the sweep is.
    """

    def __init__(
        self, tally: Tally, *, console: Console, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tally = tally
        self._console = console
        self._clock = clock
        self._started = clock()
        self._axes = axes_of(tally.trials.values())
        self._newest: tuple[TrialRow, Newest] | None = None  # finished, and not drawn yet
        self._newest_lines: list[str] = []
        self._counting = threading.Lock()  # drawing is a thread's; nothing is drawn while held
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._live: Live | None = None
        if console.is_interactive and not console.quiet:
            self._live = Live(
                console=console,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
                get_renderable=self._draw,
            )

    def __enter__(self) -> "SweepProgress":
        if self._live:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        else:
            self._over.set()
            self._thread.join()

    def started(self, trial_id: str) -> None:
        """A trial begins, or begins again."""
        with self._counting:
            self._tally.started(trial_id, self._clock())

    def stopped(self, trial_id: str) -> None:
        """A trial's worker died; it will begin again."""
        with self._counting:
            self._tally.stopped(trial_id, self._clock())

    def rows(self, trial_id: str, rows: Iterable[EpochRow]) -> None:
        """New epochs of a trial."""
        with self._counting:
            self._tally.rows(trial_id, rows, self._clock())

    def noted(self, line: str) -> None:
        """A line on a trial that the user should know of."""
        self._console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def ended(self, trial: TrialRow) -> None:
        """A trial's last row."""
        with self._counting:
            last = self._tally.ended(trial, self._clock())
            number = self._tally.number_ended
            if trial["status"] == "finished":
                self._newest = trial, last
        trial_id, total = trial["trial_id"], len(self._tally.trials)
        reason = f" ({escape(trial['reason'])})" if trial["reason"] else ""
        wall_s = trial.get("wall_s")
        wall = f" [dim]{wall_s:.0f} s[/]" if wall_s is not None else ""
        self._console.print(
            f"{MARKS[trial['status']]} [dim]{number:>{len(str(total))}}/{total}[/] {trial_id} "
            f"{escape(describe(self._tally.trials[trial_id], self._axes))}{wall}{reason}",
            highlight=False,
            soft_wrap=True,
        )

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            with self._counting:
                state = self._tally.state(self._clock())
            self._console.print(in_words(state), highlight=False, soft_wrap=True)

    def _draw(self) -> Group:
        with self._counting:
            state = self._tally.state(self._clock())
            newest, self._newest = self._newest, None
        if newest:
            config = self._tally.trials[newest[0]["trial_id"]]
            self._newest_lines = [describe(config, self._axes), beside_expected(*newest)]
        parts = [_bar(state, self._clock() - self._started), in_words(state)]
        if state.running:
            parts.append(_running(state, self._tally.trials, self._axes))
        if self._newest_lines:
            parts.append(_newest(self._newest_lines))
        return Group(*parts)


def in_words(state: State) -> str:
    """How far the sweep is, in a line."""
    parts = [f"{state.ended:,}/{state.trials:,} trials", f"{state.running} running"]
    if not state.running and state.ended < state.trials:
        parts.append("waiting for free CPUs or GPUs")
    if state.failed:
        parts.append(f"[red]{state.failed:,} failed[/]")
    if state.diverged:
        parts.append(f"[yellow]{state.diverged:,} diverged[/]")
    if state.images_per_s:
        parts.append(f"{state.images_per_s:,.0f} images/s")
    if state.left and state.ended < state.trials:
        parts.append(_left(state.left))
    return ", ".join(parts)


def _left(left: TimeLeft) -> str:
    text = f"about {duration(left.seconds)} left"
    if not left.unmeasured:
        return text
    kinds = f"{counted(left.unmeasured, 'kind')} of trials"
    return f"{text} if {kinds} not seen yet take{'s' * (left.unmeasured == 1)} as long"


def _bar(state: State, elapsed_s: float) -> Table:
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(
        ProgressBar(total=state.epochs, completed=state.epochs_done),
        f"{state.epochs_done / state.epochs:.0%} of {state.epochs:,} epochs after "
        f"{duration(elapsed_s)}",
    )
    return line


def _running(state: State, trials: Mapping[str, TrialConfig], axes: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("running", no_wrap=True, overflow="ellipsis")
    for name in ("epoch", "train_loss", "accuracy_test", "epoch_s"):
        table.add_column(name, no_wrap=True, justify="right")
    for trial_id, run in state.listed:
        config = trials[trial_id]
        table.add_row(
            escape(describe(config, axes)),
            f"{run.row.get('epoch', 0)}/{config.epochs}",
            _number(run.row.get("train_loss"), ".4g"),
            _number(run.row.get("accuracy_test"), ".2%"),
            _number(run.row.get("epoch_s"), ".3g"),
        )
    if more := state.running - len(state.listed):
        table.add_row(f"[dim]and {more:,} more[/]")
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _newest(lines: list[str]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for name, line in zip(("newest", ""), lines, strict=True):
        grid.add_row(name, escape(line))
    return grid
