"""MLflow's runs made again from the Parquet files alone."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import track

from analysis.store.command_line import Parser, outlive_listeners, run_main
from analysis.store.errors import InputError, ResultsError, one_line
from analysis.store.location import without_password
from analysis.store.results import ResultStore
from analysis.trials.load import open_results
from orchestrator.terminal.words import counted
from orchestrator.tracking.database import MENDED, fault_of, file_of, set_aside
from orchestrator.tracking.ended import ended_trials
from orchestrator.tracking.runs import Runs
from orchestrator.tracking.uris import check_uri, default_uri, how_to_open, is_own, why_without


def rebuild(store: ResultStore, uri: str, console: Console) -> int:
    """Send every trial that has ended to MLflow; how many. Raises InputError."""
    default = default_uri(store, ".")
    check_uri(uri, default=default)
    if reason := why_without(uri, default=default):
        raise InputError(reason)
    try:
        open_results(store.location)
        study_of = ended_trials(store)
    except (ResultsError, OSError) as error:
        raise InputError(str(error)) from error
    path = file_of(uri)
    if path and is_own(uri, default) and (fault := fault_of(path, thoroughly=True)) in MENDED:
        print(set_aside(path, fault), file=sys.stderr)
    from mlflow.exceptions import MlflowException

    try:
        runs = Runs(uri)
        for trial_id in track(list(study_of), "trials", console=console, transient=True):
            (trial,) = store.read_rows("trials", trial_id)
            runs.close(study_of[trial_id], trial, store.read_rows("epochs", trial_id))
    except (MlflowException, ImportError) as error:  # a database's driver may not be installed
        text = without_password(one_line(error))
        reason = "it doesn't answer" if "Max retries exceeded" in text else text
        raise InputError(f"MLflow at {without_password(uri)}: {reason}; try again") from error
    return len(study_of)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = Parser(prog="python -m orchestrator.tracking", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("command", choices=("rebuild",))
    parser.add_argument("--results", default="results", metavar="PATH_OR_URI")
    parser.add_argument("--tracking-uri", metavar="URI", help="default: mlflow.db in the results")
    args = parser.parse_args(argv)
    try:
        store = ResultStore(args.results)
        uri = args.tracking_uri or default_uri(store, ".")
        count = rebuild(store, uri, Console(stderr=True))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{counted(count, 'trial')} in MLflow; to see them: {how_to_open(uri)}")
    return 0


def entry() -> NoReturn:
    """The console command."""
    outlive_listeners()
    raise SystemExit(run_main(main))


if __name__ == "__main__":
    entry()
