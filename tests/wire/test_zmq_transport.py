"""Packets between nodes: the real sockets on loopback, and their twin in memory, held to the same promises."""

from __future__ import annotations

import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import pytest
import zmq

from sparkray_core.ids import NodeId
from sparkray_core.wire import zmq_transport
from sparkray_core.wire.memory_transport import MemoryNetwork
from sparkray_core.wire.transport import Transport
from sparkray_core.wire.zmq_transport import CannotListen, ZmqTransport, new_session_keys

LIMIT_S = 5.0
A, B, C = NodeId(b"node-aaa"), NodeId(b"node-bbb"), NodeId(b"node-ccc")


@dataclass
class Nodes:
    """Makes transports, and waits on all of them as their loops would."""

    make: Callable[[NodeId], Transport]
    all: list[Transport] = field(default_factory=list)

    def __call__(self, node: NodeId) -> Transport:
        self.all.append(self.make(node))
        return self.all[-1]

    def wait(self, at: Transport, count: int) -> list[tuple[NodeId, bytes]]:
        """The next `count` packets that arrive at this one. The others only do what keeps them connected."""
        arrived: list[tuple[NodeId, bytes]] = []
        deadline = time.monotonic() + LIMIT_S
        while len(arrived) < count:
            assert time.monotonic() < deadline, f"{len(arrived)} of {count} packets after {LIMIT_S} s: {arrived[-3:]}"
            for transport in self.all:
                more = transport.receive()
                assert transport is at or more == []
                arrived += more
            watched = [transport for transport in self.all if transport.fileno() >= 0]
            if len(arrived) < count and watched and not any(transport.pending() for transport in watched):
                select.select(watched, [], [], LIMIT_S)
        return arrived

    def close(self) -> None:
        for transport in self.all:
            transport.close()


@contextmanager
def on_loopback(keys: tuple[bytes, bytes] | None = None) -> Iterator[Nodes]:
    session = keys or new_session_keys()
    nodes = Nodes(lambda node: ZmqTransport(node, os.urandom(8), session))
    try:
        yield nodes
    finally:
        nodes.close()


@contextmanager
def in_memory() -> Iterator[Nodes]:
    nodes = Nodes(MemoryNetwork().transport)
    yield nodes
    nodes.close()


@pytest.fixture(params=[on_loopback, in_memory])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    with request.param() as nodes:
        yield nodes


# ---------------------------------------------------------------------------------- what both promise
def test_packets_arrive_with_their_sender(nodes: Nodes) -> None:
    a, b = nodes(A), nodes(B)
    a.connect(B, b.address)
    b.connect(A, a.address)

    assert a.send(B, b"to b")
    assert nodes.wait(b, 1) == [(A, b"to b")]
    assert b.send(A, b"to a")
    assert nodes.wait(a, 1) == [(B, b"to a")]


def test_one_node_hears_many(nodes: Nodes) -> None:
    a, b, c = nodes(A), nodes(B), nodes(C)
    b.connect(A, a.address)
    c.connect(A, a.address)

    b.send(A, b"from b")
    c.send(A, b"from c")

    assert sorted(nodes.wait(a, 2)) == [(B, b"from b"), (C, b"from c")]


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 << 20])
def test_a_packet_of_any_size_arrives_whole(nodes: Nodes, size: int) -> None:
    a, b = nodes(A), nodes(B)
    a.connect(B, b.address)
    packet = os.urandom(size)

    a.send(B, packet)

    assert nodes.wait(b, 1) == [(A, packet)]


def test_nothing_is_ever_left_unseen_by_a_loop_that_waits(nodes: Nodes) -> None:
    a, b = nodes(A), nodes(B)
    a.connect(B, b.address)
    b.connect(A, a.address)
    dice = random.Random(1)
    for turn in range(100):
        sender, receiver, to, of = (a, b, B, A) if turn % 2 else (b, a, A, B)
        packets = [b"%d %d" % (turn, i) for i in range(dice.randrange(1, 20))]
        for packet in packets:
            sender.send(to, packet)

        assert nodes.wait(receiver, len(packets)) == [(of, packet) for packet in packets]


