"""Four machines on one: a laptop, a head and two workers, made of namespaces. Needs root.

Each has its own network address, processes, host name, home folder, /tmp and sshd. The folder
`shared` is on all of them at one path, as an NFS mount would be.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
ADDRESSES: Final = {
    "laptop": "10.77.0.100", "head": "10.77.0.2", "w1": "10.77.0.3", "w2": "10.77.0.4",
}  # fmt: skip
PREFIX: Final = f"cglab{os.getpid()}"  # several labs may be up at once
SWITCH: Final = f"{PREFIX}-switch"
PROGRAMS: Final = (
    "ip", "ss", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "curl", "git", "/usr/sbin/sshd",
)  # fmt: skip
# Waits for the end of its input, which comes when this process ends in whatever way, and ends every
# process of the spaces. What this process was just starting has a second to be there.
UNDERTAKER: Final = """
cat >/dev/null; sleep 1
for space in "$@"; do
    ip netns pids "$space" | xargs --no-run-if-empty kill -KILL
    ip netns del "$space"
done
"""
Done = subprocess.CompletedProcess[str]


def missing() -> str | None:
    """Why there can be no lab here, if that is so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install iproute2 openssh-server rsync curl git"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True)
    return "needs to be allowed to make namespaces" if tried.returncode else None


class Lab:
    """The machines, their folder and what is done to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shared = root / "shared"
        self.home = root / "home"  # the path of every machine's own
        self.key = root / "keys" / "client"
        self._firsts: dict[str, subprocess.Popen[bytes]] = {}
        self._undertaker = subprocess.Popen(
            ["sh", "-c", UNDERTAKER, "sh", *map(_space, ADDRESSES), SWITCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is not for it
        )

    def up(self) -> None:
        """Make the network and the machines."""
        for folder in (self.shared, self.home, self.key.parent):
            folder.mkdir()
        for name in ("host", "client"):
            path = str(self.key.parent / name)
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
        run("ip", "netns", "add", SWITCH)
        run("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", SWITCH, "link", "set", "br0", "up")
        for name in ADDRESSES:
            self._connect(name)
            self._furnish(name)
            self.start(name)

    def down(self) -> None:
        """End every process and remove the network."""
        self._undertaker.communicate()
        for first in self._firsts.values():
            first.wait()

    def start(self, name: str) -> None:
        """Switch a machine on; its disk is as it was, but for /tmp."""
        own = self.root / name
        ready = own / "ready"
        ready.unlink(missing_ok=True)
        shutil.rmtree(own / "tmp", ignore_errors=True)
        (own / "tmp").mkdir(parents=True)
        script = str(Path(__file__).with_name("node.sh"))
        kept = [str(self.root), str(ROOT), sys.prefix, sys.base_prefix]
        command = ["ip", "netns", "exec", _space(name)]
        command += ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"]
        command += ["--mount-proc"]
        with (own / "log").open("wb") as log:
            self._firsts[name] = subprocess.Popen(
                [*command, "bash", script, name, ADDRESSES[name], *kept],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        _wait_for(ready)

    def kill(self, name: str) -> None:
        """A machine loses its power."""
        first = self._firsts.pop(name)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()

    def cut(self, name: str) -> None:
        """Its cable is pulled: it runs on and hears nobody."""
        run("ip", "-n", _space(name), "link", "set", "eth0", "down")

    def heal(self, name: str) -> None:
        """The cable is in again."""
        run("ip", "-n", _space(name), "link", "set", "eth0", "up")
        run("ip", "-n", _space(name), "route", "add", "default", "via", "10.77.0.1")

    def popen(self, name: str, command: str, **environment: str) -> subprocess.Popen[str]:
        """A command on a machine, in the login shell of its user."""
        pid = self._first_process(name)
        enter = ["nsenter", "--target", str(pid), "--all", "env", "-i", f"HOME={self.home}"]
        enter += [
            "USER=root",
            "TERM=dumb",
            *(f"{key}={value}" for key, value in environment.items()),
        ]
        return subprocess.Popen(
            [*enter, "bash", "--login", "-c", f"cd ~ && {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, name: str, command: str, *, timeout_s: float = 180, **environment: str) -> Done:
        """The same, to its end."""
        process = self.popen(name, command, **environment)
        try:
            out, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            raise AssertionError(f"{name}: {command} took over {timeout_s} s:\n{out}") from None
        return subprocess.CompletedProcess(command, process.returncode, out, "")

    def _first_process(self, name: str) -> int:
        """The machine's process 1, as the kernel below numbers it."""
        parent = self._firsts[name].pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def _connect(self, name: str) -> None:
        space, cable = _space(name), f"to-{name}"
        run("ip", "netns", "add", space)
        peer = ("type", "veth", "peer", "name", cable, "netns", SWITCH)
        run("ip", "link", "add", "eth0", "netns", space, *peer)
        run("ip", "-n", SWITCH, "link", "set", cable, "master", "br0", "up")
        run("ip", "-n", space, "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
        run("ip", "-n", space, "link", "set", "lo", "up")
        self.heal(name)

    def _furnish(self, name: str) -> None:
        """A home folder whose environment has what the index of packages would give."""
        home = self.root / name / "home"
        python = home / "collapse-grid-venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", str(python.parents[1]))
        (site,) = python.parents[1].glob("lib/python*/site-packages")
        (site / "below.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        ray = python.with_name("ray")
        inside = self.home / python.relative_to(home)
        ray.write_text(f"#!{inside}\nfrom ray.scripts.scripts import main\nmain()\n")
        ray.chmod(0o755)
        (home / ".bashrc").touch()
        (home / ".bash_profile").write_text(
            f"export PATH={Path(sys.base_prefix) / 'bin'}:$PATH\n"
            "export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0\n"
            ". ~/.bashrc\n"
        )


def _space(name: str) -> str:
    return f"{PREFIX}-{name}"


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path.parent.name} did not start; see {path.parent}/log"
        time.sleep(0.02)


def run(*command: str) -> None:
    """A command on the machine below. Raises CalledProcessError."""
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def lab(root: Path) -> Iterator[Lab]:
    """The machines, until the end of the block, or of this process."""
    machines = Lab(root)
    try:
        machines.up()
        yield machines
    finally:
        machines.down()
