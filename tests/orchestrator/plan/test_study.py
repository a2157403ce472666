"""Studies: their expansion into trials, and every mistake in one line with its place."""

import hashlib
from pathlib import Path

import pytest

from analysis.store.errors import InputError
from analysis.store.rows import ConfigRow
from orchestrator.plan.slots import Request
from orchestrator.plan.study import (
    check_blocks,
    expand,
    load_study,
    override,
    parse_study,
    parse_yaml,
    shipped,
)

BASE = "dataset: digits\nmodel: resnet18\noptimizer: sgd\n"


def trials(text: str) -> list[ConfigRow]:
    study = parse_study(BASE + text, name="mine", where="mine.yaml")
    return [config.row() for config in expand(study).values()]


# Count and fingerprint of the ids of every shipped study: a change here renames users' trials.
SHIPPED = {
    "bias_decay": (24, "769d92f9861f"),
    "bias_init": (36, "185512ccc848"),
    "classification": (48, "11c718b181a3"),
    "digits": (28, "decfa6570023"),
    "full": (1944, "7da8bcc4b20f"),
    "neural_collapse": (36, "716440563276"),
    "ufm": (70, "8871724abf69"),
}


def test_every_shipped_study_is_pinned() -> None:
    assert shipped() == sorted(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_ids_of_shipped_studies_do_not_drift(name: str) -> None:
    ids = list(expand(load_study(name)))
    fingerprint = hashlib.sha256(" ".join(sorted(ids)).encode()).hexdigest()[:12]
    assert (len(ids), fingerprint) == SHIPPED[name]


def test_lists_make_axes_and_the_rest_is_fixed() -> None:
    rows = trials("loss: [ce, bce]\nseed: [0, 1, 2]\nlr: 5e-2")
    assert [(r["loss"], r["seed"]) for r in rows] == [
        ("ce", 0), ("ce", 1), ("ce", 2), ("bce", 0), ("bce", 1), ("bce", 2),
    ]  # fmt: skip
    assert {r["lr"] for r in rows} == {0.05}  # YAML 1.1 would have read 5e-2 as text


def test_include_adds_grids_over_the_base_and_common_trials_run_once() -> None:
    rows = trials("loss: [ce, bce]\ninclude:\n- {lambda_b: [0, 5e-4]}\n- {loss: ce, lr: null}")
    assert [(r["loss"], r["lambda_b"]) for r in rows] == [
        ("ce", 5e-4), ("bce", 5e-4), ("ce", 0), ("bce", 0),
    ]  # fmt: skip


def test_exclude_removes_what_it_matches() -> None:
    rows = trials("loss: [ce, bce]\nseed: [0, 1]\nexclude:\n- {loss: ce, seed: [1, 2]}")
    assert [(r["loss"], r["seed"]) for r in rows] == [("ce", 0), ("bce", 0), ("bce", 1)]


def test_an_exclude_that_matches_nothing_is_told() -> None:
    text = BASE + "loss: [ce, bce]\nexclude: [{loss: bce}, {loss: ce, seed: 9}]"
    study = parse_study(text, name="mine", where="mine.yaml")
    with pytest.raises(InputError, match=r"exclude \{'loss': 'ce', 'seed': 9\} matches no trial"):
        check_blocks(study, {})
    check_blocks(study, {"seed": [8, 9]})  # what is asked for has it


def test_what_the_command_line_completes_is_no_mistake() -> None:
    text = "dataset: digits\nloss: ce\noptimizer: sgd\nresources: [{model: mlp, workers: 2}]"
    study = parse_study(text, name="mine", where="mine.yaml")
    check_blocks(study, {"model": "mlp"})
    (config,) = expand(override(study, {"model": "mlp"})).values()
    assert study.request(config) == Request(workers=2)


def test_a_long_axis_of_the_command_line_is_told_in_short() -> None:
    study = override(load_study("digits"), {"seed": [*range(10_000)], "lr": -1})
    with pytest.raises(InputError, match=r"digits with seed=\[0, 1, .{1,40}\.\.\.\], lr=-1: "):
        expand(study)


def test_override_replaces_in_every_grid() -> None:
    study = load_study("digits")
    found = expand(override(study, {"seed": [7], "epochs": 2}))
    assert {(c.seed, c.epochs) for c in found.values()} == {(7, 2)}


def test_two_studies_share_their_common_trials() -> None:
    init, full = (set(expand(load_study(name))) for name in ("bias_decay", "full"))
    assert init < full


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: [ce, bec]", r"mine\.yaml: loss='bec' .* did you mean 'bce'\?"),
        ("los: ce", r"mine\.yaml: 'los' is not a known field; did you mean 'loss'\?"),
        ("loss: []", r"mine\.yaml: loss is an axis without values"),
        ("loss: ce\nlambda_b: [5e-4, -1]", r"mine\.yaml: lambda_b=-1 must be greater"),
        ("loss: ce\ninclude: [{seeds: 1}]", r"mine\.yaml: 'seeds' .* did you mean 'seed'\?"),
        ("loss: ce\nexclude: [{sed: 1}]", r"mine\.yaml: 'sed' .* did you mean 'seed'\?"),
        ("loss: ce\ninclude: {seed: 1}", r"mine\.yaml: include must be a list of blocks"),
        ("loss: ce\nexclude: [{loss: ce}]", r"mine\.yaml: no trial is left"),
        ("loss: ce\ndescription: [a]", r"mine\.yaml: description=\['a'\] must be text"),
        ("loss: ce\nplugins: mine", r"mine\.yaml: plugins='mine' must be a list"),
        ("loss: [ce, bce", r"mine\.yaml, line \d: malformed YAML"),
        ("loss: ce\n\tseed: 1", r"mine\.yaml, line 5: malformed YAML"),
        (
            "loss: ce\nseed: 1\nseed: 2",
            r"mine\.yaml, line 6: malformed YAML: 'seed' is given twice",
        ),
        ("loss: !!python/object:os.system ls", r"mine\.yaml, line 4: malformed YAML"),
        ("loss: ce\nseed: !!int abc", r"mine\.yaml: malformed YAML: invalid literal"),
        ("loss: ce\nmodel_kwargs: &a {x: *a}", r"mine\.yaml.*: (malformed YAML|model_kwargs must)"),
        ("loss: ce\nmodel_kwargs: {x: .inf}", r"mine\.yaml: model_kwargs must hold .* finite"),
        ("loss: ce\nmodel_kwargs: {x: !!binary aGk=}", r"mine\.yaml: model_kwargs must hold names"),
        ("loss: " + "[" * 3000, r"mine\.yaml: malformed YAML"),
        ("loss: ce\nbatch_size: 3000000000", r"batch_size=3000000000 must be less than 2147483648"),
        ("loss: ce\nepochs: 1e+30", r"mine\.yaml: epochs=1e\+30 can't be taken: "),
        ("loss: ce\nlr: 1:30", r"mine\.yaml: lr='1:30' must be a valid number"),
        ("loss: ce\nseed: 0x" + "f" * 5000, r"mine\.yaml: malformed YAML: a number of 5002 digits"),
        ("loss: ce\nlr: !!float ''", r"mine\.yaml: malformed YAML"),
        ("loss: ce\ncompile: !!bool maybe", r"mine\.yaml: malformed YAML"),
        ("loss: ce\ndescription: !!timestamp x", r"mine\.yaml: malformed YAML"),
        ("loss: ce\nexclude: 0", r"mine\.yaml: exclude must be a list of blocks"),
        ("loss: ce\nplugins: false", r"mine\.yaml: plugins=False must be a list"),
        ("loss: ce\nplugins: [1]", r"mine\.yaml: plugins=\[1\] must be a list"),
        ("", r"mine\.yaml: loss is missing"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        trials(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("08", 8), ("0x1F", 31), ("0o17", 15), ("+3", 3), ("1e3", 1000)],
)
def test_whole_numbers_are_those_of_yaml_1_2(text: str, value: int) -> None:
    (row,) = trials(f"loss: ce\nseed: {text}")
    assert row["seed"] == value


def test_dates_are_names_and_blocks_can_be_merged() -> None:
    """Both as YAML 1.2 and as people write them."""
    content = parse_yaml("dataset: 2020-01-01\nbase: &b {lr: 1, seed: 2}\nnext: {<<: *b, seed: 3}",
                         where="mine.yaml")  # fmt: skip
    assert content["dataset"] == "2020-01-01"
    assert content["next"] == {"lr": 1, "seed": 3}


@pytest.mark.parametrize("name", [".mine.yaml", "folder/_mine.yaml"])
def test_a_study_that_readers_would_take_for_hidden(name: str) -> None:
    with pytest.raises(InputError, match="its name must begin with neither a dot nor _"):
        load_study(name)


@pytest.mark.parametrize("text", ["", "- a\n- b", "just words"])
def test_a_study_is_a_mapping(text: str) -> None:
    with pytest.raises(InputError, match="a study is a mapping"):
        parse_study(text, name="mine", where="mine.yaml")


def test_unknown_and_missing_studies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'digit' .* did you mean 'digits'\?"):
        load_study("digit")
    with pytest.raises(InputError, match=r"nothing\.yaml can't be read: No such file"):
        load_study(str(tmp_path / "nothing.yaml"))
    (tmp_path / "mine.yaml").write_text(BASE + "loss: ce\n")
    assert load_study(str(tmp_path / "mine.yaml")).name == "mine"


def test_values_on_the_command_line_are_yaml() -> None:
    assert parse_yaml("[5e-4, 0.5]", where="--set") == [5e-4, 0.5]
    assert parse_yaml("da1+da2", where="--set") == "da1+da2"
    with pytest.raises(InputError, match="--set x, line 1: malformed"):
        parse_yaml("[1", where="--set x")
