"""What a sweep is asked for: its options, checked when built, and the command line that gives them.

A function takes the part that it needs: `What` to run, `Where` from and to, with which `Resources`,
and what to `Show` of it. From Python each is built by itself; all that is left out has the command
line's default. What of the plan is done, and what it takes, is `orchestrator.plan`'s to find out.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

from analysis.store.command_line import Parser, a_folder
from analysis.store.errors import InputError

AUTO: Final = "auto"  # workers or GPUs: whatever fits best
Rerun = Literal["failed", "diverged", "all"]
RESOLUTION: Final = 1e-4  # of a CPU or GPU: Ray counts no finer
LEAST_AMOUNTS: Final = {"workers": 1, "cpus_per_worker": 0.01, "gpus_per_worker": 0}
EXAMPLES = """examples:
  python orchestrator/sweep.py                          the digits study, into results/
  python orchestrator/sweep.py --study ufm --dry-run    what would run, and for how long
  python orchestrator/sweep.py --study neural_collapse --seeds 0 1 2 --data-dir /data
  python orchestrator/sweep.py --set epochs=5 --set 'loss=[ce, bce]' --limit 4
  python orchestrator/sweep.py --study my_study.yaml --results s3://bucket/run1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class What:
    """Which trials are to run. Raises InputError for a number out of range."""

    studies: tuple[str, ...] = ("digits",)  # names of shipped ones, and paths of YAML files
    settings: tuple[str, ...] = ()  # fields to set in all grids, each as `key=value` in YAML
    seeds: tuple[int, ...] | None = None  # instead of the study's
    epochs: int | None = None  # instead of the study's
    limit: int | None = None  # only so many trials, the first of the plan
    rerun: Rerun | None = None  # trials that ended so run again

    def __post_init__(self) -> None:
        _check_least("limit", self.limit, 1)
        _check_least("epochs", self.epochs, 1)
        if self.seeds is not None and len({*self.seeds}) < len(self.seeds):
            raise InputError("--seeds has a seed twice; give each once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where trials read from and write to, and what they leave there."""

    results: str = "results"  # a folder or a URI
    data_dir: Path = Path("data")
    download: bool = True  # a dataset that is not in `data_dir`
    keep_checkpoints: bool = False  # also of finished trials
    mlflow: bool = True  # also write there
    tracking_uri: str | None = None  # MLflow's; None: a file beside the results


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What trials take, and of which cluster. Raises InputError for a number out of range.

    What is None is as the study says, else 1; GPUs only where there are any.
    """

    workers: int | Literal["auto"] | None = None  # processes that share a trial
    cpus_per_worker: float | None = None
    gpus_per_worker: float | Literal["auto"] | None = None
    max_concurrent: int | None = None  # trials at once; None: what fits
    retries: int = 3  # after a trial's worker died, anew with every epoch
    address: str | None = None  # Ray's; None: the running cluster, else one started here

    def __post_init__(self) -> None:
        _check_least("max_concurrent", self.max_concurrent, 1)
        _check_least("retries", self.retries, 0)
        check_amounts(self.of_a_trial(), where="the command line")

    def of_a_trial(self) -> dict[str, Any]:
        """What is given of workers, CPUs and GPUs, by the names of a study's `resources`."""
        asked = {
            "workers": self.workers,
            "cpus_per_worker": self.cpus_per_worker,
            "gpus_per_worker": self.gpus_per_worker,
        }
        return {key: value for key, value in asked.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What a sweep tells before it runs, and while it does."""

    dry_run: bool = False  # the plan alone, and nothing is touched
    probe: bool = False  # a few steps of each kind of trial that never ran
    quiet: bool = False  # the summary alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All that a sweep is asked for."""

    what: What = field(default_factory=What)
    where: Where = field(default_factory=Where)
    resources: Resources = field(default_factory=Resources)
    show: Show = field(default_factory=Show)
    argv: tuple[str, ...] = ()  # the words that say so, for the command that continues


Part = TypeVar("Part", What, Where, Resources, Show)


def check_amounts(amounts: Mapping[str, Any], *, where: str) -> None:
    """Raises InputError for an amount of LEAST_AMOUNTS that no trial can ask for, naming `where`.

    A study's `resources` asks for them too.
    """
    for key, value in amounts.items():
        if value == AUTO and key != "cpus_per_worker":
            continue
        whole = key == "workers"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise InputError(f"{where}: {key}={value!r} must be {kind}")
        asked, least = f"{where}: {key}={value:g}", LEAST_AMOUNTS[key]
        if not least <= value < math.inf:
            raise InputError(f"{asked} must be at least {least:g}, and finite")
        if key == "gpus_per_worker" and (0 < value < RESOLUTION or value > 1):
            raise InputError(
                f"{asked} must be 0, a part of one GPU from {RESOLUTION:g}, or 1: a worker trains "
                "on one GPU, and more workers on more"
            )


def _check_least(name: str, value: int | None, least: int) -> None:
    if value is not None and not value >= least:
        raise InputError(f"--{name.replace('_', '-')} {value:g} must be at least {least:g}")


def parse_options(argv: Sequence[str]) -> Options:
    """The options that these words of a command line give.

    Raises InputError for a number out of range, SystemExit for words that are no options.
    """
    given = vars(_parser().parse_args(argv))  # what isn't given isn't in it
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
    return Options(
        what=_part(What, given),
        where=_part(Where, given),
        resources=_part(Resources, given),
        show=_part(Show, given),
        argv=tuple(argv),
    )


def _part(part: type[Part], given: Mapping[str, Any]) -> Part:
    return part(**{each.name: given[each.name] for each in fields(part) if each.name in given})


def _number_or_auto(text: str) -> float | str:
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO}") from None


def _whole_or_auto(text: str) -> int | str:
    try:
        return text if text == AUTO else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {AUTO}") from None


def _parser() -> Parser:
    """The command line, as `docs` and `--help` have it; each option is named as its field."""
    parser = Parser(
        prog="sweep.py",
        description="Run every trial of a study that is not done yet, then print the tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are the fields' own
    )
    add = parser.add_argument
    add("--study", action="append", metavar="NAME_OR_YAML", dest="studies",
        help="repeatable; default: digits")  # fmt: skip
    add("--set", action="append", metavar="KEY=VALUE", dest="settings",
        help="set a field in all grids; a list makes an axis; repeatable")  # fmt: skip
    add("--seeds", type=int, nargs="+", help="the seeds to run, instead of the study's")
    add("--epochs", type=int, help="epochs of every trial, instead of the study's")
    add("--limit", type=int, metavar="N", help="only the first N trials of the plan")
    add("--results", metavar="PATH_OR_URI", help="default: results")
    add("--data-dir", type=a_folder, metavar="PATH", help="default: data")
    add("--download", action=argparse.BooleanOptionalAction,
        help="fetch a dataset that is not in --data-dir (default: yes)")  # fmt: skip
    add("--dry-run", action="store_true", help="show the plan and touch nothing")
    add("--probe", action="store_true",
        help="run a few steps of each kind that never ran: for --dry-run's estimate, and the time "
        "left")  # fmt: skip
    add("--rerun", choices=get_args(Rerun), help="run these again too")
    add("--max-concurrent", type=int, metavar="N", help="trials at once; default: what fits")
    add("--workers", type=_whole_or_auto, metavar="N",
        help="processes that share a trial, by DDP; auto: as many as leave nothing idle; "
        "default: 1")  # fmt: skip
    add("--cpus-per-worker", type=float, metavar="N", help="default: 1")
    add("--gpus-per-worker", type=_number_or_auto, metavar="N",
        help="a fraction lets trials share a GPU, auto measures which; default: 1 where there "
        "are any")  # fmt: skip
    add("--address", help="Ray cluster; default: the running one, else one started here")
    add("--retries", type=int, metavar="N",
        help="tries again after its worker died, anew with every epoch; default: 3")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="also of finished trials")
    add("--tracking-uri", metavar="URI", help="MLflow; default: mlflow.db in the results")
    add("--no-mlflow", action="store_false", dest="mlflow", help="do without MLflow")
    add("--quiet", action="store_true", help="print the summary alone")
    add("--version", action="version", version=f"%(prog)s {version('collapse-grid')}")
    return parser
