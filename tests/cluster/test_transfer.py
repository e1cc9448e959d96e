"""Large objects from node to node, by real processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.ids import NodeId, raylet_of

SIZE = 20_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"n0": 1}}, connect=True) as nodes:
        nodes.add_node(num_cpus=1, resources={"n1": 1})
        nodes.wait_for_nodes()
        yield nodes


def _bytes(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


@sparkray.remote(num_cpus=0)
def fill(seed: int) -> Any:
    return _bytes(seed)


@sparkray.remote(num_cpus=0)
def equals(refs: list[Any], seed: int) -> bool:
    return bool(np.array_equal(sparkray.get(refs[0]), _bytes(seed)))


def _pulled() -> dict[int, tuple[int, int, int]]:
    """Of each node: objects and bytes that it has pulled, and how many of these out of a neighbour's segment."""
    core = sparkray.session.core()
    raylets = [raylet_of(NodeId(bytes.fromhex(one["NodeID"]))) for one in sparkray.nodes() if one["Alive"]]
    found = {}
    for number, raylet in enumerate(raylets):
        objects, size, mapped = core.ask(raylet, "status")["pulled"].values()
        found[number] = objects, size, mapped
    return found


def test_each_node_copies_an_object_once_and_has_the_same_bytes(cluster: Cluster) -> None:
    before = sum(objects for objects, _, _ in _pulled().values())
    ref = fill.options(resources={"n1": 0.01}).remote(7)

    readers = [equals.options(resources={f"n{node}": 0.01}).remote([ref], 7) for node in (0, 0, 0)]

    assert sparkray.get(readers, timeout=60) == [True] * 3
    after = _pulled()
    assert sum(objects for objects, _, _ in after.values()) == before + 1
    assert sum(mapped for _, _, mapped in after.values()) >= SIZE  # of one host: in place


@pytest.mark.slow
def test_an_object_comes_over_the_network_where_nodes_cannot_read_each_other_s_memory(cluster: Cluster) -> None:
    hidden = cluster.add_node(num_cpus=1, resources={"n3": 1})
    cluster.wait_for_nodes()
    ref = fill.options(resources={"n3": 0.01}).remote(8)
    sparkray.wait([ref], timeout=60, fetch_local=False)
    os.rename(hidden.raylet_socket_name, hidden.raylet_socket_name + ".hidden")  # as in a container of its own
    try:
        before = _pulled()
        assert sparkray.get(equals.options(resources={"n1": 0.01}).remote([ref], 8), timeout=60)
        gained = [
            (objects - before[number][0], size - before[number][1], mapped - before[number][2])
            for number, (objects, size, mapped) in _pulled().items()
        ]
        assert (1, SIZE, 0) in [(objects, size // SIZE * SIZE, mapped) for objects, size, mapped in gained]
    finally:
        os.rename(hidden.raylet_socket_name + ".hidden", hidden.raylet_socket_name)
        cluster.remove_node(hidden)
