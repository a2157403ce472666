"""MLflow's runs made again from the Parquet files alone."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import track

from analysis.store.command_line import Parser, run_main
from analysis.store.errors import InputError, ResultsError, one_line
from analysis.store.location import without_password
from analysis.store.results import ResultStore
from analysis.trials.load import load_results
from orchestrator.terminal.words import counted
from orchestrator.tracking.runs import Runs
from orchestrator.tracking.uris import check_uri, default_uri, how_to_open


def rebuild(store: ResultStore, uri: str, console: Console) -> int:
    """Send every trial that has ended to MLflow; how many. Raises InputError."""
    check_uri(uri)
    try:
        results = load_results(store.location, tables=("trials",))
    except ResultsError as error:
        raise InputError(str(error)) from error
    plan = results.plan.sort_values("study").drop_duplicates("trial_id")
    study_of = dict(zip(plan["trial_id"], plan["study"], strict=True))
    ended = results.trials.loc[results.trials["status"] != "running", "trial_id"]
    from mlflow.exceptions import MlflowException

    try:
        runs = Runs(uri)
        for trial_id in track(list(ended), "trials", console=console, transient=True):
            (trial,) = store.read_rows("trials", trial_id)
            study = study_of.get(trial_id) or trial["dataset"]  # a single trial is in no study
            runs.close(study, trial, store.read_rows("epochs", trial_id))
    except (MlflowException, ImportError) as error:  # a database's driver may not be installed
        text = without_password(one_line(error))
        reason = "it doesn't answer" if "Max retries exceeded" in text else text
        raise InputError(f"MLflow at {without_password(uri)}: {reason}; try again") from error
    return len(ended)


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
    raise SystemExit(run_main(main))


if __name__ == "__main__":
    entry()
