"""kill -9 to a node that has objects: they are made again on another, by real processes.

The head's node has no CPU, so that all runs on the nodes that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster, ClusterNode
from sparkray.exceptions import ObjectLostError
from sparkray_core.ids import NodeId, raylet_of
from tests.marks import slow

LARGE = 300_000  # bytes: it lies in a store
STORE_BYTES = 64 << 20
WAIT_S = 60.0


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """This process has joined it."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES}) as made:
        made.connect(log_to_driver=False)
        yield made


class Nodes:
    """Those that a test adds to the session; they go with it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def add(self) -> ClusterNode:
        return self._cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)

    def kill(self, node: ClusterNode, victim: str = "keeper") -> None:
        """SIGKILL, and wait until the session knows."""
        self._cluster.kill(node, victim)
        self._cluster.wait_for_nodes(WAIT_S)

    def end(self) -> None:
        for node in list(self._cluster.worker_nodes):
            self._cluster.remove_node(node)


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    added = Nodes(cluster)
    yield added
    added.end()


@sparkray.remote
def fill(number: int, *parts: Any) -> bytes:
    return bytes([number]) * LARGE + b"".join(part[:1] for part in parts)


@sparkray.remote(num_returns=2)
def two(number: int) -> tuple[bytes, bytes]:
    return bytes([number]) * LARGE, bytes([number + 1]) * LARGE


@sparkray.remote
def several(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * LARGE


@sparkray.remote
def inside(number: int) -> list[Any]:
    return [bytes(LARGE), fill.remote(number), sparkray.put(bytes([number]) * LARGE)]


@sparkray.remote
def look(refs: list[Any]) -> list[int]:
    return [value[0] for value in sparkray.get(refs)]


@sparkray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Maker:
    def make(self, number: int) -> bytes:
        return bytes([number]) * LARGE


def test_what_lay_on_a_killed_node_is_made_again(nodes: Nodes) -> None:
    lost = nodes.add()
    first = fill.remote(1)
    left, right = fill.remote(2, first), fill.remote(3, first)
    last = fill.remote(4, left, right)
    both = two.remote(5)
    items = list(several.remote(3))
    maker: Any = Maker.remote()  # type: ignore[attr-defined]
    made = maker.make.remote(9)
    everything = [last, *both, *items, made]
    sparkray.wait(everything, num_returns=len(everything), timeout=WAIT_S)
    del left, right
    put_there = sparkray.get(inside.remote(7), timeout=WAIT_S)[2]
    nodes.add()
    nodes.kill(lost)

    assert sparkray.get(look.remote([*both, items[2], made]), timeout=WAIT_S) == [5, 6, 2, 9]  # a borrower's wish
    values = sparkray.get(everything, timeout=WAIT_S)
    assert [value[0] for value in values] == [4, 5, 6, 0, 1, 2, 9]
    assert values[0][LARGE:] == bytes([2, 3])
    assert sparkray.get(first, timeout=WAIT_S)[0] == 1
    with pytest.raises(ObjectLostError):  # a worker put it, and its raylet owned it
        sparkray.get(put_there, timeout=WAIT_S)


@pytest.mark.parametrize("victim", slow("raylet", "keeper"))
def test_a_node_that_is_killed_under_load_costs_no_result(nodes: Nodes, victim: str) -> None:
    lost = nodes.add()
    nodes.add()
    rows = [fill.remote(number) for number in range(8)]
    for _ in range(3):
        rows = [fill.remote(number, row, rows[number - 1]) for number, row in enumerate(rows)]
    sparkray.wait(rows, num_returns=4, timeout=WAIT_S)
    nodes.kill(lost, victim)

    values = sparkray.get(rows, timeout=WAIT_S)

    assert values == [bytes([n]) * LARGE + bytes([n, (n - 1) % 8]) for n in range(8)]


@pytest.mark.slow
def test_what_was_made_again_is_freed_with_its_last_reference_and_what_it_took(
    nodes: Nodes, wait_until: Callable[..., None]
) -> None:
    core = sparkray.session.core()

    def stored() -> list[int]:
        core.kick()
        raylets = [raylet_of(NodeId(bytes.fromhex(one["NodeID"]))) for one in sparkray.nodes() if one["Alive"]]
        return [core.ask(raylet, "status")["objects"] for raylet in raylets]

    lost = nodes.add()
    large = sparkray.put(bytes(LARGE))
    ref = fill.remote(1, large)
    sparkray.wait([ref], timeout=WAIT_S)
    del large
    nodes.add()
    nodes.kill(lost)
    assert sparkray.get(ref, timeout=WAIT_S) == bytes([1]) * LARGE + bytes(1)
    assert core.owner.lineage.bytes > LARGE

    del ref

    wait_until(lambda: not any(stored()), what=stored)
    assert not core.owner.lineage.records
