"""What a trial takes, what fits, and which share of a GPU is enough: all by hand-made clusters."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from orchestrator.options import Resources, What, parse_options
from orchestrator.plan.ledger import Cost, Ledger, kind_of
from orchestrator.plan.packing import (
    CONTEXT_BYTES,
    HEAD_ROOM,
    gpu_share,
    larger_after_oom,
    slots_on,
    to_probe,
)
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.plan.slots import (
    Request,
    Slot,
    at_once,
    check_fits,
    parse_request,
)
from orchestrator.plan.study import expand, parse_study
from tests.fuzzing import FUZZ
from trainers.config import TrialConfig

GIB = 2**30
BOX = [{"CPU": 16.0, "GPU": 8.0}]
TWO_NODES = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
LAPTOP = [{"CPU": 2.0}]
REQUESTS = st.one_of(
    st.builds(
        Request,
        workers=st.one_of(st.just("auto"), st.integers(1, 8)),
        cpus=st.floats(0.01, 8),
        gpus=st.one_of(st.none(), st.just("auto"), st.sampled_from([0.0, 1.0])),
    ),
    st.builds(Request, cpus=st.floats(0.01, 8), gpus=st.sampled_from([0.25, 0.5])),
)
CLUSTERS = st.sampled_from([BOX, TWO_NODES, LAPTOP])
STUDY = """
dataset: digits
image_size: 8
model: [resnet18, mlp]
loss: ce
optimizer: sgd
seed: [0, 1]
resources:
- {gpus_per_worker: 0.25}
- {model: resnet18, workers: 4, cpus_per_worker: 2}
"""


@pytest.mark.parametrize(
    ("slot", "nodes", "count"),
    [
        (Slot(gpus=0.0), LAPTOP, 2),
        (Slot(gpus=0.25), BOX, 16),  # 32 by GPU, 16 by CPU
        (Slot(cpus=0.25, gpus=0.25), BOX, 32),
        (Slot(workers=4, cpus=1, gpus=1.0), BOX, 2),
        (Slot(workers=3, cpus=2, gpus=0.0), TWO_NODES, 1),  # 2 workers on each node
        (Slot(gpus=0.3333), TWO_NODES, 6),
        (Slot(gpus=2.0), TWO_NODES, 0),  # no node has two
        (Slot(gpus=1.0), LAPTOP, 0),
    ],
)
def test_how_many_fit(slot: Slot, nodes: list, count: int) -> None:
    assert at_once(slot, nodes) == count


@pytest.mark.parametrize(
    ("nodes", "trials", "most", "workers"),
    [
        (BOX, 4, 128, 2),  # eight GPUs between four trials
        (BOX, 3, 128, 2),
        (BOX, 100, 128, 1),
        (BOX, 1, 5, 5),  # no more than samples in a batch
        (LAPTOP, 1, 128, 2),
        (TWO_NODES, 1, 128, 2),
    ],
)
def test_auto_workers_leave_nothing_idle(nodes: list, trials: int, most: int, workers: int) -> None:
    assert Request(workers="auto").on(nodes, trials=trials, most=most).workers == workers


@pytest.mark.parametrize(
    "argv",
    [
        ("--cpus-per-worker", "inf"),
        ("--cpus-per-worker", "nan"),
        ("--gpus-per-worker", "0.00001"),
        ("--gpus-per-worker", "1.5"),
        ("--workers", "0"),
    ],
)
def test_amounts_that_ray_has_not(argv: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"the command line: {argv[0][2:].replace('-', '_')}="):
        parse_options(argv)


@pytest.mark.parametrize(
    ("asked", "nodes", "message"),
    [
        (Request(cpus=64), LAPTOP,
         "a trial wants 64 CPU and the cluster has 2; .* --cpus-per-worker"),
        (Request(gpus=1.0), LAPTOP, "a trial wants 1 GPU and the cluster has 0"),
        (Request(workers=9, gpus=1.0), BOX, "a trial wants 9 GPU .* has 8; .* or --workers"),
        (Request(gpus=2.0), TWO_NODES, "a worker wants 2 GPU of one node and the largest has 1"),
        (Request(workers=2, cpus=3, gpus=0.0), [{"CPU": 5.0}, {"CPU": 1.0}],
         "2 workers of 3 CPU each don't fit on the cluster's 2 nodes together"),
    ],
)  # fmt: skip
def test_what_can_never_be_placed_is_told(asked: Request, nodes: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_fits([asked.on(nodes)], nodes)


def test_a_whole_gpu_where_there_are_any() -> None:
    assert Request().on(BOX).gpus == 1.0
    assert Request().on(LAPTOP).gpus == 0.0
    assert Request(gpus="auto").on(BOX, shared=0.125).gpus == 0.125
    assert Request(gpus="auto").on(LAPTOP, shared=0.125).gpus == 0.0


@FUZZ
@given(REQUESTS, CLUSTERS, st.floats(1e-4, 1.0), st.integers(1, 9), st.integers(1, 200))
def test_a_slot_is_numbers_and_says_what_was_asked_for(
    asked: Request, nodes: list, shared: float, trials: int, most: int
) -> None:
    slot = asked.on(nodes, shared=shared, trials=trials, most=most)
    assert (type(slot.workers), type(slot.gpus)) == (int, float)
    assert slot.workers == asked.workers or (asked.workers == "auto" and 1 <= slot.workers <= most)
    assert slot.cpus == asked.cpus
    on_gpus = any(node.get("GPU", 0) for node in nodes)
    share = shared if asked.workers == 1 else 1.0  # NCCL refuses two ranks of a trial on one
    expected = {None: float(on_gpus), "auto": share * on_gpus}.get(asked.gpus, asked.gpus)
    assert slot.gpus == expected


@pytest.mark.parametrize("workers", [2, "auto"])
def test_ranks_of_a_trial_share_no_gpu(workers: Any) -> None:
    with pytest.raises(InputError, match=f"workers={workers} of a trial can't share a GPU"):
        Request(workers=workers, gpus=0.5)
    with pytest.raises(InputError, match=r"mine: .*workers=2 of a trial can't share"):
        parse_request({"workers": 2, "gpus_per_worker": 0.5}, "mine")
    assert Request(workers=workers, gpus="auto").on(BOX, shared=0.125).gpus == 1.0


@pytest.mark.parametrize(
    ("slot", "size"),
    [(Slot(), 1), (Slot(4, 2.0), 8), (Slot(2, 3.0, 0.25), 0.5), (Slot(1, 9, 2), 2)],
)
def test_a_size_is_of_what_is_scarce(slot: Slot, size: float) -> None:
    assert slot.size == size


@pytest.mark.parametrize(
    ("peak", "total", "share"),
    [
        (GIB, 24 * GIB, 1 / 13),  # 24 / (1.25 + 0.59) = 13.07
        (10 * GIB, 24 * GIB, 1.0),
        (30 * GIB, 24 * GIB, 1.0),  # it may fail there, and says so then
    ],
)
def test_shares_leave_head_room(peak: int, total: int, share: float) -> None:
    found = gpu_share(peak, total)
    assert share - 1e-4 < found <= share
    k = round(1 / found)
    assert k == 1 or k * (peak * HEAD_ROOM + CONTEXT_BYTES) <= total


def test_a_study_gives_resources_to_what_matches_and_they_rename_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY)
    plain = parse_study(STUDY.partition("resources")[0], name="mine", where="mine.yaml")
    plan = planned()
    assert set(plan.trials) == set(expand(plain))
    requests = {plan.trials[i].model: request for i, request in plan.requests.items()}
    assert requests == {"mlp": Request(gpus=0.25), "resnet18": Request(4, 2.0)}
    flags = planned(workers=2, gpus_per_worker="auto")
    requests = {flags.trials[i].model: request for i, request in flags.requests.items()}
    assert requests == {"mlp": Request(2, 1, "auto"), "resnet18": Request(2, 2.0, "auto")}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{model: mlp}", r"resources {'model': 'mlp'} needs one of workers, cpus_per_worker"),
        ("{modle: mlp, workers: 2}", r"'modle' .* did you mean 'model'\?"),
        ("{workers: 0}", "resources: workers=0 must be at least 1"),
        ("{workers: 1.5}", "resources: workers=1.5 must be a whole number"),
        ("{gpus_per_worker: much}", "resources: gpus_per_worker='much' must be a number"),
        ("{cpus_per_worker: .nan}", "resources: cpus_per_worker=nan must be at least"),
    ],
)
def test_a_mistake_under_resources(block: str, message: str) -> None:
    text = STUDY.partition("resources")[0] + f"resources: [{block}]"
    with pytest.raises(InputError, match=message):
        parse_study(text, name="mine", where="mine.yaml")


def planned(**given: Any) -> Plan:
    resources = Resources(**given)
    return make_plan(What(studies=("mine.yaml",)), ResultStore("results"), resources=resources)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Two kinds of trials, mlp and resnet18, both with a measured share of a GPU."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY.partition("resources")[0])
    return planned(gpus_per_worker="auto")


def kinds(plan: Plan) -> dict[str, tuple]:
    return {plan.trials[ids[0]].model: kind for kind, ids in plan.kinds.items()}


def test_only_what_is_not_known_is_probed(plan: Plan) -> None:
    assert set(to_probe(plan, BOX, all_kinds=False)) == set(kinds(plan).values())
    assert to_probe(plan, LAPTOP, all_kinds=False) == {}  # shares of nothing
    assert set(to_probe(plan, LAPTOP, all_kinds=True)) == set(kinds(plan).values())
    known = {kinds(plan)["mlp"]: Cost(1.0, GIB)}
    ledger = replace(plan.ledger, probed=known)
    assert set(to_probe(replace(plan, ledger=ledger), BOX, all_kinds=False)) == {
        kinds(plan)["resnet18"]
    }


def test_shares_follow_the_memory_of_each_kind(plan: Plan) -> None:
    found = {"mlp": GIB, "resnet18": 5 * GIB}
    plan = plan.with_probes(
        {
            kinds(plan)[model]: {
                "seconds_per_epoch": peak / GIB,
                "peak_memory_bytes": peak,
                "device_memory_bytes": 24 * GIB,
                "results_bytes": 10**5,
                "checkpoint_bytes": 10**6,
            }
            for model, peak in found.items()
        }
    )
    slots = slots_on(plan, BOX)
    shares = {plan.trials[i].model: slot.gpus for i, slot in slots.items()}
    assert shares == {"mlp": 0.0769, "resnet18": 0.3333}
    # One of each kind, the slow one first, then the slow ones.
    order = [plan.trials[i].model for i in plan.to_do]
    assert order == ["resnet18", "mlp", "resnet18", "mlp"]


def test_out_of_memory_gets_twice_the_share_up_to_a_whole_gpu_and_others_nothing(
    tiny: Callable[..., TrialConfig],
) -> None:
    shares = {"a": 0.25, "b": 0.75, "c": 1.0, "d": 0.25, "e": 0.0, "f": 0.25, "g": 0.25}
    slots = {i: Slot(gpus=share) for i, share in shares.items()}
    rows: dict[str, dict] = {
        i: {"status": "failed", "failure": "out_of_memory", "gpu_share": share or None}
        for i, share in shares.items()
    }
    rows["d"]["failure"] = "own_code"
    rows["f"] = {"status": "finished", "failure": None, "gpu_share": 0.25}
    rows["g"]["gpu_share"] = 0.5  # of a larger try, which was not enough either
    again = larger_after_oom(slots, Ledger(rows), slots)
    assert again == {"a": Slot(gpus=0.5), "b": Slot(gpus=1.0), "g": Slot(gpus=1.0)}
    assert kind_of(tiny().row()) == kind_of(tiny(seed=3, loss="bce", epochs=9).row())


@pytest.mark.parametrize(
    ("share", "row", "owed"),
    [
        (0.5, {}, True),
        (0.5, {"attempts": 7}, True),  # from its checkpoints
        (0.5, {"gpu_share": 1.0}, False),  # there is no larger one
        (0.5, {"failure": "own_code", "reason": "out of memory, says the user's loss"}, False),
        (0.5, {"failure": None, "gpu_share": None}, False),  # of version 0.1.0
        (0.5, {"status": "diverged"}, False),
        (1, {}, False),  # there is no larger one
        (0, {}, False),
        ("auto", {"gpu_share": None}, False),  # on a CPU
        ("auto", {}, True),
    ],
)
def test_a_larger_try_that_a_killed_sweep_owes_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float | str, row: dict, owed: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(STUDY.partition("resources")[0])
    plan = planned(gpus_per_worker=share)
    first, *others = plan.trials
    failed = {"status": "failed", "failure": "out_of_memory", "gpu_share": 0.5, "attempts": 1}
    failed |= {"trial_id": first, **plan.trials[first].row()}
    ResultStore("results").write_rows("trials", first, [failed | row])
    again = planned(gpus_per_worker=share)
    assert sorted(again.to_do) == sorted([first, *others] if owed else others)
