"""The ledger decides what runs from the trials' rows alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.plan.ledger import KIND, Cost, forget, kind_of, read_ledger
from trainers.config import TrialConfig

Tiny = Callable[..., TrialConfig]
STATUSES = ("finished", "failed", "diverged", "running")


# Fields of a trial that leave what an epoch takes as it is, or nearly. A field that is neither here
# nor in KIND fails below: trials that differ in it would share a cost, which the plan reckons with.
SAME_COST = (
    "recipe_version",
    "loss", "loss_kwargs",  # of logits alone: little beside the network
    "lr", "momentum", "schedule", "warmup_epochs", "weight_decay",  # numbers of the same step
    "regularizer", "lambda_w", "lambda_h", "lambda_b",  # sums of squares
    "epochs",  # how many, not what one takes
    "eval_dense",  # a few epochs at the start
    "bias_init_mean", "seed",  # where it starts from
)  # fmt: skip


def fill(store: ResultStore, tiny: Tiny) -> dict[str, TrialConfig]:
    """A trial of each status, and one that never started."""
    trials = {}
    for seed, status in enumerate((*STATUSES, None)):
        config = tiny(seed=seed)
        trials[config.trial_id] = config
        if status:
            row = config.row() | {"trial_id": config.trial_id, "status": status}
            row |= {"epochs_done": 3, "train_s": 5.0, "eval_s": 1.0, "peak_memory_bytes": 3000}
            row |= {"device": "some GPU", "world_size": 1}
            store.write_rows("trials", config.trial_id, [row])
    return trials


@pytest.mark.parametrize(
    ("rerun", "expected"),
    [
        (None, {"running", None}),
        ("failed", {"failed", "running", None}),
        ("diverged", {"diverged", "running", None}),
        ("all", {*STATUSES, None}),
    ],
)
def test_what_is_left_to_do(store: ResultStore, tiny: Tiny, rerun: str, expected: set) -> None:
    trials = fill(store, tiny)
    ledger = read_ledger(store)
    assert {ledger.status(i) for i in ledger.to_do(trials, rerun)} == expected  # pyright: ignore


def test_nothing_is_done_in_an_empty_place(store: ResultStore, tiny: Tiny) -> None:
    config = tiny()
    assert read_ledger(store).to_do({config.trial_id: config}, None) == [config.trial_id]


def test_time_per_epoch_is_that_of_trials_of_the_same_kind(store: ResultStore, tiny: Tiny) -> None:
    fill(store, tiny)
    ledger = read_ledger(store)
    assert ledger.costs == {kind_of(tiny(seed=9, epochs=50).row()): Cost(2.0, 3000)}
    assert kind_of(tiny(batch_size=8).row()) not in ledger.costs


def test_every_field_is_known_to_change_the_cost_of_an_epoch_or_not_to() -> None:
    assert sorted([*KIND, *SAME_COST]) == sorted(TrialConfig.model_fields)


def test_a_stopped_trial_tells_what_it_took_and_what_is_left(
    store: ResultStore, tiny: Tiny
) -> None:
    config = tiny(epochs=40)
    row = config.row() | {"trial_id": config.trial_id, "status": "running", "world_size": 1}
    row |= {"device": "cpu", "epochs_done": 26, "train_s": 12.0, "eval_s": 1.0}
    store.write_rows("trials", config.trial_id, [row])
    ledger = read_ledger(store)
    assert ledger.costs == {kind_of(config.row()): Cost(0.5, None)}
    assert ledger.epochs_left(config.trial_id, 40) == 14
    assert ledger.epochs_left("never ran", 40) == 40


def test_a_row_without_times_tells_no_cost(store: ResultStore, tiny: Tiny) -> None:
    config = tiny()
    row = config.row() | {"trial_id": config.trial_id, "status": "finished", "epochs_done": 3}
    store.write_rows("trials", config.trial_id, [row])
    assert read_ledger(store).costs == {}


@pytest.mark.parametrize("ran", [{"device": "cpu"}, {"world_size": 2}])
def test_memory_is_that_of_one_worker_of_a_gpu(
    store: ResultStore, tiny: Tiny, ran: dict[str, object]
) -> None:
    fill(store, tiny)
    for i in read_ledger(store).rows:
        store.write_rows("trials", i, [store.read_rows("trials", i)[0] | ran])
    kind = kind_of(tiny(seed=9).row())
    assert read_ledger(store).costs == {kind: Cost(2.0, None)}
    probed = replace(read_ledger(store), probed={kind: Cost(9.0, 4000)})
    assert probed.costs == {kind: Cost(2.0, 4000)}


def test_forgotten_trials_start_anew(store: ResultStore, tiny: Tiny) -> None:
    trials = fill(store, tiny)
    done = next(iter(trials))
    store.write_rows("epochs", done, [{"trial_id": done, "epoch": 1}])
    store.write_rows("scores", done, [{"trial_id": done, "kind": "bias"}])
    forget(store, [done])
    assert read_ledger(store).status(done) is None
    assert (store.names("epochs"), store.names("scores")) == ([], [])


def test_a_broken_file_is_named(store: ResultStore, tiny: Tiny) -> None:
    trials = fill(store, tiny)
    path = Path(store.path("trials", f"{list(trials)[1]}.parquet"))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=f"{path.name}.*then run the sweep again"):
        read_ledger(store)
    for path in Path(store.path("trials")).glob("*.parquet"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"is not a whole .*parquet is not a whole") as error:
        read_ledger(store)
    assert "\n" not in str(error.value)


def test_another_schema_version_is_refused_in_whichever_file(
    store: ResultStore, tiny: Tiny
) -> None:
    fill(store, tiny)
    path = Path(store.path("trials", "zzz.parquet"))  # the last to be read
    table = pa.table({"trial_id": ["zzz"]}).replace_schema_metadata({"schema_version": "99"})
    pq.write_table(table, path)
    with pytest.raises(
        InputError, match=r"zzz\.parquet has schema_version 99, this package reads 1"
    ):
        read_ledger(store)
    for path in Path(store.path("trials")).glob("*.parquet"):  # as the whole folder is, as a rule
        pq.write_table(table, path)
    with pytest.raises(InputError, match=r"parquet and \d more have schema_version 99.*choose"):
        read_ledger(store)