def test_a_packet_to_a_peer_that_is_not_connected_is_dropped_and_said_to_be(nodes: Nodes) -> None:
    a, b = nodes(A), nodes(B)
    assert not a.send(B, b"too early")
    a.connect(B, b.address)
    assert a.send(B, b"in time")
    assert nodes.wait(b, 1) == [(A, b"in time")]
    a.disconnect(B)
    a.disconnect(B)
    assert not a.send(B, b"too late")


def test_connecting_again_to_the_same_address_changes_nothing_and_to_another_moves_on(nodes: Nodes) -> None:
    a, b, c = nodes(A), nodes(B), nodes(C)
    a.connect(B, b.address)
    a.send(B, b"1")
    a.connect(B, b.address)
    a.send(B, b"2")
    assert nodes.wait(b, 2) == [(A, b"1"), (A, b"2")]

    a.connect(B, c.address)
    a.send(B, b"3")
    assert nodes.wait(c, 1) == [(A, b"3")]


# ---------------------------------------------------------------------------------- TCP
def test_a_turn_is_bounded_and_what_is_left_is_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_transport, "TURN_PACKETS", 10)
    with on_loopback() as nodes:
        a, b = nodes(A), nodes(B)
        a.connect(B, b.address)
        for i in range(100):
            a.send(B, b"%d" % i)
        assert nodes.wait(b, 100) == [(A, b"%d" % i) for i in range(100)]

        a.send(B, b"last")
        assert nodes.wait(b, 1) == [(A, b"last")]
        assert (b.receive(), b.pending()) == ([], False)


def test_a_peer_that_comes_later_or_comes_back_is_reached() -> None:
    with on_loopback() as nodes:
        a = nodes(A)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        a.connect(B, f"tcp://127.0.0.1:{port}")
        a.send(B, b"before you were there")
        keys = (a._public, a._secret) if isinstance(a, ZmqTransport) else new_session_keys()

        for life in (1, 2):
            b = ZmqTransport(B, os.urandom(8), keys, port=port)
            nodes.all.append(b)
            a.send(B, b"life %d" % life)
            while (A, b"life %d" % life) not in nodes.wait(b, 1):
                pass
            nodes.all.remove(b)
            b.close()


def listens_for_breaks(keys: tuple[bytes, bytes]) -> ZmqTransport:
    return ZmqTransport(A, os.urandom(8), keys, notices=True)


def test_a_peer_that_is_no_more_is_told_once_and_after_its_last_packet() -> None:
    keys = new_session_keys()
    with on_loopback(keys) as nodes:
        here = listens_for_breaks(keys)
        nodes.all.append(here)
        there, other = nodes(B), nodes(C)
        for peer, name in ((there, B), (other, C)):
            here.connect(name, peer.address)
            peer.connect(A, here.address)
            peer.send(A, b"hello")
        nodes.wait(here, 2)
        assert here.lost() == []
        there.send(A, b"last word")
        nodes.all.remove(there)
        there.close()

        assert nodes.wait(here, 1) == [(B, b"last word")]
        lost: list[NodeId] = []
        deadline = time.monotonic() + LIMIT_S
        while not lost:
            assert time.monotonic() < deadline, "nobody was told to be gone"
            select.select([here], [], [], LIMIT_S)
            assert here.receive() == []
            lost = here.lost()
        assert lost == [B]
        here.disconnect(B)
        other.send(A, b"still here")
        assert nodes.wait(here, 1) == [(C, b"still here")]
        assert here.lost() == []


