"""Chunks by a lane of their own: what comes, who is let in, and what becomes of those that a lane cannot carry."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sparkray_core.ids import NodeId, ObjectId
from sparkray_core.messages import ObjectChunk
from sparkray_core.run.lanes import RETRY_S, WORTH_BYTES, Lanes
from sparkray_core.run.loop import Loop
from sparkray_core.run.mailbox import Mailbox
from tests.loops import run_until

SOURCE, PULLER = NodeId(b"source.."), NodeId(b"puller..")
SOME = ObjectId(b"o" * 28)
SIZE = 4 * WORTH_BYTES


class Pair:
    """A source and a puller on one loop; what they would send by their link is handed over at once."""

    def __init__(self, secret: bytes | None = b"s" * 40, other: bytes | None = b"s" * 40) -> None:
        self.late = 0.0
        self.loop = Loop(clock=lambda: Loop().clock() + self.late)
        self.came: list[tuple[NodeId, bytes]] = []
        self.broken: list[NodeId] = []
        self.by_link: list[ObjectChunk] = []
        self.asked = 0
        self.source = self.lanes(SOURCE, secret)
        self.puller = self.lanes(PULLER, other)

    def lanes(self, node: NodeId, secret: bytes | None) -> Lanes:
        return Lanes(
            node,
            secret,
            "127.0.0.1",
            self.loop,
            ask=self._ask,
            by_link=lambda node, chunk: self.by_link.append(chunk),
            on_chunk=lambda node, chunk: self.came.append((node, bytes(chunk.data))),
            on_broken=self.broken.append,
        )

    def _ask(self, node: NodeId) -> None:
        assert node == PULLER
        self.asked += 1

    def send(self, number: int) -> bool:
        return self.source.send(PULLER, "tcp://127.0.0.1:1", chunk(number))

    def connect(self) -> None:
        """The first chunk asks for the lane, and goes by the link."""
        assert not self.send(0)
        assert self.asked == 1
        self.source.learn(PULLER, self.puller.open())

    def close(self) -> None:
        self.source.close()
        self.puller.close()
        self.loop.close()


def chunk(number: int) -> ObjectChunk:
    return ObjectChunk(SOME, 0, SIZE, content(number))


def content(number: int) -> bytes:
    return bytes([number]) * WORTH_BYTES


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_chunks_come_in_order_and_whole_and_none_by_the_link(pair: Pair) -> None:
    pair.connect()
    assert all(pair.send(number) for number in range(1, 20))

    run_until(pair.loop, lambda: len(pair.came) == 19)

    assert pair.came == [(SOURCE, content(number)) for number in range(1, 20)]
    assert (pair.by_link, pair.broken, pair.asked) == ([], [], 1)


def test_small_chunk_is_no_reason_for_a_lane(pair: Pair) -> None:
    assert not pair.source.send(PULLER, "tcp://127.0.0.1:1", ObjectChunk(SOME, 0, 10, bytes(10)))
    assert pair.asked == 0


def test_puller_of_another_session_gets_nothing_and_the_link_gets_all() -> None:
    pair = Pair(other=b"t" * 40)
    pair.connect()
    assert all(pair.send(number) for number in range(1, 5))

    run_until(pair.loop, lambda: len(pair.by_link) == 4)

    assert [bytes(one.data) for one in pair.by_link] == [content(number) for number in range(1, 5)]
    assert pair.came == []
    assert not pair.send(5)
    assert pair.asked == 1
    pair.late = RETRY_S + 1
    assert not pair.send(6)
    assert pair.asked == 2  # another attempt, much later
    pair.close()


def test_source_of_another_session_is_not_heard() -> None:
    pair = Pair(secret=b"t" * 40)
    pair.connect()
    assert pair.send(1)

    run_until(pair.loop, lambda: len(pair.by_link) == 1)

    assert (pair.came, pair.broken) == ([], [])
    pair.close()


def test_stranger_who_sends_anything_is_not_heard(pair: Pair) -> None:
    with socket.create_connection(("127.0.0.1", pair.puller.open())) as stranger:
        stranger.sendall(SOURCE + bytes(100))
        stranger.settimeout(0.01)

        def refused() -> bool:
            try:
                return stranger.recv(1000) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        run_until(pair.loop, refused)

    assert (pair.came, pair.broken) == ([], [])


def test_lane_that_breaks_is_told_and_what_was_not_sent_goes_by_the_link(pair: Pair) -> None:
    pair.connect()
    assert pair.send(1)
    run_until(pair.loop, lambda: len(pair.came) == 1)
    [theirs] = pair.puller._incoming
    socket.socket.shutdown(theirs, socket.SHUT_RDWR)
    run_until(pair.loop, lambda: pair.broken == [SOURCE])

    sent = [1]

    def went_by_the_link() -> bool:  # its thread has noticed
        if pair.send(sent[-1] + 1):
            sent.append(sent[-1] + 1)
            return False
        return True

    run_until(pair.loop, went_by_the_link)

    assert pair.came == [(SOURCE, content(1))]
    assert bytes(pair.by_link[-1].data) == content(sent[-1])


def test_without_the_package_there_are_no_lanes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert not pair.send(1)
    assert pair.asked == 0
    assert pair.puller.open() == 0


def test_puller_without_lanes_is_not_asked_again_at_once(pair: Pair) -> None:
    assert not pair.send(1)
    pair.source.learn(PULLER, 0)

    assert not pair.send(2)
    assert (pair.asked, pair.by_link) == (1, [])


def test_dead_node_s_lane_ends(pair: Pair) -> None:
    pair.connect()
    assert pair.send(1)
    run_until(pair.loop, lambda: len(pair.came) == 1)

    pair.source.forget(PULLER)

    run_until(pair.loop, lambda: pair.broken == [SOURCE])
    assert pair.by_link == []


def test_mail_that_comes_after_the_end_is_nobody_s() -> None:
    loop = Loop()
    heard: list[int] = []
    box = Mailbox(loop, heard.append)
    box.put(1)
    box.put(2)
    loop.run(lambda: loop.stop() if heard else None)
    box.close()

    box.put(3)

    assert heard == [1, 2]
    loop.close()
