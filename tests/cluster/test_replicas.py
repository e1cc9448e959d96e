"""What a task has put with replicas outlives its node. By real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.ids import NodeId, raylet_of
from tests.waiting import wait_until

SIZE = 300_000
WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """This process has joined it. Its node has no CPUs."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 64 << 20}) as made:
        made.connect(log_to_driver=False)
        yield made


@sparkray.remote
def put_some(value: int) -> list[Any]:
    small = sparkray.put([value], replicas=2)
    return [small, sparkray.put({"inside": small, "bytes": bytes([value]) * SIZE}, replicas=2)]


@sparkray.remote
def look(refs: list[Any]) -> int:
    return int(sparkray.get(refs[1])["bytes"][0])


@pytest.mark.slow
def test_what_was_put_with_replicas_outlives_its_node_and_has_copies_again(cluster: Cluster) -> None:
    core = sparkray.session.core()

    def stored() -> list[int]:
        core.kick()
        raylets = [raylet_of(NodeId(bytes.fromhex(one["NodeID"]))) for one in sparkray.nodes() if one["Alive"]]
        return sorted(core.ask(raylet, "status")["objects"] for raylet in raylets)

    first = cluster.add_node(num_cpus=1, object_store_memory=64 << 20)
    small, large = sparkray.get(put_some.remote(7), timeout=WAIT_S)
    wait_until(lambda: stored() == [2, 2], limit=WAIT_S)
    second = cluster.add_node(num_cpus=1, object_store_memory=64 << 20)

    cluster.kill(first, "keeper")
    cluster.wait_for_nodes(WAIT_S)

    assert sparkray.get(small, timeout=WAIT_S) == [7]
    assert sparkray.get(look.remote([small, large]), timeout=WAIT_S) == 7
    wait_until(lambda: stored() == [2, 2], limit=WAIT_S)
    cluster.remove_node(second)
