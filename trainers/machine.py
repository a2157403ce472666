"""What this process may use of its machine: CPUs and GPUs, whoever narrowed them. No torch, no Ray.

A machine counts all that it has; who shares it gives a process less: `taskset`, `srun` and cpusets
by its affinity, containers and batch systems by a cgroup's quota, and all of them by
CUDA_VISIBLE_DEVICES.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/")
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def usable_cpus(root: Path = ROOT) -> int:
    """How many CPUs this process may keep busy: by its machine, its affinity and its cgroups.

    Half a CPU is one. `root`: where /proc and /sys are.
    """
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    counts = [os.cpu_count() or 1, len(here), *(int(quota) for quota in _quotas(root))]
    return min((count for count in counts if count >= 1), default=1)


def usable_gpus(root: Path = ROOT) -> int | None:
    """How many GPUs of NVIDIA's this process sees; None where the driver's files don't say.

    They lack on WSL, and where GPUs are another maker's.
    """
    there = len(list(root.glob("proc/driver/nvidia/gpus/*")))
    listed = os.environ.get(VISIBLE)
    if listed is None:
        return there or None
    visible = _visible(listed)
    if there or not visible:
        return _usable(visible, there)
    return None


def _visible(listed: str) -> list[str]:
    """The GPUs that the variable names, in CUDA's reading: the first that is none ends the list."""
    names: list[str] = []
    for name in (each.strip() for each in listed.split(",")):
        if not name.isdigit() and not name.startswith(("GPU-", "MIG-")):
            break
        names.append(name)
    return names


def _usable(names: list[str], there: int) -> int:
    """How many of these are GPUs of a machine that has so many; a repeated one makes it none."""
    if len(set(names)) < len(names):
        return 0
    count = 0
    for name in names:
        if name.isdigit() and int(name) >= there:
            break
        count += 1
    whole = [name for name in names[:count] if not name.startswith("MIG-")]
    return count - len(whole) + min(len(whole), there)


def _quotas(root: Path) -> Iterator[float]:
    """The CPUs that each cgroup around this process may use; at least one."""
    for folder in _cgroups(root):
        for read in (_quota_v2, _quota_v1):
            try:
                quota = read(folder)
            except (OSError, ValueError, IndexError):  # no such file: that version isn't used here
                continue
            if quota is not None:
                yield max(quota, 1.0)


def _cgroups(root: Path) -> Iterator[Path]:
    """The folders of the cgroups that this process is in, from its own up to the root's.

    A container may be told the names that its host knows, and see its own alone: as the root.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            tops = [root / "sys/fs/cgroup"]
        elif "cpu" in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / name for name in dict.fromkeys((controllers, "cpu"))]
        else:
            continue
        own = Path(path.lstrip("/"))
        yield from (top / part for top in tops for part in (own, *own.parents))


def _quota_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    quota, period = (
        int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
    )
    return None if quota < 0 else quota / period
