"""Studies: named grids in YAML, and their expansion into trials. Pure but for reading the file.

A study names fields of TrialConfig. A list makes an axis, anything else is fixed. Blocks under
`include` add grids, each laid over the study's own fields; `exclude` removes what it matches.
Those under `resources` give what they match workers, CPUs and GPUs, which are not in a trial's id.
"""

import itertools
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from analysis.store.errors import InputError, unknown
from orchestrator.plan.slots import REQUEST_KEYS, Request, parse_request
from trainers.config import TrialConfig

MOST_DIGITS: Final = 400  # more than any float has; Python doesn't even print 5,000
Grid = Mapping[str, Any]
NOT_FIELDS: Final = ("description", "plugins", "include", "exclude", "resources")


@dataclass(frozen=True)
class Study:
    """A named union of grids, less what is excluded."""

    name: str
    grids: tuple[Grid, ...]
    exclude: tuple[Grid, ...] = ()
    plugins: tuple[str, ...] = ()
    where: str = ""  # the file, for messages
    resources: tuple[tuple[Grid, Request], ...] = ()

    def request(self, config: TrialConfig) -> Request:
        """What the last block under `resources` that matches says; the default if none does."""
        matching = (asked for block, asked in reversed(self.resources) if _matches(config, block))
        return next(matching, Request())


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 5e-4 as a number, as YAML 1.2 does, and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if (
                key_node.tag == "tag:yaml.org,2002:merge"
            ):  # `<<: *other`, which our own keys override
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


