"""The command line and the dataclasses that it becomes: the same fields, defaults and checks."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.options import Options, Resources, Show, What, Where, _parser, parse_options
from orchestrator.plan.plan import make_plan

PARTS = (What, Where, Resources, Show)
EVERY_OPTION = [
    "--study", "a", "--study", "b.yaml", "--set", "lr=1", "--set", "epochs=2", "--seeds", "3", "4",
    "--epochs", "5", "--limit", "6", "--results", "r", "--data-dir", "d", "--no-download",
    "--dry-run", "--probe", "--rerun", "failed", "--max-concurrent", "7", "--workers", "auto",
    "--cpus-per-worker", "0.5", "--gpus-per-worker", "auto", "--address", "h:1", "--retries", "8",
    "--keep-checkpoints", "--tracking-uri", "http://h", "--no-mlflow", "--quiet",
]  # fmt: skip


def test_a_field_is_an_option_and_an_option_a_field_of_one_part() -> None:
    named = [each.name for part in PARTS for each in dataclasses.fields(part)]
    options = {action.dest for action in _parser()._actions} - {"help", "version"}
    assert sorted(named) == sorted(options)


def test_no_words_are_the_defaults() -> None:
    assert parse_options([]) == Options()


def test_every_option_arrives() -> None:
    assert parse_options(EVERY_OPTION) == Options(
        what=What(
            studies=("a", "b.yaml"),
            settings=("lr=1", "epochs=2"),
            seeds=(3, 4),
            epochs=5,
            limit=6,
            rerun="failed",
        ),
        where=Where(
            results="r",
            data_dir=Path("d"),
            download=False,
            keep_checkpoints=True,
            mlflow=False,
            tracking_uri="http://h",
        ),
        resources=Resources(
            workers="auto",
            cpus_per_worker=0.5,
            gpus_per_worker="auto",
            max_concurrent=7,
            retries=8,
            address="h:1",
        ),
        show=Show(dry_run=True, probe=True, quiet=True),
        argv=tuple(EVERY_OPTION),
    )
    given = parse_options(EVERY_OPTION)
    for name, part in zip(("what", "where", "resources", "show"), PARTS, strict=True):
        for each in dataclasses.fields(part):  # so that none of the above is a default
            assert getattr(getattr(given, name), each.name) != each.default, each.name


def test_options_do_not_change() -> None:
    for part in (*PARTS, Options):
        options = part()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, dataclasses.fields(options)[0].name, None)
        assert not hasattr(options, "__dict__")


@pytest.mark.parametrize(
    ("part", "given", "message"),
    [
        (What, {"limit": 0}, "--limit 0 must be at least 1"),
        (What, {"epochs": -3}, "--epochs -3 must be at least 1"),
        (What, {"seeds": (0, 1, 0)}, "--seeds has a seed twice; give each once"),
        (Resources, {"max_concurrent": 0}, "--max-concurrent 0 must be at least 1"),
        (Resources, {"retries": -1}, "--retries -1 must be at least 0"),
        (Resources, {"workers": 1.5}, "the command line: workers=1.5 must be a whole number"),
        (Resources, {"cpus_per_worker": "auto"}, "cpus_per_worker='auto' must be a number"),
        (Resources, {"gpus_per_worker": 1.5}, "must be 0, a part of one GPU from 0.0001, or 1"),
    ],
)
def test_a_number_out_of_range_is_refused_where_it_is_given(
    part: type, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        part(**given)
    assert message in str(error.value)


def test_a_plan_is_made_without_a_command_line(tmp_path: Path) -> None:
    plan = make_plan(What(studies=("digits",)), ResultStore(tmp_path / "results"))
    words = ["--study", "digits"]
    assert plan.trials
    assert plan == make_plan(parse_options(words).what, ResultStore(tmp_path / "results"))
    assert not (tmp_path / "results").exists()


def test_nothing_but_the_parser_knows_of_argparse() -> None:
    rooms = Path(__file__).parents[2] / "orchestrator"
    users = {
        path.relative_to(rooms).as_posix()
        for path in rooms.rglob("*.py")
        if "argparse" in path.read_text("utf-8")
    }
    assert users == {"options.py", "tracking/__main__.py"}
