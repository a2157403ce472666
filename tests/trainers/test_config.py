"""TrialConfig: what it fills in, what it refuses, and when two trials are one."""

import hashlib
import json
from collections.abc import Callable
from typing import Any, Literal

import pytest

from analysis.store.errors import InputError
from analysis.store.schema import CONFIG_FIELDS
from trainers.config import UNSAID, TrialConfig

BASE: dict[str, Any] = {"dataset": "cifar10", "model": "resnet18", "loss": "ce", "optimizer": "sgd"}


def parse(**fields: Any) -> TrialConfig:
    return TrialConfig.parse({**BASE, **fields})


def test_recipe_by_optimizer() -> None:
    sgd, adamw = parse(), parse(optimizer="adamw")
    assert (sgd.lr, sgd.schedule, sgd.momentum, sgd.weight_decay) == (0.01, "step", 0.9, None)
    assert (adamw.lr, adamw.schedule, adamw.momentum) == (0.001, "cosine", None)
    assert (sgd.lambda_w, sgd.lambda_h, sgd.lambda_b) == (5e-4, 5e-4, 5e-4)
    assert (sgd.epochs, sgd.batch_size, sgd.num_classes, sgd.image_size) == (100, 128, 10, 32)


def test_global_regularizer_has_a_decay_and_no_lambdas() -> None:
    sgd, adamw = parse(regularizer="global"), parse(regularizer="global", optimizer="adamw")
    assert (sgd.weight_decay, adamw.weight_decay) == (5e-4, 0.05)
    assert sgd.lambda_w is sgd.lambda_h is sgd.lambda_b is None


@pytest.mark.parametrize(
    "same",
    [
        {"lr": 0.01},
        {"lr": "1e-2"},
        {"lambda_b": "5e-4"},
        {"lambda_b": 0.0005},
        {"epochs": 100, "schedule": "step", "seed": 0, "num_classes": 10, "model_kwargs": {}},
        {"bias_init_mean": 0},
        {"bias_init_mean": 0.0},
    ],
)
def test_an_explicit_default_is_the_same_trial(same: dict[str, Any]) -> None:
    assert parse(**same).trial_id == parse().trial_id


def test_numbers_of_any_spelling_are_one_trial() -> None:
    assert parse(lr=1).trial_id == parse(lr=1.0).trial_id
    with_int = parse(model_kwargs={"drop_rate": 0, "channels": [8, 8, 8, 8]})
    with_float = parse(model_kwargs={"channels": [8.0, 8, 8, 8], "drop_rate": 0.0})
    assert with_int.trial_id == with_float.trial_id


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"lr": 0.02}, {"loss": "bce"}, {"lambda_b": 0}, {"epochs": 99}]
)
def test_anything_that_changes_the_result_changes_the_id(other: dict[str, Any]) -> None:
    assert parse(**other).trial_id != parse().trial_id


def test_id_is_the_hash_of_the_canonical_json() -> None:
    config = parse(bias_init_mean=2, seed=3)
    assert config.canonical() == (
        '{"bias_init_mean":2,"dataset":"cifar10","image_size":32,"lambda_b":0.0005,'
        '"lambda_h":0.0005,"lambda_w":0.0005,"loss":"ce","lr":0.01,"model":"resnet18",'
        '"momentum":0.9,"num_classes":10,"optimizer":"sgd","schedule":"step","seed":3}'
    )
    assert config.trial_id == hashlib.sha256(config.canonical().encode()).hexdigest()[:12]