# Numbers as YAML 1.2 has them: 5e-4 is one; 010 is ten, not eight; 1:30 is not ninety but a name,
# as is 2020-01-01.
_OTHERS: Final = ("timestamp", "int", "float")
_NUMBERS: Final = {
    "int": r"[-+]?\d+|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(_OTHERS)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind, pattern in _NUMBERS.items():  # a whole number matches both: the first counts
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{kind}", re.compile(f"^({pattern})$"), list("-+.0123456789")
    )


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text, 0 if text[:2] in ("0x", "0o") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    files = resources.files("orchestrator.studies").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def load_study(name: str) -> Study:
    """Read a shipped study by name, or a user's by its path. Raises InputError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if path.name.startswith((".", "_")):  # as readers of Parquet have it, that is a hidden file
            raise InputError(f"study {name}: its name must begin with neither a dot nor _")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"study {name} can't be read: {reason}") from error
        return parse_study(text, name=path.stem, where=name)
    if name not in shipped():
        raise InputError(f"{unknown('study', name, shipped())}; or give the path of a .yaml file")
    text = resources.files("orchestrator.studies").joinpath(f"{name}.yaml").read_text("utf-8")
    return parse_study(text, name=name, where=f"study {name}")


def parse_yaml(text: str, *, where: str) -> Any:
    """Safe YAML. Raises InputError with the line of a mistake."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line}: malformed YAML: {error.problem}") from error
    except (
        yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        # Also a value that isn't what its tag says, or an alias inside itself.
        raise InputError(f"{where}: malformed YAML: {' '.join(str(error).split())}") from error


def parse_study(text: str, *, name: str, where: str) -> Study:
    """A study from its YAML text. Raises InputError naming `where`."""
    content = parse_yaml(text, where=where)
    if not isinstance(content, dict):
        found = "nothing" if content is None else repr(content)
        raise InputError(f"{where}: a study is a mapping of fields to values, not {found}")
    base = {key: value for key, value in content.items() if key not in NOT_FIELDS}
    include = _blocks(content, "include", where)
    exclude = _blocks(content, "exclude", where)
    _check_block(base, where, NOT_FIELDS)
    for block in (*include, *exclude):
        _check_block(block, where)
    plugins = content.get("plugins")
    plugins = [] if plugins is None else plugins
    description = content.get("description")
    if not isinstance(description, str | None):
        raise InputError(f"{where}: description={description!r} must be text")
    if not isinstance(plugins, list) or not all(isinstance(each, str) for each in plugins):
        raise InputError(f"{where}: plugins={plugins!r} must be a list of module names")
    grids = (base, *(base | block for block in include))
    resources = tuple(_resources(content, where))
    return Study(name, grids, tuple(exclude), tuple(plugins), where, resources)


def _resources(content: Mapping[str, Any], where: str) -> Iterator[tuple[Grid, Request]]:
    for block in _blocks(content, "resources", where):
        taken = {key: value for key, value in block.items() if key in REQUEST_KEYS}
        if not taken:
            raise InputError(f"{where}: resources {block} needs one of {', '.join(REQUEST_KEYS)}")
        matched = {key: value for key, value in block.items() if key not in REQUEST_KEYS}
        _check_block(matched, where, tuple(REQUEST_KEYS))
        yield matched, parse_request(taken, f"{where}: resources")


def _blocks(content: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    blocks = content.get(key)
    blocks = [] if blocks is None else blocks
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InputError(f"{where}: {key} must be a list of blocks of fields")
    return blocks


def _check_block(block: Grid, where: str, more: Sequence[str] = ()) -> None:
    """`more`: what may be written beside a block's fields, to be suggested for a misspelt one."""
    for key, value in block.items():
        if key not in TrialConfig.model_fields:
            known = sorted({*TrialConfig.model_fields, *more})
            raise InputError(f"{where}: {unknown('field', str(key), known)}")
        if isinstance(value, list) and not value:
            raise InputError(f"{where}: {key} is an axis without values; give it at least one")
        if isinstance(value, list):
            _check_each_once(key, value, where)


def _check_each_once(key: str, values: list[Any], where: str) -> None:
    try:
        if len(set(values)) == len(values):
            return
    except TypeError:  # dictionaries have no hash
        pass
    for number, value in enumerate(values):
        if value in values[:number]:
            raise InputError(f"{where}: {key} has {value!r} twice; give each value once")


def override(study: Study, settings: Grid) -> Study:
    """The study with fields set in all of its grids; a list makes an axis. Raises InputError."""
    _check_block(settings, "--set")
    grids = tuple({**grid, **settings} for grid in study.grids)
    given = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in settings.items())
    return replace(study, grids=grids, where=f"{study.where} with {given}") if given else study


def check_blocks(study: Study, settings: Grid) -> None:
    """Raises InputError for a block that matches no trial, neither as written nor as overridden."""
    sized = [block for block, _ in study.resources]
    if not (study.exclude or sized):
        return
    everything = replace(study, exclude=())
    trials = [*expand(override(everything, settings)).values()]
    with suppress(InputError):  # it may be complete only with what the command line sets
        trials += expand(everything).values()
    _check_matched(study, "exclude", study.exclude, trials)
    _check_matched(study, "resources", sized, trials)


def _check_matched(
    study: Study, key: str, blocks: Iterable[Grid], trials: Collection[TrialConfig]
) -> None:
    for block in blocks:
        if not any(_matches(config, block) for config in trials):
            raise InputError(
                f"{study.where}: {key} {dict(block)} matches no trial; correct or remove it"
            )


def expand(study: Study) -> dict[str, TrialConfig]:
    """Every trial of a study by its id, in the study's order. Raises InputError."""
    trials: dict[str, TrialConfig] = {}
    for grid in study.grids:
        for fields in _product(grid):
            config = TrialConfig.parse(fields, where=study.where)
            if not any(_matches(config, block) for block in study.exclude):
                trials.setdefault(config.trial_id, config)
    if not trials:
        raise InputError(f"{study.where}: no trial is left; loosen exclude")
    return trials


def _product(grid: Grid) -> Iterator[dict[str, Any]]:
    axes = [value if isinstance(value, list) else [value] for value in grid.values()]
    for values in itertools.product(*axes):
        yield dict(zip(grid.keys(), values, strict=True))


def _matches(config: TrialConfig, block: Grid) -> bool:
    return all(
        getattr(config, key) in (value if isinstance(value, list) else [value])
        for key, value in block.items()
    )
