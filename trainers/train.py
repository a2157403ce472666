"""Entry point: one trial, without Ray, in one process or as many as torchrun starts."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from analysis.store.command_line import Parser, a_folder, outlive_listeners, run_main
from analysis.store.errors import InputError, one_line
from analysis.store.results import ResultStore
from analysis.store.rows import EpochRow, TrialRow
from trainers.config import TrialConfig
from trainers.machine import usable_cpus

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m trainers.train", description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="JSON", help="the fields of a trial")
    add("--results", default="results", metavar="PATH_OR_URI", help="default: results")
    add("--data-dir", type=a_folder, default=Path("data"), metavar="PATH", help="default: data")
    add("--download", action=argparse.BooleanOptionalAction, default=True)
    add("--keep-checkpoints", action="store_true")
    return parser.parse_args(argv)


def read_config(path: Path) -> TrialConfig:
    """A trial's fields from a JSON file. Raises InputError."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_each_once)
    except (OSError, ValueError, RecursionError) as error:  # the last from a thousand brackets
        raise InputError(f"--config {path} can't be read: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"--config {path} must hold an object of fields, not {fields!r}")
    return TrialConfig.parse(fields, where=str(path))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} is given twice")
    return fields


def show(row: EpochRow) -> None:
    """One line an epoch."""
    names = ("train_loss", "accuracy_train", "accuracy_test", "uniform_accuracy_test", "nc1_train")
    values = (f"{name} {row[name]:.4g}" for name in names if row.get(name) is not None)
    print(f"epoch {row['epoch']:>4}", *values, f"{row['epoch_s']:.2f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    args = parse_args(argv)
    is_main = os.environ.get("RANK", "0") == "0"  # the one of torchrun's processes that speaks
    try:
        row = train(args, is_main)
    except InputError as error:
        if is_main:
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:  # the machine's fault, and not the trial's
        print(f"{one_line(error)}; the same command continues from the last epoch", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last epoch", file=sys.stderr)
        return INTERRUPTED
    if is_main:
        print(f"{row['status']} after {row.get('wall_s') or 0.0:.1f} s", row["reason"] or "")
    return OK if row["status"] == "finished" else FAILED


def train(args: argparse.Namespace, is_main: bool) -> TrialRow:
    """Run the trial, in this process or as one of torchrun's; its row. Raises InputError."""
    config, store = read_config(args.config), ResultStore(args.results)
    store.check_writable()
    import torch

    from trainers.run.check import check_trials, check_workers
    from trainers.run.loop import run_trial
    from trainers.run.ranks import (  # after the checks: torch takes seconds to import
        from_environment,
        world_size,
    )

    # PyTorch knows of an affinity, but of no quota, beyond which threads wait for each other.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))
    check_workers(config, world_size())
    notes = check_trials([config], data_dir=args.data_dir, download=args.download)
    if is_main:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"{config.trial_id} {config.canonical()}", flush=True)
    with from_environment() as ranks:
        return run_trial(
            config,
            show,
            store=store,
            data_dir=args.data_dir,
            download=args.download,
            keep_checkpoints=args.keep_checkpoints,
            ranks=ranks,
        )


def entry() -> NoReturn:
    """The console command."""
    outlive_listeners()
    raise SystemExit(run_main(main))


if __name__ == "__main__":
    entry()
