"""Nodes far from each other: real processes, each host's in a network namespace, behind lines that take their time."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray_core.settings import Settings
from tests.chaos.far_node import STORE_BYTES, FarNode
from tests.chaos.forwarding import Line, Weather
from tests.chaos.grounds import Victim, kill_all
from tests.chaos.kills import Kill, schedule
from tests.chaos.network import Net, NoNamespaceError
from tests.chaos.storm import Storm
from tests.waiting import wait_until

FAR = Weather(delay_s=0.05, jitter_s=0.02, loss=0.01)
FLOATS = 12_500  # 100 kB: by such a line, on which TCP takes each lost packet for a crowd, some 0.2 MB/s come
SECONDS = 25.0
LIMIT_S = 60.0
# Long enough to lose what is sent first again. After a cut of half of `node_timeout_s` TCP, which waits twice as long
# each time, says nothing for so long on such a line that a node may be buried, by right.
CUT_S = 0.5
ENDS_S = Settings.node_timeout_s + 2.0 + 5.0  # `peer_silence_s`, and what the end of a node may take


# ------------------------------------------------------------------ what a line decides
def times(line: Line, weather: Weather, count: int, every_s: float = 0.001) -> list[float | None]:
    """How long each packet of 1,000 bytes is under way."""
    due = [line.due(1000, number * every_s, weather) for number in range(count)]
    return [None if one is None else one - number * every_s for number, one in enumerate(due)]


def test_a_line_is_the_same_again_by_its_seed() -> None:
    assert times(Line("1"), FAR, 1000) == times(Line("1"), FAR, 1000) != times(Line("2"), FAR, 1000)


def test_a_line_delays_loses_and_keeps_the_order() -> None:
    line = Line("1")
    due = [line.due(1000, number * 0.001, FAR) for number in range(10_000)]
    came = [one for one in due if one is not None]
    took = [one - number * 0.001 for number, one in enumerate(due) if one is not None]

    assert 0.005 < 1 - len(came) / 10_000 < 0.015
    assert came == sorted(came)
    assert 0.03 <= min(took) <= max(took) <= 0.07


def test_a_line_has_a_rate_and_a_queue() -> None:
    slow = Weather(bytes_per_s=100_000, queue_s=0.05)  # 10 ms for a packet

    came = times(Line("1"), slow, 20, every_s=0.0)

    assert came[:6] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert came[6:] == [None] * 14


# ------------------------------------------------------------------ hosts
@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(Net(others=2, seed=1).open())
        except NoNamespaceError as error:
            pytest.skip(f"no network of namespaces here: {error}")


ECHO = """
import socket, sys
at = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
at.bind((sys.argv[1], 7000))
print(flush=True)
while True:
    at.sendto(*at.recvfrom(100))
