"""The Ray that a sweep starts by itself."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from analysis.store.errors import InputError
from orchestrator.run import connection

INSIDE = """
from orchestrator.run import connection
from orchestrator.terminal.dry_run import this_machine
(node,) = connection.connect("local")
print([node["CPU"]] == [1.0] == [each["CPU"] for each in this_machine()])
connection.disconnect()
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `ray.init` was asked for, of a machine of three CPUs and two GPUs."""
    calls: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", lambda address, **words: calls.append(words))
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(connection, "usable_cpus", lambda: 3)
    monkeypatch.setattr(connection, "usable_gpus", lambda: 2)
    return calls


@pytest.mark.parametrize("address", [None, "local"])
def test_a_ray_of_its_own_has_what_the_sweep_may_use(
    asked: list[dict[str, Any]], address: str | None
) -> None:
    connection.connect(address)
    (words,) = asked
    assert (words["num_cpus"], words["num_gpus"]) == (3, 2)


def test_gpus_that_are_not_seen_are_ray_s_to_count(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "usable_gpus", lambda: None)
    connection.connect("local")
    assert "num_gpus" not in asked[0]


def test_a_running_cluster_is_taken_as_it_is(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.connect("auto")
    assert not {"num_cpus", "num_gpus"} & {*asked[0]}

    def join(address: str | None, **words: Any) -> None:
        asked.append(words)
        if "num_cpus" in words:  # as Ray says where `ray start` left a cluster
            raise ValueError("When connecting to an existing cluster, num_cpus ... not be provided")

    monkeypatch.setattr(ray, "init", join)
    connection.connect(None)
    assert not {"num_cpus", "num_gpus"} & {*asked[-1]}


@pytest.mark.ray
def test_one_cpu_by_affinity_is_one_to_ray_and_to_a_plan(tmp_path: Path) -> None:
    done = subprocess.run(
        ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", INSIDE],
        capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr


SLOW = Exception("The current node timed out during startup. This could happen because some ...")


def slow_ray(monkeypatch: pytest.MonkeyPatch, failures: list[Exception]) -> list[subprocess.Popen]:
    """A Ray whose first tries fail, each of which leaves a process; and these processes."""
    left: list[subprocess.Popen] = []

    def init(address: str | None, **words: Any) -> None:
        left.append(subprocess.Popen(["sleep", "600"]))
        if failures:
            raise failures.pop(0)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return left


@pytest.mark.parametrize("error", [SLOW, RuntimeError("no GCS"), RayError("late")])
def test_a_slow_start_of_ray_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    left = slow_ray(monkeypatch, [error, error])
    assert connection.connect("local") == [{"CPU": 1.0}]
    *failed, last = left
    assert [each.wait(timeout=10) for each in failed] == [-signal.SIGKILL] * 2
    assert last.poll() is None
    connection.disconnect()
    assert last.wait(timeout=10) == -signal.SIGKILL


def test_a_ray_that_never_starts_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    left = slow_ray(monkeypatch, [SLOW] * 5)
    with pytest.raises(InputError, match=r"Ray doesn't start .*timed out.*tried 3 times") as told:
        connection.connect(None)
    assert "\n" not in str(told.value)
    assert [each.wait(timeout=10) for each in left] == [-signal.SIGKILL] * 3


def test_a_cluster_that_refuses_is_told_in_a_line_and_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = slow_ray(monkeypatch, [RuntimeError("Version mismatch:\n  Ray: 2.1")] * 5)
    with pytest.raises(InputError, match=r"no Ray cluster answers or starts .*Version mismatch"):
        connection.connect("auto")
    (process,) = left
    process.kill()
    process.wait()


def test_a_mistake_in_the_code_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    left = slow_ray(monkeypatch, [TypeError("init() got an unexpected keyword")])
    with pytest.raises(TypeError):
        connection.connect("local")
    connection.disconnect()
    left[0].wait(timeout=10)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
def test_a_home_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    with pytest.raises(InputError, match=r"Ray keeps a token in ~/\.ray: set HOME to a folder"):
        connection.connect("local")
