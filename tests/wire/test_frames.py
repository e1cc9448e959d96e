"""Frames, hellos and file descriptors over real Unix sockets, all in one thread."""

from __future__ import annotations

import array
import os
import pickle
import random
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkray_core import ids
from sparkray_core.messages import PROTOCOL_VERSION
from sparkray_core.wire import frames, hello
from sparkray_core.wire.frames import JOIN_BYTES, LENGTH, READ_BYTES, Connection, ConnectionLost, FrameTooLarge
from sparkray_core.wire.hello import (
    HELLO_FRAME_BYTES,
    HELLO_LIMIT_S,
    Handshake,
    Hello,
    HelloRefused,
    accept,
    check_hello,
    connect,
    hello_frame,
    listen,
    recv_fd,
    send_fd,
)

LIMIT_S = 5.0
NODE = ids.NodeId(b"nodenode")
ME, YOU = ids.ProcessId(NODE + b"11111111"), ids.ProcessId(NODE + b"22222222")
TOKEN = bytes(range(32))


def a_pair() -> tuple[Connection, Connection]:
    one, other = socket.socketpair()
    return Connection(one, YOU), Connection(other, ME)


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Connection]]:
    one, other = a_pair()
    with closing(one), closing(other):
        yield one, other


def carry(sender: Connection, receiver: Connection, count: int) -> list[bytes]:
    """Let both ends do what they can until `count` frames have arrived."""
    arrived: list[bytes] = []
    deadline = time.monotonic() + LIMIT_S
    while len(arrived) < count:
        writers = [sender] if sender.wants_write else []
        readable, writable, _ = select.select([receiver], writers, [], LIMIT_S)
        assert readable or writable, f"stuck with {len(arrived)} of {count} frames"
        assert time.monotonic() < deadline, f"{len(arrived)} of {count} frames after {LIMIT_S} s"
        if writable:
            sender.flush()
        if readable:
            arrived += receiver.receive()
    return arrived


def wait_lost(connection: Connection) -> tuple[list[bytes], str]:
    """The last frames, and why the connection was lost."""
    last: list[bytes] = []
    while True:
        readable, _, _ = select.select([connection], [], [], LIMIT_S)
        assert readable, "the loss went unnoticed"
        try:
            last += connection.receive()
        except ConnectionLost as lost:
            return last, lost.why if lost.peer == connection.peer else "another peer is named"


# ---------------------------------------------------------------------------------- frames
EDGES = [0, 1, JOIN_BYTES, JOIN_BYTES + 1, READ_BYTES - 5, READ_BYTES - 4, READ_BYTES, 1 << 20, 9 << 20]


@pytest.mark.parametrize("size", EDGES)
def test_a_frame_arrives_whole_whatever_its_size(pair: tuple[Connection, Connection], size: int) -> None:
    body = os.urandom(size)
    pair[0].send(body)
    pair[0].send(b"next")

    assert carry(*pair, 2) == [body, b"next"]
    assert not pair[0].wants_write


def test_a_frame_in_parts_arrives_as_one(pair: tuple[Connection, Connection]) -> None:
    large = os.urandom(300_000)
    wide = memoryview(array.array("Q", range(4000)))
    pair[0].send([b"head", b"", memoryview(large), bytearray(b"tail"), wide])
    pair[0].send([])

    assert carry(*pair, 2) == [b"head" + large + b"tail" + wide.tobytes(), b""]


def test_a_batch_arrives_as_its_frames(pair: tuple[Connection, Connection]) -> None:
    dice = random.Random(1)
    bodies = [dice.randbytes(dice.choice([0, 10, 100, 1000, 20_000, 70_000])) for _ in range(500)]
    pair[0].send_many(bodies)
    pair[0].send_many([])

    assert carry(*pair, 500) == bodies


