"""Output that nobody reads to its end, and terminals that haven't every letter."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from analysis.store.command_line import run_main
def main():
    {body}
    return 0
sys.exit(run_main(main))
"""


def run(
    body: str, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": ".", **environment},
    )


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_is_no_traceback(lines: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run(f'print("line\\n" * {lines})', stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + 13, b"")


def test_ctrl_c_is_no_traceback() -> None:
    done = run("raise KeyboardInterrupt")
    assert (done.returncode, done.stderr) == (130, b"")


def test_what_a_terminal_lacks_is_spelled_out() -> None:
    done = run('print("λ")', PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b"\\u03bb\n")
