import pandas as pd
import pytest

from analysis.store.errors import ResultsError
from analysis.trials import cells
from analysis.trials.cells import (
    blocks,
    classification_trials,
    collapse_trials,
    in_order,
    parse_kwargs,
    theory_trials,
)
from analysis.trials.load import load_results
from analysis.trials.measured import measured_trials
from tests.analysis.recorded_store import ADAMW, CLASSIFICATION, COLLAPSE, Store, channels
from trainers.config import TrialConfig
from trainers.recipes import Recipe

FIELDS = ("optimizer", "loss")
# Fields that set trials of one cell apart wherever they differ; `loss_kwargs`, where they differ
# within a loss. A field that is neither here nor among those of `cells` fails below: its trials
# could be averaged as if they differed in the seed.
VARIANTS = (
    "recipe_version", "num_classes", "samples_per_class", "imbalance", "image_size", "loss",
    "loss_kwargs", "optimizer", "batch_size", "augment", "rotation", "regularizer", "lambda_w",
    "lambda_h", "lambda_b", "bias_init_mean", "precision", "compile",
)  # fmt: skip


def _measured(store: Store) -> pd.DataFrame:
    return measured_trials(load_results(store.root))


def test_a_trial_is_known_once_however_many_studies_plan_it(store: Store) -> None:
    trial_id = store.add(COLLAPSE, {"nc1_train": 2.0})
    for study in ("b", "a"):
        store.study(study, {trial_id: COLLAPSE, "x": {**COLLAPSE, "seed": 1}})
    trials = _measured(store).set_index("trial_id")
    assert trials.index.tolist() == [trial_id, "x"]
    assert trials["status"].tolist() == ["finished", "not started"]
    assert trials["study"].tolist() == ["a", "a"]
    assert trials["nc1_train"].fillna(0.0).tolist() == [2.0, 0.0]
    assert trials["lr"].tolist() == [0.01, 0.01]  # the configured one, not an epoch's


def test_every_field_is_known_to_set_trials_apart_or_not_to() -> None:
    known = [*cells._NEVER_VARIANT, *cells._RECIPE_FIELDS, *VARIANTS]
    assert sorted(known) == sorted(TrialConfig.model_fields)


def test_what_the_recipe_gives_by_optimizer_is_no_variant_of_optimizers() -> None:
    assert set(Recipe._fields) <= cells._RECIPE_FIELDS


def test_seeds_are_no_variants(store: Store) -> None:
    for seed in (1, 0):
        store.add(COLLAPSE, {"nc1_train": seed + 0.5}, seed=seed)
    (block,) = blocks(_measured(store), FIELDS)
    assert (block.dataset, block.label) == ("cifar10", "resnet18")
    cell = block.cell(optimizer="sgd", loss="ce")
    assert cell.by_seed("nc1_train") == {0: 0.5, 1: 1.5}
    assert cell.is_complete
    assert not block.cell(optimizer="sgd", loss="bce").is_complete


def test_blocks_are_networks_and_variants_in_order(store: Store) -> None:
    for lambda_b in (0.05, 5e-4, 0.5):
        store.add(COLLAPSE, {"nc1_train": 1.0}, lambda_b=lambda_b)
    store.add(COLLAPSE, {"nc1_train": 1.0}, model_kwargs=channels(8, 16))
    store.add(COLLAPSE, {"nc1_train": 1.0}, dataset="mnist")
    assert [(block.dataset, block.label) for block in blocks(_measured(store), FIELDS)] == [
        ("cifar10", "resnet18 channels=8,16"),
        ("cifar10", "resnet18 (lambda_b=0.0005)"),
        ("cifar10", "resnet18 (lambda_b=0.05)"),
        ("cifar10", "resnet18 (lambda_b=0.5)"),
        ("mnist", "resnet18"),
    ]


def test_a_field_that_differs_between_losses_makes_variants(store: Store) -> None:
    store.add(COLLAPSE, {"nc1_train": 1.0}, samples_per_class=10)
    store.add(COLLAPSE, {"nc1_train": 1.0}, loss="bce")
    labels = [block.label for block in blocks(_measured(store), FIELDS)]
    assert labels == ["resnet18 (samples_per_class=10)", "resnet18 (samples_per_class=none)"]


def test_a_number_of_classes_makes_a_variant(store: Store) -> None:
    for num_classes in (5, 10):
        store.add(COLLAPSE, {"nc1_train": 1.0}, num_classes=num_classes)
    labels = [block.label for block in blocks(_measured(store), FIELDS)]
    assert labels == ["resnet18 (num_classes=5)", "resnet18 (num_classes=10)"]


def test_recipes_and_loss_parameters_of_their_own_make_none(store: Store) -> None:
    store.add(COLLAPSE, {"nc1_train": 1.0})
    store.add({**COLLAPSE, **ADAMW}, {"nc1_train": 1.0}, epochs=50)
    store.add(COLLAPSE, {"nc1_train": 1.0}, loss="focal", loss_kwargs='{"gamma": 2}')
    assert len(list(blocks(_measured(store), FIELDS))) == 1


def test_selections(store: Store) -> None:
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=0)
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=1, bias_init_mean=10.0)
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=2, model="ufm")
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=3, loss="focal")
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=4, loss_kwargs='{"smoothing": 0.1}')
    store.add(COLLAPSE, {"nc1_train": 1.0}, seed=5, lambda_h=0.0)
    store.add(CLASSIFICATION, {"nc1_train": 1.0}, seed=6)
    trials = _measured(store)
    assert collapse_trials(trials)["seed"].tolist() == [0, 3, 4, 5]
    assert theory_trials(trials)["seed"].tolist() == [0, 1, 2]
    assert classification_trials(trials)["seed"].tolist() == [6]


def test_small_helpers() -> None:
    assert in_order(["b", "adamw", "sgd", "b", "a"], ("sgd", "adamw")) == ["sgd", "adamw", "a", "b"]
    assert parse_kwargs('{"channels": [1, 2]}') == {"channels": [1, 2]}
    assert parse_kwargs(None) == parse_kwargs(float("nan")) == {}


@pytest.mark.parametrize(
    ("finished", "text"), [(1, "n=1 seed (1 planned trial not finished)"), (2, "n=2 seeds")]
)
def test_seeds_text_counts_what_is_missing(store: Store, finished: int, text: str) -> None:
    plan = {}
    for seed in range(2):
        status = "finished" if seed < finished else "failed"
        metrics = {"nc1_train": 1.0} if seed < finished else ()
        trial_id = store.add(COLLAPSE, metrics, status=status, seed=seed)
        plan[trial_id] = {**COLLAPSE, "seed": seed}
    store.study("a", plan)
    (block,) = blocks(_measured(store), FIELDS)
    assert block.seeds_text(FIELDS) == text


@pytest.mark.parametrize("name", ["regularizer", "seed"])
def test_a_trial_that_belongs_in_no_cell_is_refused(store: Store, name: str) -> None:
    store.add({**COLLAPSE, name: None}, {"nc1_train": 1.0})
    with pytest.raises(ResultsError, match=f"trial 000000000000 has no {name}; delete its file"):
        _measured(store)


@pytest.mark.parametrize("text", ["x", "[1]", "3"])
def test_keyword_arguments_that_are_none(store: Store, text: str) -> None:
    store.add(COLLAPSE, {"nc1_train": 1.0}, model_kwargs=text)
    with pytest.raises(ResultsError, match="of a trial are no JSON object"):
        list(blocks(_measured(store), FIELDS))
