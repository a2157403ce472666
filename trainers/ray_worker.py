"""The seam to Ray: a trial inside a Ray Tune actor. No other file of `trainers` imports ray."""

import io
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO, TypedDict

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from analysis.store.rows import EpochRow, TrialRow
from trainers.config import TrialConfig
from trainers.registry import load_plugins
from trainers.run.memory import collect_garbage_seldom

if TYPE_CHECKING:
    from trainers.run.probe import Probe


HERE: Final = Path(__file__).parent
REPORT_EVERY_S = 1.0  # a report waits for the driver, which has every trial to listen to
_lost_device: list[str] = []  # the trial that met a fault after which this process has no GPU
STOP = "stop"  # once an actor of this name is in Ray's directory, trials end after their epoch


class Job(TypedDict):
    """What a worker needs to run one trial. Plain values: Ray sends it to another process."""

    trial_id: str
    fields: dict[str, Any]
    results: str
    data_dir: str
    data_stamp: str  # of its files, as the driver saw them
    download: bool
    keep_checkpoints: bool
    plugins: list[str]
    plugin_path: str
    threads: int
    workers: int
    gpus: float  # of each worker


def train(params: dict[str, Any]) -> None:
    """Ray Tune's function trainable. Reports `rows`, new epochs' rows, `notes`, lines on what the
    user should know, and at the end `trial`.

    Once `ask_to_stop` was called, the end is a report of `stopped` instead.
    """
    job: Job = params["job"]
    if _lost_device:  # by the trial before this one, which was told of it
        raise RuntimeError("this process has lost its GPU; another one can do it")
    pending = _Pending()
    if _stop_is_asked():  # while it waited for a slot
        _wait_for_the_end(pending)
    if job["workers"] == 1:
        row = _run(job, lambda row: pending.add([row]), pending.notes.append)
    else:
        row = _run_group(job, pending)
    if row.get("failure") == "device" and job["workers"] == 1:
        _lost_device.append(job["trial_id"])
    if row["status"] == "running":
        _wait_for_the_end(pending)
    tune.report({**pending.take(), "trial": row})


def probe(job: Job) -> "Probe":
    """Measure a few steps of the trial in this process."""
    import torch

    from trainers.run.probe import probe as measure

    _load_plugins(job)
    torch.set_num_threads(job["threads"])
    return measure(_config(job), data_dir=Path(job["data_dir"]), download=job["download"])


def _wait_for_the_end(pending: "_Pending") -> NoReturn:
    """Say that this trial has stopped, and keep its slot until the driver ends all."""
    tune.report({**pending.take(), "stopped": True})
    while True:
        time.sleep(REPORT_EVERY_S)


def ask_to_stop() -> object:
    """Let running trials end after their epoch, and no other begin, while the result is kept.

    The actor does nothing. That it exists is seen on every node at once, whatever the disks do.
    """
    return ray.remote(_Stop).options(name=STOP, num_cpus=0).remote()


class _Stop:
    """Its name says all."""


def _stop_is_asked() -> bool:
    try:
        ray.get_actor(STOP)
    except ValueError:  # there is none
        return False
    return True


def _run(
    job: Job,
    report: Callable[[EpochRow], None],
    note: Callable[[str], None],
    ranks: Any = None,
) -> TrialRow:
    """The trial in this process, alone or as one of several ranks; what it says goes to `note`."""
    collect_garbage_seldom()
    import torch  # here, since the driver, which only names `train`, does without it

    from trainers.run.device import give_memory_back
    from trainers.run.loop import run_trial
    from trainers.run.ranks import alone

    _load_plugins(job)
    torch.set_num_threads(job["threads"])
    ranks = ranks or alone(job["gpus"])
    try:
        with _heard(note):
            return run_trial(
                _config(job),
                report,
                store=ResultStore(job["results"]),
                data_dir=Path(job["data_dir"]),
                data_stamp=job["data_stamp"],
                download=job["download"],
                keep_checkpoints=job["keep_checkpoints"],
                ranks=ranks,
                gpu_share=job["gpus"] or None,
                should_stop=_once_a_second(_stop_is_asked),
            )
    finally:
        give_memory_back(ranks.device)


@contextmanager
def _heard(note: Callable[[str], None]) -> Iterator[None]:
    """Hand on what this program prints on stderr or warns of: nobody reads a worker's own."""
    show = warnings.showwarning
    warnings.showwarning = _show_own
    try:
        with redirect_stderr(_Overheard(sys.stderr, note)):
            yield
    finally:
        warnings.showwarning = show


def _show_own(message: Warning | str, category: type[Warning], filename: str, *_: object) -> None:
    """Of warnings those of this program: those of libraries are for its authors."""
    del category
    if Path(filename).is_relative_to(HERE):
        print(f"warning: {message}", file=sys.stderr)


class _Overheard(io.TextIOBase):
    """A stream whose lines somebody else hears, too."""

    def __init__(self, stream: TextIO, note: Callable[[str], None]) -> None:
        self._stream, self._note, self._line = stream, note, ""

    def write(self, text: str, /) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(None, lines):
            self._note(line)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


