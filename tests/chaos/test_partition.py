"""A node behind a link that is cut, or that loses packets: it is on this machine, in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.settings import Settings
from tests.chaos.far_node import STORE_BYTES, FarNode
from tests.chaos.network import HERE, THERE, Link, NoNamespaceError
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos

LIMIT_S = 60.0
# Silence after which a node that hears nothing ends by itself (`peer_silence_s`), and what its end may take.
ENDS_S = Settings.node_timeout_s + 2.0 + 5.0


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Link().open())
        except NoNamespaceError as error:
            pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture(scope="module")
def cluster(link: Link) -> Iterator[Cluster]:
    """A head without CPUs, on the address that the other host reaches; this process has joined."""
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "node_ip_address": HERE}
    with Cluster(initialize_head=True, head_node_args=head) as made:
        made.connect(log_to_driver=False)
        yield made


@pytest.fixture
def far(link: Link, cluster: Cluster) -> Iterator[FarNode]:
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        node = FarNode(link.words, THERE, cluster, os.path.join(folder, "s"))
        yield node
        node.end()
        cluster.wait_for_nodes()


@sparkray.remote(max_retries=-1, resources={"place": 0.01}, num_cpus=0)
def doubled(values: Any) -> Any:
    return values * 2


@sparkray.remote(max_retries=-1, resources={"place": 0.01}, num_cpus=0)
def ends_when_told(log: str, go: str) -> str:
    """The node that it ran on. Each attempt notes itself."""
    here = str(sparkray.get_runtime_context().get_node_id())
    with open(log, "a") as file:
        file.write(here + "\n")
    while not os.path.exists(go):
        time.sleep(0.01)
    return here


class _Counts:
    """What it counted is known to the outside by a file: its node, and the number."""

    def __init__(self, log: str) -> None:
        self._log = log
        self._count = 0

    def add(self) -> tuple[str, int]:
        self._count += 1
        here = str(sparkray.get_runtime_context().get_node_id())
        with open(self._log, "a") as file:
            file.write(f"{here} {self._count}\n")
        return here, self._count


Counts = sparkray.remote(max_restarts=-1, max_task_retries=-1, resources={"place": 0.01}, num_cpus=0)(_Counts)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_short_cut_is_noticed_by_nobody(link: Link, far: FarNode, tmp_path: Path) -> None:
    actor = Counts.remote(str(tmp_path / "log"))
    assert sparkray.get(actor.add.remote(), timeout=LIMIT_S) == (far.id, 1)
    values = np.arange(1_000_000)

    with link.losing():
        calls = [actor.add.remote() for _ in range(20)]
        pulled = [doubled.remote(sparkray.put(values + number)) for number in range(4)]
        _, late = sparkray.wait(calls, num_returns=1, timeout=Settings.node_timeout_s * 0.4)
        assert len(late) == len(calls)  # it was cut

    assert sparkray.get(calls, timeout=LIMIT_S) == [(far.id, number) for number in range(2, 22)]
    for number, got in enumerate(sparkray.get(pulled, timeout=LIMIT_S)):
        assert np.array_equal(got, (values + number) * 2)
    assert far.facts()["Alive"]
    assert lines(tmp_path / "log") == [f"{far.id} {number}" for number in range(1, 22)]


def test_a_link_that_loses_packets_costs_time_alone(link: Link, far: FarNode) -> None:
    values = np.arange(250_000)

    with link.losing(0.02):
        refs = [doubled.remote(number) for number in range(500)]
        pulled = [doubled.remote(sparkray.put(values + number)) for number in range(4)]
        assert sparkray.get(refs, timeout=LIMIT_S) == [2 * number for number in range(500)]
        for number, got in enumerate(sparkray.get(pulled, timeout=LIMIT_S)):
            assert np.array_equal(got, (values + number) * 2)

    assert far.facts()["Alive"]


@pytest.mark.parametrize("comes_back", [True, False], ids=["comes back", "stays away"])
def test_a_node_that_was_cut_off_is_buried_ends_and_is_not_believed(
    cluster: Cluster, link: Link, far: FarNode, tmp_path: Path, comes_back: bool
) -> None:
    attempts, log, go = tmp_path / "attempts", tmp_path / "log", tmp_path / "go"
    task = ends_when_told.remote(str(attempts), str(go))
    actor = Counts.remote(str(log))
    assert sparkray.get(actor.add.remote(), timeout=LIMIT_S) == (far.id, 1)
    wait_until(lambda: lines(attempts) == [far.id], "the task runs there")
    near = cluster.add_node(num_cpus=2, resources={"place": 1}, node_ip_address=HERE, object_store_memory=STORE_BYTES)
    cut = link.losing()

    began = time.monotonic()
    cut.__enter__()
    try:
        wait_until(lambda: not far.facts()["Alive"], "it is buried", 2 * ENDS_S)
        buried = time.monotonic() - began
        wait_until(lambda: lines(attempts) == [far.id, near.node_id], "the task runs again")
        go.touch()  # both attempts end now, if the first one is still there
        if not comes_back:
            far.wait_end(ENDS_S)
    finally:
        cut.__exit__(None, None, None)

    assert Settings.node_timeout_s - 0.6 < buried < Settings.node_timeout_s + 2
    assert "silent" in far.facts()["DeathReasonMessage"]
    assert sparkray.get(task, timeout=LIMIT_S) == near.node_id
    calls = [actor.add.remote() for _ in range(50)]
    assert sparkray.get(calls, timeout=LIMIT_S) == [(near.node_id, number) for number in range(1, 51)]
    far.wait_end(ENDS_S)
    assert sparkray.get(actor.add.remote(), timeout=LIMIT_S) == (near.node_id, 51)
    assert lines(attempts) == [far.id, near.node_id]
    assert lines(log) == [f"{far.id} 1", *(f"{near.node_id} {number}" for number in range(1, 52))]
    assert not far.facts()["Alive"]
    cluster.remove_node(near)
