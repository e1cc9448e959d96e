"""A raylet that reads in the segment of another of its host: who is shown it, what is copied, and when copying ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparkray_core.ids import NodeId, ObjectId, raylet_of
from sparkray_core.model.effects import CopyChunk, ForgetChunks, MapPeer
from sparkray_core.model.events import ChunkCopied, Event, PeerMapped
from sparkray_core.run.local_peers import NEIGHBOUR, LocalPeers
from sparkray_core.run.loop import Loop
from sparkray_core.run.neighbours import PIECE_BYTES, Neighbours
from sparkray_core.store.segment import Segment
from sparkray_core.wire import hello
from tests.loops import run_until

SIZE = 16 * PIECE_BYTES
TOKEN = b"t" * hello.TOKEN_BYTES
READER, SOURCE = NodeId(b"reader.."), NodeId(b"source..")
SOME = ObjectId(b"o" * 28)


class Pair:
    """The source's listener and the reader's thread on one loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.loop = Loop()
        self.heard: list[Event] = []
        self.theirs, self.ours = Segment.create(SIZE, folder), Segment.create(SIZE, folder)
        listener = hello.listen(os.path.join(self.folder, "raylet.sock"))
        fileno = self.theirs.fileno()
        self.source = LocalPeers(self.loop, SOURCE, listener, TOKEN, fileno, lambda who, frames: None, lambda who: None)
        self.reader = self.neighbours(TOKEN)

    def neighbours(self, token: bytes) -> Neighbours:
        return Neighbours(self.ours, raylet_of(READER), token, self.loop, self._hear)

    def _hear(self, event: Event) -> None:
        self.heard.append(event)

    def run(self, until: int) -> list[Event]:
        """Until so many events were heard, which are returned."""
        run_until(self.loop, lambda: len(self.heard) >= until)
        heard, self.heard = self.heard, []
        return heard

    def close(self) -> None:
        self.reader.close()
        self.source.close()
        self.loop.close()
        self.theirs.close()
        self.ours.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.close()


def test_ranges_are_copied_out_of_the_other_s_segment(pair: Pair) -> None:
    pair.theirs.write_view(100, 5 * PIECE_BYTES)[:] = os.urandom(5 * PIECE_BYTES)
    pair.reader.map(MapPeer(SOURCE, pair.folder, SIZE))
    assert pair.run(1) == [PeerMapped(SOURCE, True)]

    pair.reader.copy(CopyChunk(SOME, SOURCE, 0, 3 * PIECE_BYTES, 100, 4096))
    pair.reader.copy(CopyChunk(SOME, SOURCE, 3 * PIECE_BYTES, 2 * PIECE_BYTES, 100, 4096))

    assert pair.run(2) == [
        ChunkCopied(SOME, 0, 3 * PIECE_BYTES),
        ChunkCopied(SOME, 3 * PIECE_BYTES, 2 * PIECE_BYTES),
    ]
    assert pair.ours.write_view(4096, 5 * PIECE_BYTES) == pair.theirs.write_view(100, 5 * PIECE_BYTES)
    assert not any(pair.ours.write_view(0, 4096))


def test_after_copies_are_forgotten_nothing_writes_to_their_block(pair: Pair) -> None:
    pair.theirs.write_view(0, SIZE)[:] = b"x" * SIZE
    pair.reader.map(MapPeer(SOURCE, pair.folder, SIZE))
    pair.run(1)
    for first in range(0, SIZE, 4 * PIECE_BYTES):
        pair.reader.copy(CopyChunk(SOME, SOURCE, first, 4 * PIECE_BYTES, 0, 0))
    while not pair.ours.write_view(0, 1)[0]:
        pass  # it has begun

    pair.reader.forget_chunks(ForgetChunks(SOME))
    pair.ours.write_view(0, SIZE)[:] = bytes(SIZE)
    other = ObjectId(b"p" * 28)
    pair.reader.copy(CopyChunk(other, SOURCE, 0, 1, 0, SIZE - 1))  # done after all that was wished for before

    assert pair.run(1) == [ChunkCopied(other, 0, 1)]
    assert not any(pair.ours.write_view(0, SIZE - 1))


def test_a_segment_is_shown_to_nobody_without_the_token(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    stranger = pair.neighbours(b"u" * hello.TOKEN_BYTES)
    try:
        stranger.map(MapPeer(SOURCE, pair.folder, SIZE))
        assert pair.run(1) == [PeerMapped(SOURCE, False)]
    finally:
        stranger.close()
    assert "its token is of another session" in caplog.text


def test_a_segment_that_is_not_there_or_too_small_is_not_mapped(pair: Pair) -> None:
    pair.reader.map(MapPeer(SOURCE, pair.folder + "/elsewhere", SIZE))
    assert pair.run(1) == [PeerMapped(SOURCE, False)]

    pair.reader.map(MapPeer(SOURCE, pair.folder, SIZE + 1))  # it is smaller than the head says
    assert pair.run(1) == [PeerMapped(SOURCE, False)]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="no descriptor can be opened anew here")
def test_what_a_neighbour_is_shown_it_cannot_write_to(pair: Pair) -> None:
    def fetch() -> int:
        path = os.path.join(pair.folder, "raylet.sock")
        connection = hello.connect(path, TOKEN, raylet_of(READER), NEIGHBOUR, raylet_of(SOURCE))
        try:
            return hello.recv_fd(connection.sock, raylet_of(SOURCE))
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(fetch)
        run_until(pair.loop, shown.done)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(shown.result(), b"x", 0)
    os.close(shown.result())