def _config(job: Job) -> TrialConfig:
    """What is to be trained. Raises InputError if it is another trial here than for the driver."""
    config = TrialConfig(**job["fields"])
    if config.trial_id != job["trial_id"]:
        raise InputError(
            f"trial {job['trial_id']} is {config.trial_id} to the program or the plugins on "
            f"{socket.gethostname()}; install the same on every machine"
        )
    return config


def _once_a_second(ask: Callable[[], bool]) -> Callable[[], bool]:
    """The same question, passed on no more often than that: epochs can be short."""
    asked_at = 0.0

    def answer() -> bool:
        nonlocal asked_at
        if time.monotonic() - asked_at < 1:
            return False
        asked_at = time.monotonic()
        return ask()

    return answer


def _load_plugins(job: Job) -> None:
    if job["plugins"] and job["plugin_path"] not in sys.path:
        sys.path.insert(0, job["plugin_path"])
    load_plugins(job["plugins"])


class _Rank:
    """One process of a DDP trial, an actor in the trial's own placement group."""

    def __init__(self) -> None:
        self._rows: list[EpochRow] = []
        self._notes: list[str] = []
        self._lock = threading.Lock()

    def node(self) -> str:
        """Where it runs, as Ray names its nodes."""
        return ray.get_runtime_context().get_node_id()

    def address(self) -> str:
        """Where the others can meet this one over the network, as `tcp://host:port`."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{get_node_ip_address()}:{probe.getsockname()[1]}"

    def run(self, job: Job, rank: int, meet_at: str) -> TrialRow:
        """Train as this rank; blocks until the end of the trial."""
        from trainers.run.ranks import join, talk_through

        one_node = meet_at.startswith("file:")
        if not one_node:
            talk_through(get_node_ip_address())
        with join(
            meet_at,
            rank=rank,
            world_size=job["workers"],
            one_node=one_node,
            gpus=job["gpus"],
        ) as ranks:
            return _run(job, self._add, self._notes.append, ranks)

    def _add(self, row: EpochRow) -> None:
        with self._lock:
            self._rows.append(row)

    def take(self) -> tuple[list[EpochRow], list[str]]:
        """The epochs and notes since the last call; it is answered while `run` runs."""
        with self._lock:
            rows, self._rows = self._rows, []
        notes = [self._notes.pop(0) for _ in range(len(self._notes))]
        return rows, notes


def _run_group(job: Job, pending: "_Pending") -> TrialRow:
    """The trial in as many processes as it has workers.

    The first rank that ends badly ends the others. Raises what it died of, unless the store says
    that the trial itself failed, so that it would fail again.
    """
    group = get_current_placement_group()
    assert group is not None  # Tune gives every trial one
    actor: Any = ray.remote(_Rank)
    ranks = [
        actor.options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            max_concurrency=2,  # `run`, and `take_rows` meanwhile
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=index
            ),
        ).remote()
        for index, bundle in enumerate(group.bundle_specs)
    ]
    with tempfile.TemporaryDirectory(prefix="ranks_") as folder:
        try:
            nodes = {ray.get_runtime_context().get_node_id()}
            nodes |= set(ray.get([rank.node.remote() for rank in ranks]))
            one_node = len(nodes) == 1
            meet_at = f"file://{folder}/store" if one_node else ray.get(ranks[0].address.remote())
            ends = [rank.run.remote(job, i, meet_at) for i, rank in enumerate(ranks)]
            return _follow(ends, ranks[0], pending)
        except RayError:
            row = ResultStore(job["results"]).trial(job["trial_id"])
            if row and row["status"] in ("failed", "diverged"):
                return row
            raise
        finally:
            for rank in ranks:
                ray.kill(rank)


def _follow(ends: list, main: Any, pending: "_Pending") -> TrialRow:
    """Pass rows and notes on until the main rank has ended.

    Raises RayError as soon as any rank dies.
    """
    under_way = list(ends)
    while ends[0] in under_way:
        done, under_way = ray.wait(under_way, timeout=REPORT_EVERY_S)
        if done and ends[0] in under_way:  # lost with the main one, perhaps, which tells why
            done = ray.wait(ends[:1], timeout=REPORT_EVERY_S)[0] + done
        for end in done:
            ray.get(end)
        rows, notes = ray.get(main.take.remote())
        pending.notes += notes
        pending.add(rows)
    return ray.get(ends[0])


class _Pending:
    """Rows and notes on their way to the driver, sent together once a second."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._rows: list[EpochRow] = []
        self._sent = time.monotonic()

    def add(self, rows: list[EpochRow]) -> None:
        self._rows += rows
        if self._rows and time.monotonic() - self._sent >= REPORT_EVERY_S:
            tune.report(self.take())

    def take(self) -> dict[str, Any]:
        """What a report holds of them."""
        self._sent = time.monotonic()
        rows, self._rows = self._rows, []
        notes, self.notes[:] = [*self.notes], []
        return {"rows": rows, "notes": notes}
