"""How the entry points of this package answer a mistake on the command line."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn


def run_main(main: Callable[[], int]) -> int:
    """The exit code of an entry point whose output may be cut short, as by `| head`, or by Ctrl-C.

    What was to be shown is all that is lost then, so there is nothing to say.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # λ and ± on a terminal that hasn't got them
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def __init__(self, **settings: Any) -> None:
        # In full alone: what is read here is also looked for in command lines that are kept.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        print(f"error: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)
