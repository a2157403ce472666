"""What the machines of a cluster say of themselves, asked over ssh as `ray up` will reach them."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from cluster.ray_config import Check, Config, machines, shared_folder

PROBE: Final = Path(__file__).with_name("ssh_probe.py")
SSH_OPTIONS: Final = (
    "BatchMode=yes", "ConnectTimeout=5", "IdentitiesOnly=yes", "LogLevel=ERROR",
    "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",  # as Ray does it
)  # fmt: skip
LEAST_PYTHON: Final = (3, 11)
LEAST_FREE_GIB: Final = 15.0  # an environment with CUDA takes 10, checkpoints and data the rest
MOST_SKEW_S: Final = 5.0


@dataclass(frozen=True)
class Answer:
    """What a machine said, or why it said nothing."""

    facts: Mapping[str, Any]
    error: str | None = None
    clock_s: tuple[float, float] = (0.0, 0.0)  # how far its clock may be ahead of ours, at least
    #                                            and at most


def check_machines(config: Config) -> Iterator[Check]:
    """Ask the head, then all workers at once."""
    head, workers = machines(config)
    folder, name = shared_folder(config), f".doctor-{uuid4().hex}"
    answers = {head: ask(config, head, {"results": folder, "write": name, "reach": workers})}
    question = {"results": folder, "read": name, "reach": [head]}
    with ThreadPoolExecutor(32) as pool:
        told = pool.map(lambda worker: ask(config, worker, question), workers)
        answers |= dict(zip(workers, told, strict=True))
    if folder and not answers[head].error and not answers[head].facts["shared"]:
        ask(config, head, {"results": folder, "remove": name})
    for address, answer in answers.items():
        if answer.error:
            yield _unanswered(config, address, answer.error)
        else:
            yield from _of_one(address, answer.facts, folder, is_head=address == head)
    yield from _of_all({a: answer for a, answer in answers.items() if not answer.error})


def ask(config: Config, address: str, question: Mapping[str, Any]) -> Answer:
    """Run the probe on a machine."""
    auth = config["auth"]
    options = [word for option in SSH_OPTIONS for word in ("-o", option)]
    key = str(Path(auth["ssh_private_key"]).expanduser())
    remote = f"bash -lc {shlex.quote('python3 - ' + shlex.quote(json.dumps(question)))}"
    command = ["ssh", *options, "-i", key, f"{auth['ssh_user']}@{address}", remote]
    begin = time.time()
    done = subprocess.run(command, input=PROBE.read_text(), capture_output=True, text=True)
    end = time.time()
    if done.returncode:
        return Answer({}, error=" ".join(done.stderr.split())[-200:] or f"exit {done.returncode}")
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    return Answer(facts, clock_s=(facts["time"] - end, facts["time"] - begin))


def _unanswered(config: Config, address: str, error: str) -> Check:
    if "python3" in error and "not found" in error:
        return Check(address, "python3", error, "install Python 3.11 or newer there")
    auth = config["auth"]
    ssh = f"ssh -i {auth['ssh_private_key']} {auth['ssh_user']}@{address}"
    return Check(address, "ssh", error, f"let `{ssh}` in without a question")


def _of_one(
    address: str, facts: Mapping[str, Any], folder: str | None, *, is_head: bool
) -> Iterator[Check]:
    old = tuple(map(int, facts["python"].split(".")[:2])) < LEAST_PYTHON
    to_do = "install Python 3.11 or newer there" if old else None
    yield Check(address, "python3", facts["python"], to_do)
    free = facts["free_gib"]
    to_do = f"free {LEAST_FREE_GIB:g} GiB for the environment" if free < LEAST_FREE_GIB else None
    yield Check(address, "disk", f"{free:.0f} GiB free at home", to_do)
    has = f"{facts['cpus']} cores, {facts['memory_gib']:.0f} GiB, {len(facts['gpus'])} GPUs"
    yield Check(address, "machine", has)
    if facts["silent"]:
        to_do = "open the network between the machines; docs/cluster.md says how"
        yield Check(address, "network", f"can't reach {', '.join(facts['silent'])}", to_do)
    if folder:
        to_do = f"mount the head's {folder} there" if not is_head else f"make {folder} writable"
        wrong = facts["shared"]
        found = f"{folder}: {wrong}" if wrong else folder
        yield Check(address, "shared results", found, to_do if wrong else None)


def _of_all(answers: Mapping[str, Answer]) -> Iterator[Check]:
    if len(answers) < 2:
        return
    least, most = zip(*(answer.clock_s for answer in answers.values()), strict=True)
    skew_s = max(0.0, max(least) - min(most))
    to_do = "set the clocks: chrony or systemd-timesyncd" if skew_s > MOST_SKEW_S else None
    yield Check("all", "clocks", f"{skew_s:.1f} s apart at least", to_do)
    pythons = [str(a.facts["python"]).rpartition(".")[0] for a in answers.values()]
    yield _equal("python3", pythons, answers, "use one version of Python everywhere")
    installed = [a.facts["installed"] or "not yet" for a in answers.values()]
    yield _equal("ray and collapse-grid", installed, answers, "run `ray up` again")
    gpus = [", ".join(sorted(set(a.facts["gpus"]))) or "none" for a in answers.values()]
    yield Check("all", "GPUs", "; ".join(dict.fromkeys(gpus)))


def _equal(what: str, found: Sequence[str], answers: Mapping[str, Answer], to_do: str) -> Check:
    if len(set(found)) == 1:
        return Check("all", what, found[0])
    told = ", ".join(f"{a} {version}" for a, version in zip(answers, found, strict=True))
    return Check("all", what, told, to_do)
