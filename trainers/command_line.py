"""How the entry points that train answer a mistake on the command line.

The same few lines as in `analysis.command_line`: neither package may import the other.
"""

import argparse
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def __init__(self, **settings: Any) -> None:
        # In full alone: what is read here is also looked for in command lines that are kept.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        print(f"error: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)
