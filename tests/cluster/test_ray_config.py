"""The cluster configurations as far as they can be checked without a cluster."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import doctor
from cluster.ray_config import ConfigError, check_config, machines, read_config, shared_folder

FOLDER = Path(__file__).parents[2] / "cluster"
ROOT = FOLDER.parent
Write = Callable[..., Path]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a key and a token, and a checkout's folder to stand in."""
    if not all(map(shutil.which, ("ssh", "ssh-keygen", "rsync"))):
        pytest.skip("needs ssh and rsync")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".git").mkdir()
    key = str(tmp_path / ".ssh" / "id_ed25519")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """The shipped configuration with some of its text replaced, in a file."""

    def write(name: str = "config.yaml", **replaced: str) -> Path:
        text = (FOLDER / name).read_text()
        for old, new in replaced.items():
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def problems(path: Path) -> dict[str, str]:
    """What to do, by what was looked at."""
    return {check.what: check.to_do for check in check_config(read_config(path)) if check.to_do}


def test_the_shipped_configuration_needs_nothing_but_its_values(
    secrets: Path, write: Write
) -> None:
    path = write()
    config = read_config(path)
    assert problems(path) == {}
    assert machines(config) == ("192.168.1.10", ["192.168.1.11", "192.168.1.12"])
    assert shared_folder(config) == "/shared/results"


def test_of_awss_only_the_image_is_left_to_fill_in(secrets: Path, write: Write) -> None:
    path = write("aws.yaml")
    assert set(problems(path)) == {"image of head", "image of gpu"}
    filled = write("aws.yaml", **{"ami-CHANGE-ME": "ami-0123456789abcdef0"})
    assert problems(filled) == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "what", "to_do"),
    [
        ("config.yaml", "192.168.1.12]", "192.168.1.11]", "addresses", "name 192.168.1.11 once"),
        ("config.yaml", ".11, 192", ".10, 192", "addresses", "name 192.168.1.10 once"),
        ("config.yaml", "provider:", "min_workers: 3\nprovider:", "number of workers", "at most"),
        ("config.yaml", ".git: .git", ".git: .gone", "what becomes ~/collapse-grid/.git", "folder"),
        ("config.yaml", "export RAY_AUTH_MODE=token", "true", "authentication", "before every"),
        ("config.yaml", "-host=127.0.0.1", "-host=0.0.0.0", "dashboard", "leave --dashboard-host"),
        ("config.yaml", "id_ed25519", "id_other", "ssh key", "there is no such file"),
        ("aws.yaml", "    max_workers: 8", "    max_workers: 0", "number of gpu", "at most"),
        ("aws.yaml", "g6.xlarge", "large", "machine of gpu", "an InstanceType such as"),
    ],
)
def test_what_ray_would_not_notice(
    secrets: Path, write: Write, name: str, old: str, new: str, what: str, to_do: str
) -> None:
    assert to_do in problems(write(name, **{old: new}))[what]


def test_secrets_that_others_can_read(secrets: Path, write: Write) -> None:
    (secrets / ".ssh" / "id_ed25519").chmod(0o644)
    (secrets / ".ray" / "auth_token").chmod(0o644)
    found = problems(write())
    assert found["ssh key"].startswith("others can read it (mode 0644): chmod 600 ~/.ssh")
    assert found["token"] == "others can read it (mode 0644): chmod 600 ~/.ray/auth_token"


def test_secrets_that_are_not_there(secrets: Path, write: Write) -> None:
    (secrets / ".ray" / "auth_token").unlink()
    assert "make one with `ray get-auth-token --generate`" in problems(write())["token"]


