"""A node leaves by `sparkray drain`: nobody loses anything by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster, ClusterNode
from sparkray.draining import drain_node
from tests.cluster.conftest import sparkray_command
from tests.waiting import is_running, wait_until

LARGE = 300_000  # bytes: it lies in a store
HERE = {"here": 0.001}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 0}) as made:
        made.connect(log_to_driver=False)
        yield made


@pytest.fixture
def first(cluster: Cluster) -> Iterator[ClusterNode]:
    """A node with two CPUs and all that says `here`; another one comes when a test says so."""
    yield cluster.add_node(num_cpus=2, resources={"here": 1})
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)


def node() -> str:
    return str(sparkray.get_runtime_context().get_node_id())


@sparkray.remote(max_retries=0)
def where(flag: str = "") -> str:
    if flag:
        wait_until(Path(flag).exists)
    return node()


@sparkray.remote(max_retries=0)
def fill(number: int) -> bytes:
    return bytes([number]) * LARGE


@sparkray.remote(num_cpus=0, max_restarts=1, resources=HERE)
class Counts:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> tuple[int, str]:
        self.count += 1
        return self.count, node()

    def __ray_save__(self) -> int:
        return self.count

    def __ray_restore__(self, count: int) -> None:
        self.count = count


def alive(some: ClusterNode) -> bool:
    return any(one["Alive"] for one in sparkray.nodes() if one["NodeID"] == some.node_id)


def test_a_drained_node_takes_along_neither_tasks_nor_objects_nor_actors(
    cluster: Cluster, first: ClusterNode, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    made = [fill.remote(number) for number in range(5)]
    sparkray.wait(made, num_returns=5, timeout=30, fetch_local=False)
    actor: Any = Counts.remote()  # type: ignore[attr-defined]
    assert sparkray.get(actor.add.remote(), timeout=30) == (1, first.node_id)
    runs = where.remote(str(flag))
    wait_until(lambda: sparkray.available_resources().get("CPU") == 1)
    pids = first.pids()
    second = cluster.add_node(num_cpus=2, resources={"here": 1})

    drain_node(first.node_id[:10], "it is sold", wait=False)

    assert sparkray.get([where.remote() for _ in range(4)], timeout=30) == [second.node_id] * 4
    told = next(one for one in sparkray.nodes() if one["NodeID"] == first.node_id)
    assert (told["Alive"], told["Draining"]) == (True, "it is sold")
    assert "(draining: it is sold)" in sparkray_command("status").stdout
    assert sparkray.get([actor.add.remote() for _ in range(3)], timeout=30)[-1] == (4, second.node_id)
    assert alive(first)
    flag.touch()
    assert sparkray.get(runs, timeout=30) == first.node_id
    wait_until(lambda: not alive(first), "it leaves")
    assert [value[0] for value in sparkray.get(made, timeout=30)] == [0, 1, 2, 3, 4]  # without a retry
    wait_until(lambda: not any(map(is_running, pids)) and not Path(first.folder).exists())
    cluster.remove_node(first)
    assert sparkray.get(actor.add.remote(), timeout=30) == (5, second.node_id)


def test_at_its_deadline_a_node_leaves_and_what_ran_there_runs_again(
    cluster: Cluster, first: ClusterNode, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    runs = where.options(max_retries=1).remote(str(flag))
    wait_until(lambda: sparkray.available_resources().get("CPU") == 1)
    second = cluster.add_node(num_cpus=2)

    done = sparkray_command("drain", first.node_id, "--deadline=0.5", "--reason=it is late")

    assert done.returncode == 0, done.stderr
    assert "it waits for 1 leases" in done.stdout
    assert done.stdout.endswith("It has left.\n")
    flag.touch()
    assert sparkray.get(runs, timeout=30) == second.node_id
    why = next(one["DeathReasonMessage"] for one in sparkray.nodes() if one["NodeID"] == first.node_id)
    assert why.startswith(("it was drained: it is late", "its connection broke"))


def test_what_cannot_be_drained_is_said(cluster: Cluster, first: ClusterNode) -> None:
    assert cluster.head_node is not None
    actor: Any = Counts.remote()  # type: ignore[attr-defined]
    assert sparkray.get(actor.add.remote(), timeout=30)[0] == 1

    with pytest.raises(ValueError, match="head is on that node"):
        drain_node(cluster.head_node.node_id)
    with pytest.raises(ValueError, match="is not idle: it has actors"):
        drain_node(first.node_id, idle_only=True)
    with pytest.raises(ValueError, match="no node of this session"):
        drain_node("ffffffffffffffff")
    assert sparkray_command("drain", "ffffffffffffffff").returncode == 2
