"""Raylets of the same host: their segments, mapped to be read, and one thread that copies out of them.

What is copied never leaves the machine's memory, and no peer has to write or send anything for it. Any process of the
session on this host could read a segment anyhow; that it is one of the session, it shows by the token, and by its uid.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sparkray_core.ids import NodeId, ObjectId, ProcessId, raylet_of
from sparkray_core.model.effects import CopyChunk, ForgetChunks, MapPeer
from sparkray_core.model.events import ChunkCopied, Event, PeerMapped
from sparkray_core.run.local_peers import NEIGHBOUR
from sparkray_core.run.loop import Loop
from sparkray_core.run.mailbox import Mailbox
from sparkray_core.store.segment import Segment
from sparkray_core.wire import hello
from sparkray_core.wire.frames import ConnectionLost

PIECE_BYTES = 2 << 20  # of one system call: the loop may have to wait for the one that is under way
CONNECT_S = 3.0  # a raylet's loop answers within milliseconds; one that does not is asked over the network instead
CLOSE_S = 1.0  # for the piece that is under way at the end

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Copies:
    """Of one object, from when they are wished for until all are told of."""

    left: int
    forgotten: bool = False


class Neighbours:
    def __init__(
        self, segment: Segment, me: ProcessId, token: bytes, loop: Loop, on_event: Callable[[Event], None]
    ) -> None:
        """
        Args:
            on_event: what the model is to hear, in the loop's thread.
        """
        self._segment = segment
        self._me = me
        self._token = token
        self._loop = loop
        self._on_event = on_event
        self._maps: dict[NodeId, mmap.mmap] = {}
        self._gone: set[NodeId] = set()
        self._copies: dict[ObjectId, _Copies] = {}
        self._busy: _Copies | None = None  # of which a piece is being copied now
        self._jobs: queue.SimpleQueue[MapPeer | tuple[CopyChunk, _Copies] | None] = queue.SimpleQueue()
        self._done: Mailbox[PeerMapped | tuple[ChunkCopied, _Copies]] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def map(self, effect: MapPeer) -> None:
        self._put(effect)

    def copy(self, effect: CopyChunk) -> None:
        copies = self._copies.setdefault(effect.object, _Copies(0))
        copies.left += 1
        self._put((effect, copies))

    def forget_chunks(self, effect: ForgetChunks) -> None:
        """When this returns nothing writes to the block, which may be another object's from now on."""
        copies = self._copies.pop(effect.object, None)
        if copies is not None:
            copies.forgotten = True
            while self._busy is copies:  # for a millisecond or so
                time.sleep(0.0002)

    def forget(self, node: NodeId) -> None:
        """It is dead. Whoever copied from it was forgotten before, by `forget_chunks`."""
        self._gone.add(node)
        self._maps.pop(node, None)  # unmapped when the thread has let go of it

    def close(self) -> None:
        self._closed = True
        if self._thread is not None and self._done is not None:
            self._jobs.put(None)
            self._thread.join(CLOSE_S)
            self._done.close()

    def _put(self, job: MapPeer | tuple[CopyChunk, _Copies]) -> None:
        if self._thread is None:
            self._done = Mailbox(self._loop, self._on_done)
            self._thread = threading.Thread(
                target=self._work, args=[self._done], name="sparkray-neighbours", daemon=True
            )
            self._thread.start()
        self._jobs.put(job)

    def _on_done(self, done: PeerMapped | tuple[ChunkCopied, _Copies]) -> None:
        if isinstance(done, PeerMapped):
            self._on_event(done)
            return
        event, copies = done
        if not copies.forgotten:
            copies.left -= 1
            if not copies.left:
                del self._copies[event.object]
            self._on_event(event)

    # ------------------------------------------------------------------------------ in the thread
    def _work(self, told: Mailbox[PeerMapped | tuple[ChunkCopied, _Copies]]) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            done = self._map(job) if isinstance(job, MapPeer) else self._copy(*job)
            if done is not None:
                told.put(done)

    def _map(self, job: MapPeer) -> PeerMapped:
        try:
            mapped = self._open(job)
        except (ConnectionLost, OSError, ValueError) as error:
            # Two containers may have one host name, and then not each other's files.
            log.info("node %s says that it is on this host, and cannot be read here: %s", job.node.hex(), error)
            return PeerMapped(job.node, False)
        if job.node not in self._gone:
            self._maps[job.node] = mapped
        return PeerMapped(job.node, True)

    def _open(self, job: MapPeer) -> mmap.mmap:
        peer = raylet_of(job.node)
        connection = hello.connect(os.path.join(job.folder, "raylet.sock"), self._token, self._me, NEIGHBOUR, peer)
        try:
            descriptor = hello.recv_fd(connection.sock, peer, CONNECT_S)
        finally:
            connection.close()
        try:
            return mmap.mmap(descriptor, job.size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)

    def _copy(self, job: CopyChunk, copies: _Copies) -> PeerMapped | tuple[ChunkCopied, _Copies] | None:
        source = self._maps.get(job.source)
        if source is None:
            return None  # it died, and this was forgotten
        begin = job.offset + job.first
        at, end = 0, job.length
        try:
            with memoryview(source)[begin : begin + end] as view:
                while at < end:
                    self._busy = copies  # before it is looked whether to go on: see `forget_chunks`
                    if copies.forgotten or self._closed:
                        return None
                    # Not through our map, whose pages would have to be mapped first, one fault for each.
                    at += os.pwrite(self._segment.fileno(), view[at : at + PIECE_BYTES], job.into + job.first + at)
        except OSError as error:
            log.error("object %s cannot be copied from node %s: %s", job.object.hex(), job.source.hex(), error)
            return PeerMapped(job.source, False)
        finally:
            self._busy = None
        _unmap_pages(source, begin, begin + end)
        return ChunkCopied(job.object, job.first, job.length), copies


def _unmap_pages(source: mmap.mmap, begin: int, end: int) -> None:
    """What was read counts as memory of ours otherwise, though it is the other's."""
    start, stop = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop and hasattr(mmap, "MADV_DONTNEED"):
        with contextlib.suppress(OSError):
            source.madvise(mmap.MADV_DONTNEED, start, stop - start)
