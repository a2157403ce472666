"""`ray up` and `ray submit` on four machines, and what happens to a sweep when they fail.

The tests build on each other, in the order of this file: starting a cluster takes a while.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import ADDRESSES, ROOT, Lab, lab, missing
from tests.orchestrator.sweeps import (
    DDP_STUDY,
    LONG,
    STUDY,
    Rows,
    Same,
    checkpoints,
    rows,
    wait_for,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
HEAD, WORKERS = ADDRESSES["head"], (ADDRESSES["w1"], ADDRESSES["w2"])
PLAIN = "--no-mlflow --quiet"
# What Ray's client server is asked first by whoever wants in.
PING = f"""
import grpc
from ray.core.generated.ray_client_pb2 import ClusterInfoRequest
from ray.core.generated.ray_client_pb2_grpc import RayletDriverStub
RayletDriverStub(grpc.insecure_channel("{HEAD}:10001")).ClusterInfo(ClusterInfoRequest())
"""


class Cluster:
    """A Ray cluster of the lab's machines, as its user at the laptop has it."""

    def __init__(self, machines: Lab) -> None:
        self.lab = machines
        self.results = machines.shared / "results"
        self.checkout = machines.root / "checkout"

    def prepare(self) -> None:
        """The user's checkout, configuration and token, and the studies on the head."""
        self.results.mkdir()
        _clone(self.checkout)
        changed = {
            "head_ip: 192.168.1.10 ": f"head_ip: {HEAD} ",
            "[192.168.1.11, 192.168.1.12]": f"[{', '.join(WORKERS)}]",
            "ssh_user: ray ": "ssh_user: root ",
            "~/.ssh/id_ed25519": str(self.lab.key),
            "/shared/results": str(self.results),
            # Each worker takes one trial, and the head none.
            "ray start --head": "ray start --head --num-cpus=0",
            "ray start --address": "ray start --num-cpus=1 --address",
        }
        config = (ROOT / "cluster" / "config.yaml").read_text()
        for old, new in changed.items():
            assert config.count(old) == 1, old
            config = config.replace(old, new)
        (self.checkout / "cluster" / "lab.yaml").write_text(config)
        home = self.lab.root / "head" / "home"
        (home / "study.yaml").write_text(STUDY)
        (home / "ddp.yaml").write_text(DDP_STUDY)
        self.ok("ray get-auth-token --generate && chmod 600 ~/.ray/auth_token")

    def command(self, command: str) -> str:
        """A command as typed in the checkout's folder, with the environment of this test."""
        place = shlex.quote(str(self.checkout))
        return (
            f"export PATH=~/collapse-grid-venv/bin:$PATH PYTHONPATH={place}; cd {place}; {command}"
        )

    def ok(self, command: str, timeout_s: float = 240) -> str:
        """The output of a command at the laptop that ends well."""
        done = self.lab.run("laptop", self.command(command), timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def up(self) -> None:
        """`ray up`, until all three machines are there."""
        self.ok("ray up --yes --no-config-cache cluster/lab.yaml")
        self.wait_for_nodes(3)

    def submit(self, study: str, *options: str) -> subprocess.Popen[str]:
        """`ray submit` of a sweep, under way."""
        argv = shlex.join(["--study", f"{study}.yaml", *options])
        submit = f"ray submit --no-config-cache cluster/lab.yaml orchestrator/sweep.py -- {argv}"
        return self.lab.popen("laptop", self.command(submit))

    def nodes(self) -> int:
        """How many machines Ray counts as alive."""
        script = (
            "import ray; ray.init('auto', logging_level='ERROR', log_to_driver=False);"
            "print('alive', sum(node['Alive'] for node in ray.nodes()))"
        )
        done = self.lab.run("head", f"python -c {shlex.quote(script)}")
        found = re.search(r"^alive (\d+)$", done.stdout, re.MULTILINE)
        return int(found[1]) if found else 0

    def wait_for_nodes(self, number: int) -> None:
        def there() -> bool:
            time.sleep(2)  # to ask takes Ray a second of a core, which the machines need
            return self.nodes() == number

        wait_for(there, f"the {number}th node", timeout_s=120)


def _clone(place: Path) -> None:
    """This checkout with its uncommitted changes committed: only commits travel to a cluster."""
    subprocess.run(["git", "clone", "--quiet", ROOT, place], check=True)
    changes = subprocess.run(["git", "diff", "HEAD", "--binary"], cwd=ROOT, capture_output=True)
    if changes.stdout:
        subprocess.run(["git", "apply", "--index"], cwd=place, input=changes.stdout, check=True)
        author = ["-c", "user.name=lab", "-c", "user.email=lab@localhost"]
        command = ["git", *author, "commit", "--quiet", "--message", "as it is"]
        subprocess.run(command, cwd=place, check=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with lab(tmp_path_factory.mktemp("lab")) as machines:
        cluster = Cluster(machines)
        cluster.prepare()
        said = cluster.ok("python -m cluster.doctor cluster/lab.yaml")
        assert "all is well" in said, said
        cluster.up()
        yield cluster


def test_only_ssh_and_rays_ports_listen_beyond_loopback(cluster: Cluster) -> None:
    tell = "ss --listening --tcp --numeric --no-header --processes"
    local = ("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:")
    for name in ("head", "w1", "w2"):
        listed = cluster.lab.run(name, tell).stdout.splitlines()
        pids = {
            pid
            for line in listed
            if not line.split()[3].startswith(local)
            for pid in re.findall(r"pid=(\d+)", line)
        }
        assert len(pids) >= 3
        for pid in pids:
            command = cluster.lab.run(name, f"tr '\\0' ' ' </proc/{pid}/cmdline").stdout
            known = r"ray::|sshd: |\S*python.* (\S*/ray/|-m ray\.)|\S*/ray/core/src/"
            assert re.match(known, command), command


def test_strangers_are_refused(cluster: Cluster) -> None:
    """At the door of Ray itself, and at that of jobs, without the token and with another one."""
    status = f"timeout 20 ray status --address {HEAD}:6379 2>&1"
    token = "export RAY_AUTH_MODE=token"
    assert "Active:" in cluster.ok(f"{token}; {status}")  # who has the token gets in
    for stranger in ("export RAY_AUTH_MODE=disabled", f"{token} RAY_AUTH_TOKEN={'0' * 64}"):
        done = cluster.lab.run("laptop", cluster.command(f"{stranger}; {status}"))
        assert "Active:" not in done.stdout, done.stdout
        assert "uthenticat" in done.stdout, done.stdout
    asked = f"python -c {shlex.quote(PING)} 2>&1"
    assert "UNAUTHENTICATED" in cluster.lab.run("laptop", cluster.command(asked)).stdout
    curl = "curl --silent --output /dev/null --write-out '%{http_code}'"
    done = cluster.lab.run("head", f"{curl} http://127.0.0.1:8265/api/jobs/")
    assert done.stdout == "401"
    assert cluster.lab.run("laptop", f"{curl} http://{HEAD}:8265/").stdout == "000"


def test_secrets_are_for_their_owner_alone(cluster: Cluster) -> None:
    for name in ("head", "w1", "w2"):
        files = "~/.ray/auth_token" + " ~/ray_bootstrap_*" * (name == "head")
        modes = cluster.lab.run(name, f"stat --format=%a {files}").stdout.split()
        assert set(modes) == {"600"}


def test_a_study_runs_on_both_workers(cluster: Cluster, undisturbed: Rows, same: Same) -> None:
    """Into ~/results, which is the shared folder, without a word about it."""
    out = _finish(cluster.submit("study", "--no-mlflow"))
    assert "at most 2 at once" in out  # and each worker takes one
    same(cluster.results, undisturbed)


def test_ranks_on_different_nodes(cluster: Cluster, two_ranks: Rows, same: Same) -> None:
    options = ("--workers", "2", "--results", "results/ddp", *PLAIN.split())
    _finish(cluster.submit("ddp", *options))
    (trial,) = rows(cluster.results / "ddp")["trials"]
    assert trial["world_size"] == 2  # a worker has one CPU, and each rank takes one
    same(cluster.results / "ddp", two_ranks)


def test_results_that_are_not_shared_are_found_before_training(cluster: Cluster) -> None:
    process = cluster.submit("study", "--results", "mine", *PLAIN.split())
    out, _ = process.communicate(timeout=120)
    assert "doesn't share --results mine; choose a folder that every node mounts" in out
    assert not (cluster.lab.root / "head" / "home" / "mine").exists()


def test_a_worker_is_killed_and_comes_back(cluster: Cluster, longer: Rows, same: Same) -> None:
    sweep = _training_on_both(cluster, "killed")
    cluster.lab.kill("w1")
    cluster.lab.start("w1")
    _ends_the_same(sweep, cluster.results / "killed", longer, same)
    cluster.wait_for_nodes(3)


def test_the_head_is_killed_and_brought_up_again(
    cluster: Cluster, longer: Rows, same: Same
) -> None:
    sweep = _training_on_both(cluster, "head")
    cluster.lab.kill("head")
    sweep.communicate(timeout=60)
    cluster.lab.start("head")
    cluster.up()
    again = cluster.submit("study", *LONG, "--results", "results/head")
    _ends_the_same(again, cluster.results / "head", longer, same)


def test_a_worker_is_cut_off_silently(cluster: Cluster, longer: Rows, same: Same) -> None:
    sweep = _training_on_both(cluster, "cut")
    cluster.lab.cut("w2")
    _ends_the_same(sweep, cluster.results / "cut", longer, same)


def _training_on_both(cluster: Cluster, name: str) -> subprocess.Popen[str]:
    """A sweep under way, each of whose two slots has got through an epoch."""
    sweep = cluster.submit("study", *LONG, "--results", f"results/{name}")
    results = cluster.results / name

    def both() -> bool:
        return len({path.parent for path in checkpoints(results)}) == 2

    wait_for(lambda: both() or sweep.poll() is not None, "checkpoints of two trials")
    if sweep.poll() is not None:
        pytest.fail(sweep.communicate()[0])
    return sweep


def _ends_the_same(sweep: subprocess.Popen[str], results: Path, expected: Rows, same: Same) -> None:
    """A sweep that something happened to ends, and it can't be told from what it left."""
    _finish(sweep)
    same(results, expected)
    assert max(row["attempts"] for row in rows(results)["trials"]) > 1


def _finish(sweep: subprocess.Popen[str]) -> str:
    """The output of a sweep that finishes. `ray submit` itself ends with 0 whatever happens."""
    out, _ = sweep.communicate(timeout=240)
    assert "failed      0, diverged 0" in out, out
    return out
