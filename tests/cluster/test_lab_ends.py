"""The lab's machines end with the tests that they are for, however those end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab import ROOT, missing
from tests.orchestrator.sweeps import wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
TEST = """
import time
from pathlib import Path
from tests.cluster.lab import lab

def test_that_takes_long(tmp_path: Path) -> None:
    with lab(tmp_path) as machines:
        machines.popen("head", "sleep 1000")
        Path("up").touch()
        time.sleep(1000)
"""


def spaces(pid: int) -> list[str]:
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    names = (line.split()[0] for line in listed.splitlines())
    return [name for name in names if name.startswith(f"cglab{pid}-")]


def inhabitants(pid: int) -> list[int]:
    """Processes in the spaces of a lab, as long as those have names."""
    command = ["ip", "netns", "pids"]
    return [
        int(inhabitant)
        for name in spaces(pid)
        for inhabitant in subprocess.run(
            [*command, name], capture_output=True, text=True, check=False
        ).stdout.split()
    ]


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["up", "half up"])
def test_a_lab_ends_with_its_tests(tmp_path: Path, ending: signal.Signals, moment: str) -> None:
    (tmp_path / "test_long.py").write_text(TEST)
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}", "--rootdir=."]
    tests = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, "test_long.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        if moment == "up":
            wait_for((tmp_path / "up").exists, "the machines", timeout_s=120)
        # What sets a machine up is there for a moment: one reading is both the sign and the list.
        there: list[int] = []
        wait_for(lambda: there.extend(inhabitants(tests.pid)) or there, "a process", timeout_s=120)
        os.killpg(tests.pid, ending)
        tests.wait(timeout=60)
        wait_for(lambda: not spaces(tests.pid), "the end of the network", timeout_s=30)
        wait_for(lambda: not any(map(lives, there)), "the end of every process", timeout_s=10)
    finally:
        if tests.poll() is None:
            os.killpg(tests.pid, signal.SIGKILL)
            tests.wait()
