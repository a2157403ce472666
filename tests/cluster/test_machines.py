"""What the doctor makes of the machines' answers, by machines that are made up."""

from typing import Any

import pytest

from cluster import machines
from cluster.machines import Answer, check_machines
from cluster.ray_config import Config

CONFIG: Config = {
    "provider": {"type": "local", "head_ip": "head", "worker_ips": ["w1", "w2"]},
    "auth": {"ssh_user": "me", "ssh_private_key": "~/key"},
    "initialization_commands": ["ln -sfT /shared/results ~/results"],
}
FACTS: dict[str, Any] = {
    "host": "x", "python": "3.11.7", "cpus": 8, "memory_gib": 64.0, "free_gib": 100.0,
    "gpus": ["A100, 81920 MiB"], "installed": "2.60.0 0.1.0", "silent": [], "shared": None,
}  # fmt: skip


def problems(monkeypatch: pytest.MonkeyPatch, **answers: Answer) -> dict[tuple[str, str], str]:
    """What to do, by place and what was looked at; machines that aren't named are well."""
    asked: list[tuple[str, dict]] = []

    def ask(config: Config, address: str, question: dict) -> Answer:
        asked.append((address, question))
        return answers.get(address, Answer(FACTS))

    monkeypatch.setattr(machines, "ask", ask)
    checks = list(check_machines(CONFIG))
    written = [question["write"] for _, question in asked if "write" in question]
    removed = [question["remove"] for _, question in asked if "remove" in question]
    head_is_well = not answers.get("head", Answer(FACTS)).error
    assert removed == (written if head_is_well and not _cannot_write(answers) else [])
    return {(check.where, check.what): check.to_do for check in checks if check.to_do}


def _cannot_write(answers: dict[str, Answer]) -> bool:
    return "head" in answers and bool(answers["head"].facts.get("shared"))


def test_three_good_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch) == {}


@pytest.mark.parametrize(
    ("facts", "what", "to_do"),
    [
        ({"python": "3.9.2"}, "python3", "install Python 3.11 or newer there"),
        ({"free_gib": 3.0}, "disk", "free 15 GiB for the environment"),
        ({"silent": ["head"]}, "network", "open the network between the machines"),
        ({"shared": "No such file or directory"}, "shared results", "mount the head's /shared"),
    ],
)
def test_a_machine_that_is_not_well(
    monkeypatch: pytest.MonkeyPatch, facts: dict, what: str, to_do: str
) -> None:
    assert to_do in problems(monkeypatch, w1=Answer({**FACTS, **facts}))["w1", what]


def test_a_machine_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = problems(monkeypatch, w2=Answer({}, error="Permission denied (publickey)."))
    assert found == {("w2", "ssh"): "let `ssh -i ~/key me@w2` in without a question"}
    found = problems(monkeypatch, head=Answer({}, error="bash: python3: command not found"))
    assert found["head", "python3"] == "install Python 3.11 or newer there"


def test_versions_and_clocks_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"python": "3.12.1", "installed": "2.59.0 0.1.0"}
    late = (59.0, 60.0)
    found = problems(monkeypatch, w1=Answer({**FACTS, **other}, clock_s=late))
    assert found == {
        ("all", "python3"): "use one version of Python everywhere",
        ("all", "ray and collapse-grid"): "run `ray up` again",
        ("all", "clocks"): "set the clocks: chrony or systemd-timesyncd",
    }


def test_a_slow_answer_is_no_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, w1=Answer(FACTS, clock_s=(-3.0, 30.0))) == {}