def test_frames_wait_for_a_slow_reader_and_stay_in_order(pair: tuple[Connection, Connection]) -> None:
    sender, receiver = pair
    bodies = [bytes([i]) * (10 if i % 2 else 50_000) for i in range(100)]
    for body in bodies[:90]:
        sender.send(body)
    sender.send_many(bodies[90:])
    assert sender.wants_write
    assert sender.unsent_bytes > 0

    assert carry(sender, receiver, 100) == bodies
    assert (sender.wants_write, sender.unsent_bytes) == (False, 0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=50), max_size=20), st.randoms(use_true_random=False))
def test_frames_do_not_depend_on_how_the_stream_is_cut(bodies: list[bytes], dice: random.Random) -> None:
    stream = b"".join(LENGTH.pack(len(body)) + body for body in bodies)
    source, sink = socket.socketpair()
    receiver = Connection(sink, YOU)
    arrived: list[bytes] = []
    with closing(receiver), source:
        while stream:
            cut = dice.randrange(1, 30)
            source.send(stream[:cut])
            stream = stream[cut:]
            arrived += receiver.receive()
        assert arrived == bodies
        assert receiver.receive() == []


def test_one_small_frame_costs_one_read() -> None:
    reads: list[int] = []

    class Counting(socket.socket):
        def recv(self, *args: Any) -> bytes:
            reads.append(args[0])
            return super().recv(*args)

    source, plain = socket.socketpair()
    receiver = Connection(Counting(fileno=plain.detach()), YOU)
    with source, closing(receiver):
        source.send(LENGTH.pack(100) + bytes(100))
        assert receiver.receive() == [bytes(100)]
        assert len(reads) == 1

        source.send(b"".join(LENGTH.pack(100) + bytes(100) for _ in range(200)))
        assert receiver.receive() == [bytes(100)] * 200
        assert len(reads) == 2


# ---------------------------------------------------------------------------------- the end of a connection
def test_a_closed_peer_is_reported_after_its_last_frames(pair: tuple[Connection, Connection]) -> None:
    pair[0].send(b"last words")
    pair[0].close()

    assert wait_lost(pair[1]) == ([b"last words"], "closed by the peer")


def test_a_peer_that_dies_in_the_middle_of_a_frame_is_reported(pair: tuple[Connection, Connection]) -> None:
    pair[0].sock.send(LENGTH.pack(4) + b"good" + LENGTH.pack(1000) + b"begun")
    pair[0].close()

    assert wait_lost(pair[1]) == ([b"good"], "closed by the peer in the middle of a frame")


def test_sending_to_a_dead_peer_loses_nothing_that_the_peer_wrote(pair: tuple[Connection, Connection]) -> None:
    survivor, dead = pair
    survivor.send(b"never read")
    dead.send(b"my result")
    dead.close()

    for body in (b"small", bytes(1 << 20), b"small"):
        survivor.send(body)
    survivor.send_many([b"a", b"b"])

    assert not survivor.wants_write
    assert survivor.lost is not None
    assert wait_lost(survivor)[0] == [b"my result"]


def test_what_waits_for_a_peer_that_dies_is_dropped(pair: tuple[Connection, Connection]) -> None:
    survivor, dead = pair
    survivor.send(bytes(10 << 20))
    assert survivor.wants_write
    dead.close()

    survivor.flush()

    assert not survivor.wants_write
    assert wait_lost(survivor)[0] == []


def test_a_length_beyond_the_limit_cuts_the_connection(pair: tuple[Connection, Connection]) -> None:
    pair[0].sock.send(b"GET / HTTP/1.1\r\n")

    assert wait_lost(pair[1]) == ([], "it announced a frame of 1,195,725,856 bytes")


@pytest.mark.parametrize("send", [Connection.send, lambda c, body: c.send([body, b""]), lambda c, b: c.send_many([b])])
def test_a_frame_beyond_the_limit_is_refused_before_it_is_sent(
    pair: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch, send: Callable[[Connection, bytes], None]
) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100_000)
    with pytest.raises(FrameTooLarge, match=r"100,001 bytes.*put"):
        send(pair[0], bytes(100_001))

    pair[0].send(b"and the connection is sound")
    assert carry(*pair, 1) == [b"and the connection is sound"]


