"""How the entry points of this package answer a mistake on the command line."""

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        print(f"error: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)
