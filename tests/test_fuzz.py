"""Whatever a user writes, it is taken as given or refused in one line: never anything else."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from hypothesis import given
from hypothesis import strategies as st

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from analysis.store.schema import CONFIG_FIELDS
from orchestrator.options import parse_options
from orchestrator.plan.plan import make_plan
from orchestrator.plan.study import check_blocks, expand, load_study
from tests.fuzzing import FUZZ, ODD
from trainers.config import KWARGS, TrialConfig
from trainers.train import read_config

GOOD: dict[str, list[Any]] = {
    "dataset": ["digits", "cifar10", "labels", "synthetic", "folder/mine"],
    "num_classes": [2, 10],
    "samples_per_class": [1, 500],
    "imbalance": [1.5, 100],
    "image_size": [8, 224],
    "model": ["resnet18", "mlp", "ufm"],
    "model_kwargs": [{}, {"channels": [4, 4]}, {"a": {1: 2, "1": 3}}, {"hidden": [8]}],
    "loss": ["ce", "bce", "focal", "mse"],
    "loss_kwargs": [{}, {"gamma": 2.0}],
    "optimizer": ["sgd", "adamw", "lbfgs"],
    "lr": [0.1, 5e-4, 1],
    "momentum": [0, 0.9],
    "optimizer_kwargs": [{}, {"nesterov": True}],
    "schedule": ["step", "cosine", "constant"],
    "epochs": [1, 100],
    "augment": ["none", "da1", "da1+da2"],
    "rotation": [0, 15.0],
    "regularizer": ["features", "global"],
    "lambda_w": [0, 5e-4],
    "weight_decay": [0, 5e-4],
    "precision": ["fp32", "bf16", "fp16"],
    "compile": [True, False],
    "eval_every": [1, 5],
    "eval_dense": [0, 10],
    "seed": [0, 1, 2**32 - 1],
}
# What a trial can't do without.
NEEDED = ("dataset", "model", "loss", "optimizer")
HUGE = b"0x" + b"f" * 5000  # a number of more digits than Python prints
TREES = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=3), ODD), inner)
    ),
    max_leaves=5,
)


def a_value(name: str) -> st.SearchStrategy[Any]:
    good = st.sampled_from(GOOD[name]) if name in GOOD else st.sampled_from([0, 1, 10, 0.5])
    return st.one_of(good, good, good, good, ODD, TREES)


def some(names: st.SearchStrategy[list[str]], value: Any) -> st.SearchStrategy[dict[str, Any]]:
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: value(n) for n in chosen}))


def names(most: int) -> st.SearchStrategy[list[str]]:
    known = st.sampled_from(sorted(TrialConfig.model_fields))
    return st.lists(st.one_of(known, known, known, st.text(max_size=8)), unique=True, max_size=most)


BASE = st.fixed_dictionaries({name: st.sampled_from(GOOD[name]) for name in NEEDED})
FIELDS = st.builds(lambda base, more: base | more, BASE, some(names(4), a_value))


def taken(name: str, given: Any, value: Any) -> bool:
    """Whether a config's row shows what was given."""
    if name in KWARGS:
        return json.loads(value) == as_json(given)
    if isinstance(value, bool) and not isinstance(given, bool):
        return str(given).lower() in (
            ("1", "1.0", "true", "yes", "on", "t", "y")
            if value
            else ("0", "0.0", "-0.0", "false", "no", "off", "f", "n")
        )
    if isinstance(value, float | int):
        return float(given) == value
    return given == value


