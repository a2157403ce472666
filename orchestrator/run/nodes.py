"""Whether every node of a cluster can run the trials: asked of the nodes, before anything is spent.

A node that joins later is not asked here; what starts Ray there asks `cluster.can_run` first.
"""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from analysis.store.errors import InputError
from analysis.store.results import ResultStore

ANSWER_S: Final = 120.0  # a node's first Python process, which imports torch from a cold disk


def check_nodes(store: ResultStore) -> None:
    """Raises InputError for a node that lacks this package, has another version, or can't see
    the results. Writes nothing that stays."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    from trainers.run import provenance

    mine = provenance.versions()
    with ExitStack() as stack:
        sign = None
        if store.is_local:
            place = store.nearest_folder()
            sign = stack.enter_context(tempfile.NamedTemporaryFile(dir=place, prefix=".nodes-"))
        answers = [_ask(node["NodeID"], store, sign and sign.name) for node in nodes]
        for node, answer in zip(nodes, answers, strict=True):
            _check(node, answer, mine, store)


def _ask(node_id: str, store: ResultStore, sign: str | None) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    look: Any = ray.remote(_look)
    look = look.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return look.remote(store.location, sign)


def _look(results: str, sign: str | None) -> tuple[Mapping[str, object], str | None]:
    """On a node: its versions, and what is wrong with the results."""
    from trainers.run import provenance

    wrong = None
    if sign is None:
        try:
            ResultStore(results).check_writable()
        except InputError as error:
            wrong = str(error)
    elif not Path(sign).exists():
        wrong = "has no part in it"
    return provenance.versions(), wrong


def _check(
    node: dict[str, Any], answer: Any, mine: Mapping[str, object], store: ResultStore
) -> None:
    import ray
    from ray.exceptions import RayError

    address = node["NodeManagerAddress"]
    try:
        theirs, wrong = ray.get(answer, timeout=ANSWER_S)
    except RayError as error:
        if not any(now["Alive"] for now in ray.nodes() if now["NodeID"] == node["NodeID"]):
            return  # it went meanwhile, which trials live with too
        last = str(error).strip().splitlines()[-1][:200]
        raise InputError(
            f"node {address} can't run trials ({last}); install this package there, as "
            "`ray up cluster/config.yaml` does"
        ) from error
    for name, version in theirs.items():
        if version != mine[name]:
            raise InputError(
                f"node {address} has {name.removeprefix('version_')} {version} and this one "
                f"{mine[name]}; make them equal, as `ray up` does"
            )
    if wrong and store.is_local:
        raise InputError(
            f"node {address} doesn't share --results {store.location}; choose a folder that every "
            "node mounts at the same path, or an object store such as s3://bucket/prefix"
        )
    if wrong:
        raise InputError(f"node {address}: {wrong}")
