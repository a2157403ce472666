"""The sweep's command line."""

import argparse
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from analysis.store.command_line import Parser

AUTO: Final = "auto"  # workers or GPUs: whatever fits best
EXAMPLES = """examples:
  python orchestrator/sweep.py                          the digits study, into results/
  python orchestrator/sweep.py --study ufm --dry-run    what would run, and for how long
  python orchestrator/sweep.py --study neural_collapse --seeds 0 1 2 --data-dir /data
  python orchestrator/sweep.py --set epochs=5 --set 'loss=[ce, bce]' --limit 4
  python orchestrator/sweep.py --study my_study.yaml --results s3://bucket/run1
"""


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


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, as `docs` and `--help` have it."""
    parser = Parser(
        prog="sweep.py",
        description="Run every trial of a study that is not done yet, then print the tables.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", action="append", metavar="NAME_OR_YAML", help="repeatable; default: digits")
    add("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="set a field in all grids; a list makes an axis; repeatable")  # fmt: skip
    add("--seeds", type=int, nargs="+", help="the seeds to run, instead of the study's")
    add("--epochs", type=int, help="epochs of every trial, instead of the study's")
    add("--limit", type=int, metavar="N", help="only the first N trials of the plan")
    add("--results", default="results", metavar="PATH_OR_URI", help="default: results")
    add("--data-dir", type=Path, default=Path("data"), metavar="PATH", help="default: data")
    add("--download", action=argparse.BooleanOptionalAction, default=True,
        help="fetch a dataset that is not in --data-dir (default: yes)")  # fmt: skip
    add("--dry-run", action="store_true", help="show the plan and touch nothing")
    add("--probe", action="store_true",
        help="run a few steps of each kind that never ran: for --dry-run's estimate, and the time "
        "left")  # fmt: skip
    add("--rerun", choices=("failed", "diverged", "all"), help="run these again too")
    add("--max-concurrent", type=int, metavar="N", help="trials at once; default: what fits")
    add("--workers", type=_whole_or_auto, metavar="N",
        help="processes that share a trial, by DDP; auto: as many as leave nothing idle; "
        "default: 1")  # fmt: skip
    add("--cpus-per-worker", type=float, metavar="N", help="default: 1")
    add("--gpus-per-worker", type=_number_or_auto, metavar="N",
        help="a fraction lets trials share a GPU, auto measures which; default: 1 where there "
        "are any")  # fmt: skip
    add("--address", help="Ray cluster; default: the running one, else one started here")
    add("--retries", type=int, default=3, metavar="N",
        help="tries again after its worker died, anew with every epoch; default: 3")  # fmt: skip
    add("--keep-checkpoints", action="store_true", help="also of finished trials")
    add("--tracking-uri", metavar="URI", help="MLflow; default: mlflow.db in the results")
    add("--no-mlflow", action="store_true", help="do without MLflow")
    add("--quiet", action="store_true", help="print the summary alone")
    add("--version", action="version", version=f"%(prog)s {version('collapse-grid')}")
    args = parser.parse_args(argv)
    args.study = args.study or ["digits"]
    return args
