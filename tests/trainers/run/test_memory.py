"""A large block that was freed serves the next one, so its pages are not faulted in again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from trainers.run.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin
for _ in range(3):  # until the heap is as large as it gets
    faults()
print(faults())
"""


def faults(how: str) -> int:
    out = subprocess.run(
        [sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True
    )
    return int(out.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_a_freed_block_is_kept() -> None:
    pages = 5 * 2**26 // 4096
    assert faults("keep") < pages // 100 < pages // 2 < faults("return")
