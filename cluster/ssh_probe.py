"""Sent to a machine of the cluster over ssh: what it has, as JSON. Standard library only.

python3 - '{"results": "/shared/results", "write": "name" | null, "read": "name" | null, ...}'
"""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time


def output(*command):
    """What a command prints, or None if it can't be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def shared(results, write, read, remove):
    """Write, read or remove a file in the shared folder; what went wrong, or None."""
    try:
        if write:
            with open(os.path.join(results, write), "x") as file:
                file.write(write)
        if read:
            with open(os.path.join(results, read)) as file:
                if file.read() != read:
                    return "holds another file of that name"
        if remove:
            os.unlink(os.path.join(results, remove))
    except OSError as error:
        return error.strerror
    return None


def reaches(addresses):
    """Those of the addresses where no sshd answers."""
    silent = []
    for address in addresses:
        try:
            socket.create_connection((address, 22), timeout=3).close()
        except OSError:
            silent.append(address)
    return silent


def main():
    """Answer what was asked."""
    asked = json.loads(sys.argv[1])
    python = os.path.expanduser("~/collapse-grid-venv/bin/python")
    version = "from importlib.metadata import version as v; print(v('ray'), v('collapse-grid'))"
    gpus = output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    answer = {
        "time": time.time(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        "free_gib": shutil.disk_usage(os.path.expanduser("~")).free / 2**30,
        "gpus": gpus.splitlines() if gpus else [],
        "installed": output(python, "-c", version),
        "silent": reaches(asked.get("reach", [])),
        "shared": None,
    }
    if asked.get("results"):
        keys = ("write", "read", "remove")
        answer["shared"] = shared(asked["results"], *(asked.get(key) for key in keys))
    print(json.dumps(answer))


main()