def test_a_connection_that_breaks_costs_no_peer_its_life() -> None:
    keys = new_session_keys()
    with on_loopback(keys) as nodes:
        here = listens_for_breaks(keys)
        nodes.all.append(here)
        there = nodes(B)
        here.connect(B, there.address)
        there.connect(A, here.address)
        there.send(A, b"hello")
        nodes.wait(here, 1)
        port = int(here.address.rpartition(":")[2])
        (descriptor,) = [
            one.fd
            for one in psutil.Process().net_connections("tcp")
            if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED
        ]
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)  # as if the network had failed

        breaks = here._breaks
        assert breaks is not None
        deadline = time.monotonic() + LIMIT_S
        probed = False
        while not probed or breaks._probes:
            assert time.monotonic() < deadline, f"not looked for, or without an answer: {breaks._probes}"
            select.select([here], [], [], LIMIT_S)
            here.receive()
            probed |= bool(breaks._probes)
        assert here.lost() == []
        there.send(A, b"again")
        assert nodes.wait(here, 1) == [(B, b"again")]


def test_a_port_that_is_taken_is_named_and_nothing_is_left_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            CannotListen, match=rf"tcp://127\.0\.0\.1:{port}: Address already in use\. Name another port"
        ):
            ZmqTransport(A, os.urandom(8), new_session_keys(), port=port)


def test_no_thread_and_no_descriptor_is_left_after_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_transport, "LINGER_MS", 20)
    process = psutil.Process()
    before = process.num_threads(), process.num_fds()
    for _ in range(3):
        with on_loopback() as nodes:
            a, b = nodes(A), nodes(B)
            a.connect(B, b.address)
            a.connect(C, "tcp://127.0.0.1:9")  # where nobody listens
            a.send(C, b"never read")
            a.send(B, b"x")
            nodes.wait(b, 1)
    assert (process.num_threads(), process.num_fds()) == before


def test_a_peer_costs_a_connection_once_there_is_something_to_say() -> None:
    process = psutil.Process()
    with on_loopback() as nodes:
        a, b = nodes(A), nodes(B)
        before = process.num_fds()
        for number in range(100):
            a.connect(NodeId(b"%08d" % number), f"tcp://127.0.0.1:{1 + number}")
        a.connect(B, b.address)
        assert process.num_fds() == before
        a.send(B, b"x")
        assert process.num_fds() > before
        assert nodes.wait(b, 1) == [(A, b"x")]


@pytest.mark.slow
def test_there_may_be_more_peers_than_libzmq_has_sockets_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq_transport, "LINGER_MS", 0)
    with on_loopback() as nodes:
        a = nodes(A)
        for number in range(1_123):
            peer = NodeId(b"%08d" % number)
            a.connect(peer, "tcp://127.0.0.1:9")
            assert a.send(peer, b"x")


def test_a_peer_whose_address_is_none_is_not_reached_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with on_loopback() as nodes:
        a = nodes(A)
        a.connect(B, "nowhere")

        assert not a.send(B, b"x")
        assert f"node {B.hex()} cannot be reached at nowhere" in caplog.text


def test_a_last_word_arrives_although_its_sender_closes() -> None:
    with on_loopback() as nodes:
        a, b = nodes(A), nodes(B)
        a.connect(B, b.address)
        a.send(B, b"x")
        nodes.wait(b, 1)

        a.send(B, b"goodbye")
        nodes.all.remove(a)
        a.close()

        assert nodes.wait(b, 1) == [(A, b"goodbye")]


# ---------------------------------------------------------------------------------- strangers
REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


def no_curve(client: zmq.Socket[bytes], server: bytes) -> None:
    pass


def another_key(client: zmq.Socket[bytes], server: bytes) -> None:
    client.curve_serverkey = server
    client.curve_publickey, client.curve_secretkey = new_session_keys()


def another_session(client: zmq.Socket[bytes], server: bytes) -> None:
    public, client.curve_secretkey = new_session_keys()
    client.curve_publickey = client.curve_serverkey = public


def the_public_key_alone(client: zmq.Socket[bytes], server: bytes) -> None:
    client.curve_serverkey = client.curve_publickey = server
    client.curve_secretkey = new_session_keys()[1]