def test_every_field_is_a_column() -> None:
    assert [field.name for field in CONFIG_FIELDS] == list(TrialConfig.model_fields)
    assert parse().row().keys() == TrialConfig.model_fields.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "bec"}, r"^loss='bec' is not a known loss; did you mean 'bce'\?"),
        ({"optimizer": "adamww"}, r"^optimizer='adamww' is .*did you mean 'adamw'\?"),
        ({"dataset": "cifar11"}, r"^dataset='cifar11' is .*did you mean 'cifar10.*'\?"),
        ({"optimiser": "sgd"}, r"^'optimiser' is not a known field; did you mean 'optimizer'\?"),
        ({"lambda_b": -1}, "^lambda_b=-1 must be greater than or equal to 0"),
        ({"lambda_w": float("nan")}, "^lambda_w=nan must be"),
        ({"lr": 0}, "^lr=0 must be greater than 0"),
        (
            {"lr": 9e-6, "schedule": "cosine"},
            "^lr=9e-06 is below 1e-05, where schedule=",
        ),
        ({"lr": "fast"}, "^lr='fast' must be a valid number"),
        ({"epochs": 0}, "^epochs=0 must be greater"),
        ({"epochs": 1.5}, "^epochs=1.5 must be a valid integer"),
        ({"momentum": 1}, "^momentum=1 must be less than 1"),
        ({"schedule": "stp"}, "^schedule='stp' must be 'step', 'cosine' or 'constant'"),
        ({"augment": "da2"}, "^augment='da2' must be"),
        ({"num_classes": 11}, "^num_classes=11 must be from 2 to 10 for cifar10"),
        ({"seed": -1}, "^seed=-1 must be"),
        ({"regularizer": "global", "lambda_b": 0.1}, "^lambda_b=0.1 has no effect"),
        ({"weight_decay": 0.1}, "^weight_decay=0.1 has no effect"),
        ({"optimizer": "adamw", "momentum": 0.9}, "^momentum=0.9 has no effect"),
        ({"optimizer": "lbfgs", "regularizer": "global"}, "needs a weight_decay"),
        ({"dataset": "labels"}, "^image_size=32 |samples_per_class|needs images"),
        ({"dataset": "labels", "samples_per_class": 4}, "use model=ufm"),
        (
            {"dataset": "folder/x", "num_classes": 2**31},
            "^num_classes=2147483648 must be from 2 to",
        ),
        ({"dataset": "folder/\ud800", "num_classes": 2}, r"^dataset='folder/\\ud800' must be text"),
        (
            {"model_kwargs": {"a": {1: 2, "1": 3}}},
            "^model_kwargs must hold names, .*1 is not a name",
        ),
        (
            {"augment": "da1", "image_size": 7},
            "^augment=da1 crops by an eighth of a side, which is no pixel at image_size=7; use 8",
        ),
        ({"augment": "da1+da2", "image_size": 4}, r"^augment=da1\+da2 crops by an eighth"),
        ({"model": "ufm", "image_size": 16}, "^image_size=16 has no effect with model=ufm"),
        ({"model": "ufm", "augment": "da1"}, "^augment=da1 has no effect with model=ufm"),
    ],
)
def test_a_mistake_is_one_line_with_field_value_and_what_to_do(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        parse(**fields)
    assert "\n" not in str(error.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match=r"^trial\.json: model is missing"):
        TrialConfig.parse(
            {"dataset": "digits", "loss": "ce", "optimizer": "sgd"}, where="trial.json"
        )


@pytest.mark.slow  # imports timm
def test_a_model_that_timm_lacks_gets_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"^model='resnet81' .* did you mean 'resnet18'\?"):
        parse(model="resnet81")
    assert parse(model="resnet34").model == "resnet34"


def test_every_default_has_its_place_in_the_ids() -> None:
    fields = TrialConfig.model_fields
    assert set(UNSAID) == {name for name, field in fields.items() if not field.is_required()}
    # Until a default changes; then this line says which.
    assert {name: fields[name].default for name in UNSAID} == dict(UNSAID)


def test_a_raised_recipe_version_renames_every_trial(tiny: Callable[..., TrialConfig]) -> None:
    class Raised(TrialConfig):
        recipe_version: Literal[2] = 2  # pyright: ignore

    now = tiny()
    raised = Raised(**now.model_dump(exclude={"recipe_version"}, exclude_none=True))
    assert raised.trial_id != now.trial_id
    assert json.loads(raised.canonical()) == {**json.loads(now.canonical()), "recipe_version": 2}


def test_a_changed_default_renames_no_training(tiny: Callable[..., TrialConfig]) -> None:
    class Changed(TrialConfig):
        epochs: int = 200
        rotation: float = 15.0

    given = tiny().model_dump(exclude={"epochs", "rotation"}, exclude_none=True)
    assert Changed(**given).trial_id == TrialConfig(**given, epochs=200, rotation=15).trial_id
    assert Changed(**given, epochs=100, rotation=0).trial_id == TrialConfig(**given).trial_id