def as_json(value: Any) -> Any:
    """The same by JSON; a key that is there twice in it, as 1 and "1", is there twice here."""
    if isinstance(value, dict):
        keys = [next(iter(json.loads(json.dumps({key: 0})))) for key in value]
        assert len({*keys}) == len(keys), f"{value} was taken"
        return {key: as_json(inner) for key, inner in zip(keys, value.values(), strict=True)}
    return [as_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def check_taken(config: TrialConfig, given: Mapping[str, Any]) -> None:
    """Every given field is in the config, which can be stored and handed to a worker."""
    row = config.row()
    for name, value in given.items():
        choices = value if isinstance(value, list) else [value]
        if None not in choices:  # null leaves a field to the recipe
            assert any(taken(name, each, row[name]) for each in choices), (name, value, row[name])
    for field in CONFIG_FIELDS:
        pa.array([row[field.name]], field.type)
    sent = config.model_dump(exclude_none=True)
    assert TrialConfig.parse(sent).trial_id == config.trial_id


def check_refused(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


@FUZZ
@given(FIELDS)
def test_fields_of_a_trial(fields: dict[str, Any]) -> None:
    try:
        config = TrialConfig.parse(fields)
    except InputError as error:
        check_refused(error)
    else:
        check_taken(config, {name: [value] for name, value in fields.items()})


@FUZZ
@given(
    st.one_of(
        st.binary(max_size=30),
        TREES.map(lambda tree: json.dumps(tree, skipkeys=True).encode()),
        FIELDS.map(lambda fields: json.dumps(fields, skipkeys=True).encode()),
        st.sampled_from([b"[" * 5000, b'{"seed": ' + b"9" * 5000 + b"}"]),
    )
)
def test_a_trial_in_json(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.json"
        path.write_bytes(content)
        try:
            config = read_config(path)
        except InputError as error:
            check_refused(error)
        else:
            fields = json.loads(content)
            check_taken(config, {name: [value] for name, value in fields.items()})


AXES = st.builds(lambda base, more: base | more, BASE, some(
    names(4), lambda name: st.one_of(a_value(name), st.lists(a_value(name), max_size=2))
))  # fmt: skip
BLOCKS = st.one_of(st.lists(st.one_of(some(names(2), a_value), TREES), max_size=2), TREES)
STUDIES = st.builds(
    lambda axes, more: axes | more,
    AXES,
    st.one_of(
        st.just({}),
        st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("include", "exclude", "resources"), BLOCKS)
        ),
        st.fixed_dictionaries({}, optional={"plugins": ODD, "description": TREES}),
    ),
)


def as_yaml(content: Any) -> bytes:
    return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """With some bytes removed and others put in."""
    content = draw(whole)
    start = draw(st.integers(0, len(content)))
    put = draw(
        st.one_of(
            st.binary(max_size=3), st.sampled_from([b"&a ", b"*a", b"[" * 2000, b"!!int ", HUGE])
        )
    )
    return content[:start] + put + content[start + draw(st.integers(0, 3)) :]


@FUZZ
@given(st.one_of(STUDIES.map(as_yaml), damaged(STUDIES.map(as_yaml)), st.binary(max_size=40)))
def test_a_study_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mine.yaml"
        path.write_bytes(content)
        try:
            study = load_study(str(path))
            check_blocks(study, {})
            trials = expand(study)
        except InputError as error:
            check_refused(error)
            return
        for config in trials.values():
            allowed = [grid for grid in study.grids if _fits(config, grid)]
            assert allowed


def _fits(config: TrialConfig, grid: Mapping[str, Any]) -> bool:
    try:
        check_taken(config, grid)
    except AssertionError:
        return False
    return True


WORDS = st.one_of(
    st.builds(
        lambda name, value: f"{name}={json.dumps(value, skipkeys=True)}",
        st.one_of(st.sampled_from(sorted(TrialConfig.model_fields)), st.text(max_size=5)),
        st.one_of(st.sampled_from([value for values in GOOD.values() for value in values]), TREES),
    ),
    st.builds(
        "{}={}".format, st.sampled_from(["seed", "lr", "loss", "epochs"]), st.text(max_size=8)
    ),
    st.from_regex(r"(seed|lr|epochs|bias_init_mean)=[-+]?[0-9._:e]{1,6}", fullmatch=True),
    st.text(max_size=12),
)


@FUZZ
@given(
    st.lists(WORDS, max_size=2), st.sampled_from(["--set", "--seeds", "--epochs", "--limit"]), ODD
)
def test_settings_of_a_command(words: list[str], option: str, value: Any) -> None:
    argv = [part for word in words for part in ("--set", word)]
    argv += [] if option == "--set" else [option, str(value)]
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "mine.yaml"
        study.write_text(yaml.safe_dump({name: GOOD[name][0] for name in NEEDED}))
        try:
            what = parse_options(["--study", str(study), *argv]).what
            plan = make_plan(what, ResultStore(Path(folder) / "results"))
        except SystemExit:  # argparse's own line
            return
        except InputError as error:
            check_refused(error)
            return
    for word in what.settings:
        name, _, text = word.partition("=")
        check_text_taken([config.row() for config in plan.trials.values()], name.strip(), text)


def check_text_taken(rows: Sequence[Mapping[str, Any]], name: str, text: str) -> None:
    """Text that reads as a number was taken as that number."""
    try:
        number = float(text)
    except ValueError:
        return
    assert all(float(row[name]) == number for row in rows), (name, text)
