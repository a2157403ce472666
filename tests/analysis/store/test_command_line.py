"""Output that nobody reads to its end, and terminals that haven't every letter."""

import os
import pty
import subprocess
import sys
from pathlib import Path

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


WORKS = """
import sys
from pathlib import Path
from analysis.store.command_line import outlive_listeners, run_main
def main():
    for i in range(3):
        print("out", i)
        print("err", i, file=sys.stderr, flush=True)
        sys.stdout.flush()
        input()
    Path(sys.argv[1]).write_text("done")
    return 3
outlive_listeners()
sys.exit(run_main(main))
"""


def works(done: Path, output: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", WORKS, str(done)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env={"PYTHONPATH": "."},
    )


def test_what_works_goes_on_when_its_terminal_is_gone(tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    process = works(tmp_path / "done", terminal)
    os.close(terminal)
    assert os.read(reader, 100)
    os.close(reader)
    process.communicate(b"\n\n\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (3, "done")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_works_goes_on_when_its_log_is_full(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = works(tmp_path / "done", full.fileno())
        process.communicate(b"\n\n\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (3, "done")


def test_what_works_goes_on_when_nobody_reads_it(tmp_path: Path) -> None:
    process = works(tmp_path / "done")
    for stream in (process.stdout, process.stderr):
        assert stream
        stream.close()
    process.stdout = process.stderr = None
    process.communicate(b"\n\n\n")
    assert (process.returncode, (tmp_path / "done").read_text()) == (3, "done")


def test_what_is_heard_is_complete(tmp_path: Path) -> None:
    process = works(tmp_path / "done")
    out, err = process.communicate(b"\n\n\n")
    assert (out, err) == (b"out 0\nout 1\nout 2\n", b"err 0\nerr 1\nerr 2\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("program", [PROGRAM, "from analysis.store import command_line\n"
                                     "command_line.outlive_listeners()\n" + PROGRAM],
                         ids=["shows", "works"])  # fmt: skip
def test_streams_that_were_closed_before_the_start(
    tmp_path: Path, closed: str, program: str
) -> None:
    body = "file = open('kept', 'w'); print('a'); print('b', file=sys.stderr); file.write('c')"
    (tmp_path / "program.py").write_text(program.format(body=body))
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" program.py {closed}'],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kept").read_text() == "c"
    assert done.stdout == ("" if " >&-" in f" {closed}" else "a\n")
    assert done.stderr == ("" if "2>&-" in closed else "b\n")
