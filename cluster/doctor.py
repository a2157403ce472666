"""Entry point: look a cluster over before anything is started on it. Changes nothing.

The machines of provider `local` are asked over ssh; of the others only the file can be checked.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.table import Table

from analysis.store.command_line import Parser, run_main
from cluster.machines import check_machines
from cluster.ray_config import Check, ConfigError, check_config, read_config

OK, SOME_WRONG, BAD_INPUT = 0, 1, 2


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m cluster.doctor", description=__doc__)
    parser.add_argument("config", type=Path, metavar="YAML", help="such as cluster/config.yaml")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Check and tell; returns the exit code."""
    args = parse_args(argv)
    console = Console()
    try:
        config = read_config(args.config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    checks = list(check_config(config))
    if config["provider"]["type"] == "local" and all(check.ok for check in checks):
        with console.status("asking the machines"):
            checks += check_machines(config)
    show(checks, console)
    return OK if all(check.ok for check in checks) else SOME_WRONG


def show(checks: Sequence[Check], console: Console) -> None:
    """A table of everything, then what to do, one line each."""
    table = Table("", "where", "what", "found", box=None, pad_edge=False)
    for check in checks:
        mark = "[green]✓[/]" if check.ok else "[bold red]✗[/]"
        table.add_row(mark, check.where, check.what, check.found)
    console.print(table)
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        console.print(f"{check.where}: {check.what}: {check.to_do}", markup=False, soft_wrap=True)
    console.print(f"{len(wrong)} of {len(checks)} checks failed" if wrong else "all is well")


def entry() -> NoReturn:
    """The console command."""
    raise SystemExit(run_main(main))


if __name__ == "__main__":
    entry()
