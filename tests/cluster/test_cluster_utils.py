"""`Cluster`: several nodes on this host, as an object."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.ids import node_of
from tests.cluster.conftest import program
from tests.marks import slow
from tests.waiting import is_running, wait_until

STORE_BYTES = 64 << 20


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """A head without CPUs; this process has joined."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES}
    with Cluster(initialize_head=True, connect=True, head_node_args=head) as made:
        yield made


@sparkray.remote
def where() -> str:
    return str(sparkray.get_runtime_context().get_node_id())


def alive() -> set[str]:
    return {str(node["NodeID"]) for node in sparkray.nodes() if node["Alive"]}


def connected_to(node: Any) -> bool:
    """Whether this process has a connection to a process of that node."""
    return any(node_of(process).hex() == node.node_id for process in list(sparkray.session.core()._connections))


def test_a_node_that_ends_while_it_is_being_removed_by_force_is_removed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.add_node(num_cpus=0, object_store_memory=STORE_BYTES)
    is_running = node.is_running

    def ends_just_now() -> bool:
        was = is_running()
        monkeypatch.undo()
        node.kill()
        return was

    monkeypatch.setattr(node, "is_running", ends_just_now)

    assert cluster.remove_node(node, allow_graceful=False).clean
    cluster.wait_for_nodes()
    assert node not in cluster.list_all_nodes()


def test_a_node_brings_what_it_was_given_runs_tasks_and_leaves(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=2, resources={"special": 1}, labels={"zone": "eu"}, env_vars={"HERE": "there"})

    (told,) = [one for one in sparkray.nodes() if one["NodeID"] == node.node_id]
    assert (told["Resources"]["CPU"], told["Resources"]["special"], told["Labels"]["zone"]) == (2, 1, "eu")
    assert sparkray.get(where.options(resources={"special": 1}).remote(), timeout=30) == node.node_id
    assert program(f"""
        import os, sparkray as ray
        ray.init(address="{cluster.address}")
        print(ray.get(ray.remote(lambda: os.environ["HERE"]).options(resources={{"special": 1}}).remote()))
    """) == ["there"]
    pids = node.pids()
    assert len(pids) >= 4
    assert node.pids("workers")

    report = cluster.remove_node(node)

    assert report.clean
    cluster.wait_for_nodes()
    assert alive() == {cluster.head_node.node_id if cluster.head_node else ""}
    assert not any(map(is_running, pids))
    assert not node.is_running()
    with pytest.raises(ProcessLookupError, match="raylet"):
        node.kill("raylet")


@pytest.mark.parametrize("part", ["raylet", *slow("all", "keeper", "zygote")])
def test_what_is_killed_is_gone_and_the_session_knows_at_once(cluster: Cluster, part: str) -> None:
    node = cluster.add_node(object_store_memory=STORE_BYTES)
    assert sparkray.get(where.remote(), timeout=30) == node.node_id
    assert connected_to(node)  # without its raylet and ours between: it is on this host
    pids = node.pids()

    cluster.kill(node, part)

    cluster.wait_for_nodes()
    (why,) = [one["DeathReasonMessage"] for one in sparkray.nodes() if one["NodeID"] == node.node_id]
    assert why
    assert "silent" not in why
    wait_until(lambda: not connected_to(node), "this process has parted from its workers")
    wait_until(lambda: not any(map(is_running, pids)), f"all of the node ends without its {part}")
    assert cluster.remove_node(node).clean
    assert not Path(node.folder).exists()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_the_node_nothing_else(cluster: Cluster) -> None:
    node = cluster.add_node(object_store_memory=STORE_BYTES)
    assert sparkray.get(where.remote(), timeout=30) == node.node_id
    cluster.kill(node, "workers")

    assert sparkray.get(where.remote(), timeout=30) == node.node_id
    cluster.wait_for_nodes()
    cluster.remove_node(node)


@pytest.mark.slow
def test_a_node_that_is_stopped_is_given_up_within_three_seconds_and_ends_when_it_goes_on(cluster: Cluster) -> None:
    node = cluster.add_node(object_store_memory=STORE_BYTES)
    node.send_signal(signal.SIGSTOP, "raylet")
    began = time.monotonic()

    wait_until(lambda: node.node_id not in alive())

    assert 1.9 < time.monotonic() - began < 3.3  # 2.0 to 2.75 s and some for a busy machine
    assert "silent" in next(one["DeathReasonMessage"] for one in sparkray.nodes() if one["NodeID"] == node.node_id)
    pids = node.pids()
    node.send_signal(signal.SIGCONT, "raylet")
    wait_until(lambda: not any(map(is_running, pids)), "a node that was given up ends when it hears of it")
    cluster.remove_node(node)


@pytest.mark.slow
def test_nodes_come_up_together_for_no_driver_and_a_stopped_one_ends_too(module_base_folder: Path) -> None:
    before = set(module_base_folder.glob("*/*"))

    (printed,) = program("""
        import signal
        from sparkray.cluster_utils import Cluster
        with Cluster(initialize_head=True) as cluster:
            added = [cluster.add_node(wait=False) for _ in range(2)]
            cluster.wait_for_nodes()
            assert cluster.list_all_nodes()[0] is cluster.head_node
            added[0].send_signal(signal.SIGSTOP)
            print(*[pid for node in cluster.list_all_nodes() for pid in node.pids()])
        assert not cluster.shutdown().nodes
    """)

    assert not any(is_running(int(pid)) for pid in printed.split())
    assert set(module_base_folder.glob("*/*")) == before


def test_what_cannot_be_is_refused_before_anything_starts(cluster: Cluster) -> None:
    assert cluster.head_node is not None
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"num_cpu": 2}, RuntimeError, r"to add_node\(\): num_cpu. Did you mean num_cpus"),
        ({"num_cpus": -1}, ValueError, "num_cpus"),
        ({"port": 1234}, ValueError, "the cluster has one"),
        ({"labels": {"a": 1}}, TypeError, "labels"),
    ]
    for arguments, kind, words in wrong:
        with pytest.raises(kind, match=words):
            cluster.add_node(**arguments)
    with pytest.raises(ValueError, match="connected to this client"):
        cluster.remove_node(cluster.head_node)
    with pytest.raises(ValueError, match="'gcs' is none of"):
        cluster.kill(cluster.head_node, "gcs")
    with pytest.raises(RuntimeError, match="uninitialized"):
        Cluster(connect=True)
    assert cluster.list_all_nodes() == [cluster.head_node]