def test_closing_twice_does_nothing() -> None:
    for connection in a_pair():
        connection.close()
        connection.close()
        assert connection.fileno() == -1


@pytest.mark.parametrize("error", [ConnectionLost(YOU, "why"), FrameTooLarge(1 << 40), HelloRefused("why")])
def test_errors_can_be_pickled(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)


# ---------------------------------------------------------------------------------- hello
@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    # Relative, for tmp_path may be longer than a socket's path can be.
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with listen("x.sock") as listener:
            yield listener
    finally:
        os.chdir(before)


def a_stranger(listener: socket.socket) -> tuple[socket.socket, Handshake]:
    """A plain socket that has connected, and the other end's handshake."""
    stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stranger.connect(listener.getsockname())
    handshake = accept(listener, TOKEN, 100.0)
    assert handshake is not None
    return stranger, handshake


def test_a_listener_is_for_its_own_user_and_does_not_block(listener: socket.socket) -> None:
    assert stat.S_IMODE(os.stat("x.sock").st_mode) == 0o600
    assert accept(listener, TOKEN, 0.0) is None


def test_a_peer_with_the_token_is_welcome_and_may_talk_at_once(listener: socket.socket) -> None:
    with closing(connect("x.sock", TOKEN, ME, "driver", YOU)) as mine:
        mine.send(b"first")
        handshake = accept(listener, TOKEN, 100.0)
        assert handshake is not None
        assert handshake.deadline == 100.0 + HELLO_LIMIT_S
        assert select.select([handshake], [], [], LIMIT_S)[0]
        welcome = handshake.receive()
        assert welcome is not None
        with closing(welcome[0]) as yours:
            assert welcome[1] == Hello(ME, "driver", PROTOCOL_VERSION)
            assert (mine.peer, yours.peer) == (YOU, ME)
            assert carry(mine, yours, 1) == [b"first"]
            yours.send(b"answer")
            assert carry(yours, mine, 1) == [b"answer"]


def test_a_hello_may_come_byte_by_byte(listener: socket.socket) -> None:
    stranger, handshake = a_stranger(listener)
    body = hello_frame(TOKEN, ME, "worker")
    stream = LENGTH.pack(len(body)) + body
    assert len(stream) == HELLO_FRAME_BYTES
    with stranger:
        assert handshake.receive() is None
        for at in range(len(stream) - 1):
            stranger.send(stream[at : at + 1])
            assert handshake.receive() is None
        stranger.send(stream[-1:])
        welcome = handshake.receive()
        assert welcome is not None
        welcome[0].close()
        assert welcome[1].role == "worker"


def with_version(version: int) -> bytes:
    body = bytearray(hello_frame(TOKEN, ME, "worker"))
    struct.pack_into("!H", body, 8, version)
    return bytes(body)


def drain(handshake: Handshake) -> None:
    for _ in range(10):
        assert handshake.receive() is None


REFUSED = {
    "garbage": (os.urandom(200), "does not speak"),
    "http": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "does not speak"),
    "three bytes": (b"abc", "does not speak"),
    "a huge frame": (LENGTH.pack(1 << 30), "does not speak"),
    "a pickle in a frame": (LENGTH.pack(80) + pickle.dumps(print).ljust(80), "does not speak"),
    "another token": (LENGTH.pack(80) + hello_frame(bytes(32), ME, "worker"), "token is of another session"),
    "another version": (LENGTH.pack(80) + with_version(7), "version 7.*this process version 1.*same sparkray"),
    "a role that is no text": (
        LENGTH.pack(80) + hello_frame(TOKEN, ME, "worker").replace(b"worker", b"\xff" * 6),
        "role",
    ),
    "too little": (LENGTH.pack(80) + hello_frame(TOKEN, ME, "worker")[:-1], "closed before"),
    "nothing": (b"", "closed before"),
}