def test_a_key_with_a_passphrase(secrets: Path, write: Write) -> None:
    key = str(secrets / ".ssh" / "id_ed25519")
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret", "-f", key], check=True)
    assert "can't use it without asking" in problems(write())["ssh key"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "bad.yaml can't be read: while parsing a flow"),
        ("just words", "bad.yaml is not a cluster configuration of Ray"),
        ("loss: [ce, bce]", "bad.yaml is not a cluster configuration of Ray"),
        ("cluster_name: x\nprovider: {type: slurm}", "bad.yaml: Ray refuses it: .*slurm"),
        ("cluster_name: x\nprovider: {type: local}", "bad.yaml: Ray refuses it: .*head_ip"),
        (
            "cluster_name: x\nmax_wrokers: 3\nprovider: {type: local, head_ip: a, worker_ips: []}\n"
            "auth: {ssh_user: me}",
            "bad.yaml: .*'max_wrokers' was unexpected",
        ),
    ],
)
def test_what_is_no_configuration(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(path)
    assert doctor.main([str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert doctor.main([str(tmp_path / "nothing.yaml")]) == 2


def test_the_doctor_says_what_to_do(
    secrets: Path, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([str(write("aws.yaml"))]) == 1
    out = capsys.readouterr().out
    assert "config: image of gpu: name the image of your region" in out
    assert re.search(r"^2 of \d+ checks failed$", out, re.MULTILINE)


def test_every_machine_gets_the_same() -> None:
    """What two configurations have in common is in both, so that a change isn't made in one."""
    one, two = (yaml.safe_load((FOLDER / name).read_text()) for name in ("config.yaml", "aws.yaml"))
    assert one["file_mounts"] == two["file_mounts"]
    assert one["setup_commands"][-1] == two["setup_commands"][-1]
    assert set(one["setup_commands"][:2]) <= set(two["setup_commands"])


class TestKubeRay:
    """`kubectl` and the operator are not here; what they would refuse first is."""

    @pytest.fixture
    def job(self) -> dict[str, Any]:
        return yaml.safe_load((FOLDER / "kuberay.yaml").read_text())

    def test_worker_counts_and_versions(self, job: dict[str, Any]) -> None:
        spec = job["spec"]["rayClusterSpec"]
        image = re.search(r"rayproject/ray:([\d.]+)-", (FOLDER / "Dockerfile").read_text())
        assert image is not None
        assert spec["rayVersion"] == image[1]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]

    def test_mounts_are_volumes_and_images_are_one(self, job: dict[str, Any]) -> None:
        spec = job["spec"]["rayClusterSpec"]
        images = set()
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            volumes = {volume["name"] for volume in pod["volumes"]}
            for container in pod["containers"]:
                images.add(container["image"])
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
                assert container["resources"]["limits"]["memory"]
        assert len(images) == 1

    def test_its_command_is_one_of_ours(self, job: dict[str, Any]) -> None:
        from orchestrator.options import parse_options

        python, flag, module, *argv = job["spec"]["entrypoint"].split()
        assert (python, flag, module) == ("python", "-m", "orchestrator.sweep")
        assert parse_options(argv).where.results == "s3://my-bucket/run1"


class TestSlurm:
    """The script on a Slurm of three shell scripts, which tell what they were asked."""

    SRUN = 'echo "srun $*" >>"$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@"'
    TOOLS = {  # noqa: RUF012
        "srun": SRUN,
        "scontrol": 'echo "scontrol $*" >>"$CALLS"',
        "hostname": 'if [[ $* == --ip-address ]]; then echo "127.0.1.1 10.0.0.1"; else echo n1; fi',
        "ray": 'echo "ray $*" >>"$CALLS"; case $1 in start) exec sleep 60;;'
        ' list) printf \'"node_id"\\n"node_id"\\n\';; esac',
        "python": 'echo "python $*" >>"$CALLS"; [[ $2 == cluster.can_run ]] || eval "$SWEEP"',
    }

    @pytest.fixture
    def run(self, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
        bin_ = tmp_path / ".venv" / "bin"
        bin_.mkdir(parents=True)
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
        for name, body in self.TOOLS.items():
            (bin_ / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
            (bin_ / name).chmod(0o755)
        (bin_ / "activate").write_text(f"PATH={bin_}:$PATH\n")

        def run(sweep: str, *argv: str, nodes: int = 2, seconds: int = 90) -> tuple[int, list[str]]:
            calls = tmp_path / "calls"
            environment = {
                "PATH": os.environ["PATH"], "HOME": str(tmp_path), "CALLS": str(calls),
                "SWEEP": sweep, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "123",
                "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_CPUS_PER_TASK": "32",
                "SLURM_GPUS_ON_NODE": "8",
            }  # fmt: skip
            script = tmp_path / "slurm.sbatch"
            text = (FOLDER / "slurm.sbatch").read_text()
            assert "(sleep 90 && kill" in text
            script.write_text(text.replace("(sleep 90", f"(sleep {seconds}"))
            done = subprocess.run(
                ["bash", str(script), *argv], env=environment, capture_output=True, text=True
            )
            assert done.stderr == "", done.stderr
            return done.returncode, calls.read_text().splitlines()

        return run

    # What a sweep does: it waits until others have got so far.
    SEES = 'for _ in $(seq 600); do grep -q "^ray start {}" "$CALLS" && break; sleep 0.1; done; '
    ASKS = (
        "until ((0x$(awk '/^SigCgt/ {print $2}' /proc/$PPID/status) & 0x4000)); do sleep 0.01; "
        "done; kill -TERM $PPID; "
    )

    def test_a_head_its_workers_and_the_sweep(self, run: Callable) -> None:
        sweep = self.SEES.format("--head") + self.SEES.format("--address")
        code, calls = run(sweep, "--study", "full", "--seeds", "0", "1")
        assert code == 0
        head = next(call for call in calls if call.startswith("ray start --head"))
        assert "--node-ip-address=10.0.0.1 --port=20123 --dashboard-host=127.0.0.1" in head
        assert "--num-cpus=32 --num-gpus=8 --block" in head
        assert any(
            call.startswith("srun --nodes=1 --ntasks=1 --exclude=n1 --overlap") for call in calls
        )
        assert any(call.startswith("ray start --address 10.0.0.1:20123") for call in calls)
        sweep = "python -m orchestrator.sweep --address 10.0.0.1:20123 --study full --seeds 0 1"
        assert sweep in calls
        assert not any(call.startswith("scontrol") for call in calls)

    def test_on_one_node_there_are_no_others(self, run: Callable) -> None:
        _, calls = run(self.SEES.format("--head") + "sleep 0.5", nodes=1)
        assert sum(call.startswith("ray start") for call in calls) == 1

    @pytest.mark.parametrize("code", [1, 2])
    def test_the_sweeps_code_is_the_jobs(self, run: Callable, code: int) -> None:
        assert run(f"exit {code}")[0] == code

    def test_an_interrupted_sweep_is_queued_again(self, run: Callable) -> None:
        """By a signal to the script, as Slurm sends it, which the sweep answers in its own time."""
        body = "sleep 30 &>/dev/null & wait $!"
        code, calls = run(f'trap "sleep 0.2; exit 130" TERM; {self.ASKS}{body}')
        assert code == 130
        assert "scontrol requeue 123" in calls

    def test_an_epoch_that_does_not_end_in_time_is_given_up(self, run: Callable) -> None:
        body = (
            f"asked() {{ ((++n < 2)) || exit 130; }}; trap asked TERM; {self.ASKS}"
            "for _ in $(seq 600); do sleep 0.1; done"
        )
        begin = time.monotonic()
        code, calls = run(body, seconds=1)
        assert code == 130
        assert "scontrol requeue 123" in calls
        assert 1 <= time.monotonic() - begin < 50
