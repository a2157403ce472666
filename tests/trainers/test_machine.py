"""What a process may use, by real affinities and by made-up /proc and /sys."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.machine import VISIBLE, usable_cpus, usable_gpus

HERE = len(os.sched_getaffinity(0))
V1 = "4:memory:/jobs\n3:cpu,cpuacct:/jobs/mine\n0::/\n"


def machine(root: Path, cgroup: str, files: dict[str, str], *, gpus: int = 0) -> Path:
    """A machine's files: a process's cgroups, some of /sys/fs/cgroup, the driver's GPUs."""
    whole = {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}
    whole |= {f"proc/driver/nvidia/gpus/0000:0{i}:00.0/information": "" for i in range(gpus)}
    for name, text in whole.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("cpu", sorted(os.sched_getaffinity(0))[:2])
def test_one_cpu_by_affinity_is_one(cpu: int) -> None:
    ask = "from trainers.machine import usable_cpus; print(usable_cpus())"
    command = ["taskset", "-c", str(cpu), sys.executable, "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        ("0::/\n", {}, HERE),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, HERE),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "190000 100000\n"}, 1),
        ("0::/a/b\n", {"a/b/cpu.max": "99900000 100000\n"}, HERE),
        ("0::/not/seen/from/here\n", {"cpu.max": "100000 100000\n"}, 1),
        (V1, {f"cpu,cpuacct/jobs/mine/cpu.cfs_{k}_us": "100000" for k in ("quota", "period")}, 1),
        (V1, {f"cpu/jobs/cpu.cfs_{k}_us": "100000" for k in ("quota", "period")}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, HERE),
        (V1, {"cpu.max": "100000 100000\n"}, 1),
    ],
)
def test_a_cgroup_s_quota_is_kept(
    tmp_path: Path, cgroup: str, files: dict[str, str], cpus: int
) -> None:
    assert usable_cpus(machine(tmp_path, cgroup, files)) == cpus


def test_a_machine_without_cgroups_has_its_cpus(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path) == HERE


@pytest.mark.parametrize(
    ("listed", "there", "gpus"),
    [
        (None, 4, 4),
        (None, 0, None),
        ("", 4, 0),
        ("-1", 4, 0),
        ("-1", 0, 0),
        ("NoDevFiles", 4, 0),
        ("2", 4, 1),
        ("3, 1", 4, 2),
        ("0,-1,1", 4, 1),
        ("0,4,1", 4, 1),
        ("0,0", 4, 0),
        ("GPU-8932f937,GPU-ad2367dd", 4, 2),
        ("GPU-8932f937,GPU-ad2367dd", 1, 1),
        ("MIG-1,MIG-2,MIG-3", 1, 3),
        ("0", 0, None),
    ],
)
def test_gpus_are_those_that_cuda_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str | None, there: int, gpus: int
) -> None:
    monkeypatch.delenv(VISIBLE, raising=False)
    if listed is not None:
        monkeypatch.setenv(VISIBLE, listed)
    assert usable_gpus(machine(tmp_path, "", {}, gpus=there)) == gpus