@pytest.mark.parametrize("arm", [no_curve, another_key, another_session, the_public_key_alone])
def test_a_stranger_is_cut_off_and_gets_no_packet_through(arm: Callable[[zmq.Socket[bytes], bytes], None]) -> None:
    keys = new_session_keys()
    with on_loopback(keys) as nodes, zmq.Context() as context, context.socket(zmq.DEALER) as client:
        a, b = nodes(A), nodes(B)
        client.linger = 0
        client.routing_id = B + bytes(8)
        client.reconnect_ivl = 10_000  # once is enough; without any, a send after the cut would block for ever
        arm(client, keys[0])
        with client.get_monitor_socket(REFUSED) as events:
            client.connect(a.address)
            client.send(b"let me in")
            deadline = time.monotonic() + LIMIT_S
            while not events.poll(0):
                assert time.monotonic() < deadline, "the stranger was not cut off"
                select.select([a.fileno(), events.fileno()], [], [], 0.05)
                assert a.receive() == []
            client.disable_monitor()

        b.connect(A, a.address)
        b.send(A, b"one of us")
        assert nodes.wait(a, 1) == [(B, b"one of us")]


def test_a_stranger_with_another_key_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    keys = new_session_keys()
    with on_loopback(keys) as nodes, zmq.Context() as context, context.socket(zmq.DEALER) as client:
        a = nodes(A)
        client.linger = 0
        client.reconnect_ivl = 1
        another_key(client, keys[0])
        client.connect(a.address)
        deadline = time.monotonic() + LIMIT_S
        while not caplog.messages:
            assert time.monotonic() < deadline, "nothing was reported"
            select.select([a], [], [], 0.05)
            assert a.receive() == []
    assert caplog.messages == ["a peer at 127.0.0.1 was refused: its key is of another session"]


def test_what_does_not_speak_zmq_is_cut_off() -> None:
    with on_loopback() as nodes, socket.socket() as browser:
        a = nodes(A)
        host, _, port = a.address.removeprefix("tcp://").partition(":")
        browser.settimeout(LIMIT_S)
        browser.connect((host, int(port)))
        browser.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
        try:
            while browser.recv(1000):
                pass
        except ConnectionResetError:
            pass
        assert a.receive() == []


# ---------------------------------------------------------------------------------- the twin's faults
def test_a_parted_network_loses_everything_until_it_is_healed() -> None:
    network = MemoryNetwork()
    a, b = network.transport(A), network.transport(B)
    a.connect(B, b.address)

    network.part(A, B)
    assert a.send(B, b"lost")
    network.heal(B, A)
    assert a.send(B, b"heard")

    assert b.receive() == [(A, b"heard")]


def test_a_delayed_packet_arrives_when_the_clock_says_so() -> None:
    network = MemoryNetwork(random.Random(1), delay_s=0.1)
    a, b = network.transport(A), network.transport(B)
    a.connect(B, b.address)
    a.send(B, b"x")
    due = network.next_arrival()
    assert due is not None
    assert due > 0

    network.advance(due / 2)
    assert (b.receive(), b.pending()) == ([], False)
    network.advance(due)
    assert (b.pending(), b.receive(), network.next_arrival()) == (True, [(A, b"x")], None)


def test_the_same_seed_loses_and_doubles_the_same_packets() -> None:
    def course(seed: int) -> list[bytes]:
        network = MemoryNetwork(random.Random(seed), loss=0.3, doubling=0.3, delay_s=0.01)
        a, b = network.transport(A), network.transport(B)
        a.connect(B, b.address)
        for i in range(100):
            a.send(B, b"%d" % i)
        network.advance(10.0)
        return [packet for _, packet in b.receive()]

    assert course(1) == course(1) != course(2)
    assert len(set(course(1))) < 100
    assert len(set(course(1))) < len(course(1))
    assert course(1) != sorted(course(1), key=int)
