"""What can be said of a cluster's YAML before any machine is asked: Ray's own checks, and more."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]
TOKEN = "~/.ray/auth_token"


class ConfigError(ValueError):
    """Not a configuration that Ray would take; the message is one line."""


@dataclass(frozen=True)
class Check:
    """Something looked at: where, what, what was found, and what to do if that is wrong."""

    where: str
    what: str
    found: str
    to_do: str | None = None  # None: all is well

    @property
    def ok(self) -> bool:
        """Whether there is nothing to do."""
        return self.to_do is None


def read_config(path: Path) -> Config:
    """A cluster's YAML as written. Raises ConfigError if Ray wouldn't take it."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} can't be read: {_one_line(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("provider"), dict):
        raise ConfigError(f"{path} is not a cluster configuration of Ray: it names no provider")
    _check_by_ray(config, path)
    return config


def _check_by_ray(config: Config, path: Path) -> None:
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()  # Ray prints what is wrong and raises an exception that says nothing
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        raise ConfigError(f"{path}: {where + ': ' if where else ''}{error.message}") from error
    except (click.ClickException, ValueError, KeyError, TypeError, NotImplementedError) as error:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
        raise ConfigError(f"{path}: Ray refuses it: {_one_line(plain or error)}") from error


def check_config(config: Config) -> Iterator[Check]:
    """What Ray doesn't look at."""
    yield from _worker_counts(config)
    if config["provider"]["type"] == "local":
        yield _addresses(config)
        yield _programs()
        yield _key(config)
    if config["provider"]["type"] == "aws":
        yield from _instances(config)
    yield from _mounts(config)
    yield from _doors(config)


def machines(config: Config) -> tuple[str, list[str]]:
    """The head's address and the workers', of provider `local`."""
    return config["provider"]["head_ip"], list(config["provider"]["worker_ips"])


def shared_folder(config: Config) -> str | None:
    """The folder that the configuration links ~/results to, if it does."""
    for command in config.get("initialization_commands") or []:
        words = shlex.split(command, comments=True)
        if words[:1] == ["ln"] and words[-1] == "~/results":
            return words[-2]
    return None


def _worker_counts(config: Config) -> Iterator[Check]:
    here, most = "config", config.get("max_workers")
    if config["provider"]["type"] == "local":
        types = {"workers": {**config, "max_workers": len(machines(config)[1])}}
    else:
        types = config.get("available_node_types", {})
    for name, node in types.items():
        low, high = node.get("min_workers", 0), node.get("max_workers", most)
        found = f"{low} to {'any' if high is None else high}"
        wrong = high is not None and low > high
        to_do = "make min_workers at most max_workers" if wrong else None
        yield Check(here, f"number of {name}", found, to_do)


def _addresses(config: Config) -> Check:
    head, workers = machines(config)
    found = f"head {head}, {len(workers)} workers"
    every = [head, *workers]
    twice = sorted({ip for ip in every if every.count(ip) > 1})
    return Check("config", "addresses", found, f"name {', '.join(twice)} once" if twice else None)


def _programs() -> Check:
    absent = [name for name in ("ssh", "ssh-keygen", "rsync") if not shutil.which(name)]
    to_do = f"install {', '.join(absent)}: Debian has them in openssh-client and rsync"
    return Check("here", "programs", "ssh, rsync", to_do if absent else None)


def _key(config: Config) -> Check:
    name = config["auth"].get("ssh_private_key")
    if not name:
        to_do = "name a private key at auth.ssh_private_key; the head needs it to reach the workers"
        return Check("here", "ssh key", "none", to_do)
    return Check("here", "ssh key", name, _problem_of_secret(name) or _passphrase(name))


def _problem_of_secret(name: str) -> str | None:
    path = Path(name).expanduser()
    if not path.is_file():
        return f"there is no such file: make {name}, or name another"
    mode = path.stat().st_mode & 0o777
    return f"others can read it (mode {mode:04o}): chmod 600 {name}" if mode & 0o077 else None


def _passphrase(name: str) -> str | None:
    if not shutil.which("ssh-keygen"):
        return None  # said already
    path = str(Path(name).expanduser())
    command = ["ssh-keygen", "-y", "-P", "", "-f", path]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return None
    return f"ssh-keygen can't use it without asking ({_one_line(done.stderr)}); name another key"


def _instances(config: Config) -> Iterator[Check]:
    for name, node in config.get("available_node_types", {}).items():
        found = str(node["node_config"].get("InstanceType", "none"))
        known = re.fullmatch(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", found)
        to_do = None if known else "give node_config an InstanceType such as g6.xlarge"
        yield Check("config", f"machine of {name}", found, to_do)
        image = str(node["node_config"].get("ImageId", "none"))
        to_do = "name the image of your region at ImageId, as the comment there says how to find"
        is_id = re.fullmatch(r"ami-[0-9a-f]{8,17}", image)
        yield Check("config", f"image of {name}", image, None if is_id else to_do)


def _mounts(config: Config) -> Iterator[Check]:
    for remote, local in (config.get("file_mounts") or {}).items():
        if local == TOKEN:
            to_do = _problem_of_secret(local)
            if to_do and "no such" in to_do:
                to_do = "make one with `ray get-auth-token --generate`, then chmod 600 " + TOKEN
            yield Check("here", "token", local, to_do)
        else:
            there = Path(local).expanduser().exists()
            to_do = None if there else "it isn't here: run this in the checkout's folder"
            yield Check("here", f"what becomes {remote}", str(local), to_do)


def _doors(config: Config) -> Iterator[Check]:
    """Whether strangers stay out."""
    commands = [
        command
        for key, value in config.items()
        if key.endswith("_commands")
        for command in value or []
    ]
    on = any("RAY_AUTH_MODE=token" in command for command in commands)
    to_do = "export RAY_AUTH_MODE=token before every `ray start`, as in cluster/config.yaml"
    yield Check("config", "authentication", "token" if on else "none", None if on else to_do)
    hosts = re.findall(r"--dashboard-host[= ](\S+)", " ".join(commands))
    open_to_all = [host for host in hosts if host not in ("127.0.0.1", "localhost", "::1")]
    to_do = "leave --dashboard-host at 127.0.0.1 and use `ray dashboard`" if open_to_all else None
    yield Check("config", "dashboard", ", ".join(hosts) or "127.0.0.1", to_do)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:300]