"""


@pytest.mark.chaos
def test_packets_between_hosts_take_the_time_that_was_asked_for(net: Net) -> None:
    words = net.others[0].words(sys.executable, "-c", ECHO, net.address(1))
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE) as there,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        assert there.stdout is not None
        there.stdout.readline()
        here.settimeout(0.3)

        def round_trip() -> float:
            began = time.perf_counter()
            here.sendto(b"hello", (net.address(1), 7000))
            assert here.recv(100) == b"hello"
            return time.perf_counter() - began

        near = statistics.median(round_trip() for _ in range(20))
        net.set(Weather(delay_s=0.04))
        far = statistics.median(round_trip() for _ in range(5))
        net.set(Weather(cut=[1]))
        with pytest.raises(TimeoutError):
            round_trip()
        assert net.set(Weather())["cut"] >= 1
        assert round_trip() < 0.04
        there.kill()
    assert near < 0.02
    assert 0.08 <= far < 0.12


@pytest.fixture(scope="module")
def cluster(net: Net) -> Iterator[Cluster]:
    """A head with a CPU, on the address that the other hosts reach; this process has joined."""
    head = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "node_ip_address": net.address(0)}
    with Cluster(initialize_head=True, head_node_args=head) as made:
        made.connect(log_to_driver=False)
        yield made


@contextlib.contextmanager
def node_on(net: Net, number: int, cluster: Cluster) -> Iterator[FarNode]:
    with tempfile.TemporaryDirectory(prefix="sprk-", dir="/tmp") as folder:
        node = FarNode(net.others[number - 1].words, net.address(number), cluster, os.path.join(folder, "s"))
        try:
            yield node
        finally:
            node.end()
            cluster.wait_for_nodes()


class NetGround:
    """Workers are killed, and hosts are cut off for a moment; no node is buried."""

    per_minute: Mapping[str, float] = {"worker": 12, "cut": 8}

    def __init__(self, net: Net, weather: Weather, cluster: Cluster, nodes: list[FarNode]) -> None:
        self._net, self._weather, self._cluster, self._nodes = net, weather, cluster, nodes

    def victim(self, kill: Kill) -> Victim | None:
        number = kill.of(len(self._nodes))
        if kill.kind == "cut":
            return Victim(f"host {number + 1}", lambda: self._cut(number + 1))
        workers = self._nodes[number].workers()
        return Victim(f"host {number + 1}", lambda: kill_all(workers[:1])) if workers else None

    def _cut(self, host: int) -> None:
        self._net.set(self._weather._replace(cut=[host]))
        time.sleep(CUT_S)
        self._net.set(self._weather)

    def lasting(self) -> dict[str, int]:
        head = self._cluster.head_node
        return {} if head is None else {part: pid for part in ("head", "raylet") for pid in head.pids(part)}

    def wait_whole(self, limit: float) -> None:
        self._cluster.wait_for_nodes(limit)

    def buried(self) -> list[str]:
        return [node.id for node in self._nodes if not node.facts()["Alive"]]


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_all_answers_are_right_on_nodes_far_from_each_other(
    net: Net, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with node_on(net, 1, cluster) as one, node_on(net, 2, cluster) as other:
        before = net.set(FAR)
        ground = NetGround(net, FAR, cluster, [one, other])
        summary = Storm(ground, FLOATS).run(1, SECONDS, schedule(1, SECONDS, ground.per_minute))
        after = net.set(Weather())

    with capsys.disabled():
        sys.stdout.write(f"\n{summary}\npackets: {after}\n")
    assert summary.buried == []
    assert all(after[what] > before[what] for what in ("passed", "lost", "cut"))
    assert set(summary.kills) == {"worker", "cut"}


@sparkray.remote(max_retries=-1, num_cpus=1)
def where(seconds: float) -> Any:
    time.sleep(seconds)
    return sparkray.get_runtime_context().get_node_id()


def ready(refs: list[Any]) -> list[Any]:
    return sparkray.wait(refs, num_returns=len(refs), timeout=0)[0]


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off_for_long_is_buried_and_comes_back_as_another_node(net: Net, cluster: Cluster) -> None:
    net.set(FAR)
    assert cluster.head_node is not None
    head = cluster.head_node.node_id
    with node_on(net, 1, cluster) as first:
        refs = [where.remote(0.2) for _ in range(60)]
        wait_until(lambda: first.id in sparkray.get(ready(refs)), "it does its part")
        net.set(FAR._replace(cut=[1]))
        assert set(sparkray.get(refs, timeout=LIMIT_S)) == {head, first.id}  # what it had not answered ran again
        wait_until(lambda: not first.facts()["Alive"], "it is buried", 2 * ENDS_S)
        net.set(FAR)
        first.wait_end(ENDS_S)  # by itself: nobody tells it more than that it is not believed
        with node_on(net, 1, cluster) as second:
            ran_on = sparkray.get([where.remote(0.2) for _ in range(60)], timeout=LIMIT_S)
            assert set(ran_on) == {head, second.id}
        assert not first.facts()["Alive"]
    net.set(Weather())
