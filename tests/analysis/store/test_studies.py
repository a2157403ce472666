from pathlib import Path

import pytest

from analysis.store.errors import ResultsError
from analysis.store.studies import parse_recorded
from analysis.trials.load import load_results, plan_frame
from tests.analysis.recorded_store import CLASSIFICATION, COLLAPSE, Store

STUDY = """
study: digits
command: python orchestrator/sweep.py --study digits
schema_version: 1
fixed: {dataset: digits, lambda_w: 5e-4}
trials:
  0123456789ab: {loss: ce, seed: 0}
  ba9876543210: {loss: bce, seed: 1}
"""


def test_plan_has_a_row_per_trial_with_fixed_and_own_columns(config_names: frozenset[str]) -> None:
    plan = plan_frame([parse_recorded(STUDY, source="digits.yaml")])
    assert config_names < set(plan.columns)
    assert plan["trial_id"].tolist() == ["0123456789ab", "ba9876543210"]
    row = plan.to_dict("records")[1]
    assert (row["study"], row["dataset"], row["loss"], row["seed"]) == (
        "digits",
        "digits",
        "bce",
        1,
    )
    assert row["command"] == "python orchestrator/sweep.py --study digits"
    assert row["lambda_w"] == 5e-4  # YAML 1.1 reads 5e-4 as text


def test_plan_of_no_study_is_empty_with_all_columns(config_names: frozenset[str]) -> None:
    plan = plan_frame([])
    assert plan.empty
    assert config_names < set(plan.columns)


def test_store_reads_every_study(store: Store) -> None:
    trial_id = store.add(COLLAPSE, {"nc1_train": 1.0})
    store.study("a", {trial_id: COLLAPSE})
    store.study("b", {trial_id: COLLAPSE, "x": CLASSIFICATION})
    plan = load_results(store.root).plan
    assert sorted(zip(plan["study"], plan["trial_id"], strict=True)) == [
        ("a", trial_id), ("b", trial_id), ("b", "x"),
    ]  # fmt: skip


def test_a_study_alone_is_a_results_folder(store: Store) -> None:
    store.study("a", {"x": COLLAPSE})
    assert load_results(store.root).trials.empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", "s.yaml is not valid YAML"),
        ("- " * 100_000, r"s.yaml is not valid YAML \(it nests more than 100 deep\)"),
        ("- 1", "s.yaml holds no mapping `trials`"),
        ("trials: {}\nschema_version: 2", "s.yaml has schema_version 2, this package reads 1"),
        ("trials: {12: {}}\nschema_version: 1", "trial id 12 must be text"),
        ("trials: {a: 1}\nschema_version: 1", "s.yaml has trials that are no mappings"),
        (
            "trials: {a: {}}\nfixed: [1]\nschema_version: 1",
            "s.yaml has trials that are no mappings",
        ),
        ("trials: {a: {}}\nx: !!int ''\nschema_version: 1", "s.yaml is not valid YAML"),
        ("trials: {a: {1: 2, b: 3}}\nschema_version: 1", r"unknown columns \['1', 'b'\]"),
        ("trials: {a: {los: ce}}\nschema_version: 1", r"unknown columns \['los'\]"),
    ],
)
def test_broken_study_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        parse_recorded(text, source="s.yaml")


def test_value_of_another_type_names_its_column() -> None:
    study = parse_recorded("trials: {a: {seed: x}}\nschema_version: 1", source="s.yaml")
    with pytest.raises(ResultsError, match="value for 'seed' that is no int64"):
        plan_frame([study])
    study = parse_recorded(f"trials: {{a: {{seed: {2**70}}}}}\nschema_version: 1", source="s.yaml")
    with pytest.raises(ResultsError, match="value for 'seed' that is no int64"):
        plan_frame([study])


def test_yaml_objects_are_not_built(tmp_path: Path) -> None:
    text = f"trials: !!python/object/apply:os.mkdir ['{tmp_path}/made']"
    with pytest.raises(ResultsError, match="not valid YAML"):
        parse_recorded(text, source="s.yaml")
    assert not (tmp_path / "made").exists()
