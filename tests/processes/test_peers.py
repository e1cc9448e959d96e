"""Nodes find each other by introductions, deliver in order, and forget for good. (What links mend: test_link.py.)"""

from __future__ import annotations

import random

from sparkray_core.ids import HEAD_NODE, NodeId
from sparkray_core.run.limits import peer_silence_s
from sparkray_core.run.loop import Callback, Loop
from sparkray_core.run.peers import Peers
from sparkray_core.settings import Settings
from sparkray_core.wire.memory_transport import MemoryNetwork, MemoryTransport

SILENCE_S = peer_silence_s(Settings())


class HandLoop(Loop):
    """Its clock is moved by hand; memory transports have no descriptor to watch."""

    def __init__(self) -> None:
        self.now = 100.0
        super().__init__(lambda: self.now)

    def watch(self, descriptor: int, on_readable: Callback, on_writable: Callback | None = None) -> None:
        assert descriptor == -1

    def forget(self, descriptor: int) -> None:
        assert descriptor == -1


class End:
    """One node's peers, and what they told."""

    def __init__(self, network: MemoryNetwork, loop: Loop, node: NodeId) -> None:
        self.node = node
        self.transport: MemoryTransport = network.transport(node)
        self.got: list[tuple[NodeId, bytes]] = []
        self.lost: list[tuple[NodeId, str]] = []
        self.peers = Peers(
            loop,
            self.transport,
            self.transport.address,
            lambda sender, payloads: self.got.extend((sender, payload) for payload in payloads),
            lambda lost, why: self.lost.append((lost, why)),
        )


class Cluster:
    def __init__(self, network: MemoryNetwork | None = None) -> None:
        self.network = network or MemoryNetwork()
        self.loop = HandLoop()
        self.head = End(self.network, self.loop, HEAD_NODE)
        self.a = End(self.network, self.loop, NodeId(b"node-a.."))
        self.b = End(self.network, self.loop, NodeId(b"node-b.."))
        self.ends = [self.head, self.a, self.b]

    def settle(self, seconds: float = 0.0, step: float = 0.01) -> None:
        """Move the clock; at every step all read what came, then their timers ring."""
        until = self.loop.now + seconds
        while True:
            self.network.advance(self.loop.now)
            while any(end.transport.pending() for end in self.ends):
                for end in self.ends:
                    end.peers._on_readable()
            for end in self.ends:
                if end.peers._timer.at <= self.loop.now:
                    end.peers._timer.at = float("inf")
                    end.peers._on_clock()
                end.peers.flush()
            if self.loop.now >= until and not any(end.transport.pending() for end in self.ends):
                return
            self.loop.now += step if self.loop.now < until else 0


def test_a_peer_that_is_gone_is_told_after_what_it_sent_and_not_once_it_is_forgotten() -> None:
    cluster = Cluster()
    cluster.a.peers.connect(HEAD_NODE, cluster.head.transport.address)
    cluster.a.peers.send(HEAD_NODE, b"join")
    cluster.settle(0.1)
    cluster.a.peers.send(HEAD_NODE, b"last word")
    cluster.a.peers.flush()
    cluster.head.transport.gone = [cluster.a.node, cluster.b.node]

    cluster.settle()

    assert cluster.head.got == [(cluster.a.node, b"join"), (cluster.a.node, b"last word")]
    assert cluster.head.lost == [(cluster.a.node, "its connection broke, and nobody listens where it did")]
    cluster.head.peers.forget(cluster.a.node)
    cluster.head.transport.gone = [cluster.a.node]
    cluster.settle()
    assert len(cluster.head.lost) == 1


def test_head_answers_a_raylet_of_which_it_knew_nothing() -> None:
    cluster = Cluster()
    cluster.a.peers.connect(HEAD_NODE, cluster.head.transport.address)
    cluster.a.peers.send(HEAD_NODE, b"join")
    cluster.settle()
    assert cluster.head.got == [(cluster.a.node, b"join")]

    cluster.head.peers.send(cluster.a.node, b"table")
    cluster.settle()
    assert cluster.a.got == [(HEAD_NODE, b"table")]


def test_what_is_sent_before_the_address_is_known_arrives_in_order() -> None:
    cluster = Cluster()
    for number in range(5):
        cluster.a.peers.send(cluster.b.node, b"%d" % number)
    cluster.settle(1.0)
    assert cluster.b.got == []

    cluster.a.peers.connect(cluster.b.node, cluster.b.transport.address)
    cluster.settle()
    assert [payload for _, payload in cluster.b.got] == [b"0", b"1", b"2", b"3", b"4"]


def test_everything_arrives_over_a_network_that_loses_and_delays() -> None:
    cluster = Cluster(MemoryNetwork(random.Random(7), loss=0.3, doubling=0.1, delay_s=0.02))
    cluster.a.peers.connect(HEAD_NODE, cluster.head.transport.address)
    sent = [b"%d" % number for number in range(50)]
    for payload in sent:
        cluster.a.peers.send(HEAD_NODE, payload)
        cluster.settle(0.02)
    cluster.settle(30.0)

    assert [payload for _, payload in cluster.head.got] == sent
    assert not cluster.a.peers.unacknowledged


def test_peer_that_owes_an_answer_and_is_silent_is_lost_once() -> None:
    cluster = Cluster()
    cluster.a.peers.connect(cluster.b.node, cluster.b.transport.address)
    cluster.a.peers.send(cluster.b.node, b"hello")
    cluster.settle(1.0)
    cluster.network.part(cluster.a.node, cluster.b.node)
    cluster.settle(2 * SILENCE_S)
    assert cluster.a.lost == [], "it owes nothing"

    cluster.a.peers.send(cluster.b.node, b"are you there?")
    cluster.settle(2 * SILENCE_S)

    assert [node for node, _ in cluster.a.lost] == [cluster.b.node]
    assert cluster.b.lost == []


def test_forgotten_node_is_told_what_was_meant_for_it_and_not_listened_to_any_more() -> None:
    cluster = Cluster()
    cluster.a.peers.connect(HEAD_NODE, cluster.head.transport.address)
    cluster.a.peers.send(HEAD_NODE, b"join")
    cluster.settle()
    cluster.head.peers.send(cluster.a.node, b"you are gone")
    cluster.head.peers.forget(cluster.a.node)
    cluster.a.peers.send(HEAD_NODE, b"I am not")
    cluster.settle(1.0)
    cluster.head.peers.connect(cluster.a.node, cluster.a.transport.address)
    cluster.head.peers.send(cluster.a.node, b"too late")
    cluster.settle(1.0)

    assert cluster.a.got == [(HEAD_NODE, b"you are gone")]
    assert cluster.head.got == [(cluster.a.node, b"join")]
    assert cluster.a.peers.unacknowledged
    assert not cluster.head.peers.unacknowledged


def test_close_confirms_what_was_received() -> None:
    cluster = Cluster()
    cluster.head.peers.connect(cluster.a.node, cluster.a.transport.address)
    cluster.head.peers.send(cluster.a.node, b"the end")
    cluster.settle()
    assert cluster.head.peers.unacknowledged
    cluster.a.peers.close()
    cluster.ends.remove(cluster.a)
    cluster.settle()

    assert not cluster.head.peers.unacknowledged
