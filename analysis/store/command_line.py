"""How the entry points of this package answer a mistake on the command line."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


def run_main(main: Callable[[], int]) -> int:
    """The exit code of an entry point whose output may be cut short, as by `| head`, or by Ctrl-C.

    What was to be shown is all that is lost then, so there is nothing to say.
    """
    _open_what_is_closed()
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


def outlive_listeners() -> None:
    """From now on, what can't be shown is dropped, for whatever reason, instead of raising.

    For programs that do more than show: the terminal goes away, the disk of a log fills up, and
    the work goes on.
    """
    _open_what_is_closed()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # not a notebook's or a test's own
            stream.flush()
            raw = _Dropping(stream.fileno(), "w", closefd=False)
            new = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, new)


class _Dropping(io.FileIO):
    """An output that takes everything, and passes on what it can."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def _open_what_is_closed() -> None:
    """Give a stream that was closed before the start, as by `>&-`, a place where nobody listens.

    Else its number goes to the next file that is opened, and what is printed goes into that.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            opened = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, opened)


def a_folder(text: str) -> Path:
    """The type of an option that names a folder, which may not be there yet."""
    path = Path(text)
    nearest = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    if not nearest.is_dir():
        what = "is a file" if nearest.is_file() else "leads nowhere"
        raise argparse.ArgumentTypeError(f"{nearest} {what}, and it has to be a folder")
    return path


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage before it."""

    def __init__(self, **settings: Any) -> None:
        # In full alone: what is read here is also looked for in command lines that are kept.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        print(f"error: {message}; see --help", file=sys.stderr)
        raise SystemExit(2)