@pytest.mark.parametrize(("said", "why"), REFUSED.values(), ids=REFUSED)
def test_a_stranger_is_refused_and_cut_off(listener: socket.socket, said: bytes, why: str) -> None:
    stranger, handshake = a_stranger(listener)
    with stranger:
        stranger.send(said)
        stranger.shutdown(socket.SHUT_WR)
        with pytest.raises(HelloRefused, match=why):
            drain(handshake)

        assert handshake.fileno() == -1
        with suppress(ConnectionResetError):  # when part of what it said was never read
            assert stranger.recv(100) == b""


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=100), st.integers(0, 80))
def test_no_bytes_are_a_hello_but_a_hello(noise: bytes, keep: int) -> None:
    whole = hello_frame(TOKEN, ME, "driver")
    for body in (noise, whole[:keep] + noise):
        if body != whole:
            try:
                said = check_hello(body, TOKEN)
            except HelloRefused:
                continue
            assert body[-32:] == TOKEN
            assert said.version == PROTOCOL_VERSION


def test_another_user_is_refused_and_not_shown_the_token(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, handshake = a_stranger(listener)
    body = hello_frame(TOKEN, ME, "worker")
    stranger.send(LENGTH.pack(len(body)) + body)
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("the system does not tell a peer's user")
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)

    with stranger, pytest.raises(HelloRefused, match=f"user {mine}, this process to user {mine + 1}"):
        handshake.receive()
    with pytest.raises(ConnectionLost, match=f"user {mine}"):
        connect("x.sock", TOKEN, ME, "driver", YOU)
    with listener.accept()[0] as other:
        assert other.recv(100) == b""


def test_connecting_to_nobody_says_so(listener: socket.socket) -> None:
    with pytest.raises(ConnectionLost, match=r"cannot connect to y\.sock: No such file"):
        connect("y.sock", TOKEN, ME, "driver", YOU)
    listener.close()
    with pytest.raises(ConnectionLost, match=r"cannot connect to x\.sock: Connection refused"):
        connect("x.sock", TOKEN, ME, "driver", YOU)


def test_connecting_to_a_listener_that_never_accepts_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hello, "BACKLOG", 0)
    monkeypatch.setattr(hello, "CONNECT_LIMIT_S", 0.05)
    with listen("x.sock"), ExitStack() as connected:

        def connect_on_and_on() -> None:
            while True:
                connected.enter_context(closing(connect("x.sock", TOKEN, ME, "driver", YOU)))

        with pytest.raises(ConnectionLost, match=r"accepted nobody|refused"):
            connect_on_and_on()


@pytest.mark.parametrize("path", ["x.sock", "long" * 30])
def test_a_path_that_cannot_be_listened_on_is_named(listener: socket.socket, path: str) -> None:
    with pytest.raises(OSError, match=f"cannot listen: .*{path}"):
        listen(path)


# ---------------------------------------------------------------------------------- descriptors
def test_a_descriptor_goes_ahead_of_the_frames(pair: tuple[Connection, Connection], tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"shared")
        file.flush()
        send_fd(pair[0].sock, file.fileno())
        pair[0].send(b"frame")

        fd = recv_fd(pair[1].sock, ME)

        try:
            assert os.fstat(fd).st_ino == os.fstat(file.fileno()).st_ino
            assert os.pread(fd, 10, 0) == b"shared"
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)
    assert not pair[1].sock.getblocking()
    assert carry(*pair, 1) == [b"frame"]


def test_a_descriptor_that_does_not_come_is_said(pair: tuple[Connection, Connection]) -> None:
    with pytest.raises(ConnectionLost, match=r"no file descriptor for 0\.05 s"):
        recv_fd(pair[1].sock, ME, limit_s=0.05)
    pair[0].send(b"a frame instead")
    with pytest.raises(ConnectionLost, match="0 file descriptors"):
        recv_fd(pair[1].sock, ME)
    pair[0].close()
    pair[1].receive()
    with pytest.raises(ConnectionLost, match="was our token refused"):
        recv_fd(pair[1].sock, ME)
