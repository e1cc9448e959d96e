"""Objects between nodes: fetching what readers here want, serving what other raylets fetch.

One pull per object, however many read it here. Its sources are tried one after the other; chunks are asked for several
ahead. A server holds a pin for as long as a transfer is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sparkray_core.ids import NodeId, ObjectId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import CopyMade, NotHere, ObjectChunk, ObjectGone, PullObject
from sparkray_core.model.effects import Effect, Send, SendChunk, SendSpilled, WriteChunk
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_objects import Reader, RoomWanted, Store


@dataclass(slots=True)
class Pull:
    object: ObjectId
    source: NodeId
    others: list[NodeId]  # to be tried if this source has not got it
    tried: set[NodeId]
    offset: int | None = None  # of the block that it is written to; None: the size is not known, or there is no room
    size: int = 0
    next: int = 0  # first byte not asked for
    got: int = 0
    asked: set[int] = field(default_factory=set)  # first bytes of chunks under way
    waits: bool = False  # for room in the store; nothing is asked for until there is some


@dataclass(slots=True)
class Transfer:
    sent: int  # bytes
    touched: float


class Pulls:
    def __init__(self, me: ProcessId, store: Store, limits: NodeLimits, out: list[Effect]) -> None:
        self.me = me
        self.node = node_of(me)
        self.store = store
        self.limits = limits
        self.out = out
        self.pulls: dict[ObjectId, Pull] = {}
        self.transfers: dict[tuple[ObjectId, ProcessId], Transfer] = {}
        self.is_alive: Callable[[NodeId], bool] = lambda node: True  # node.py knows
        store.on_room = self._room_given

    # ------------------------------------------------------------------ wanted here
    def read(self, process: ProcessId, some: ObjectId, nodes: tuple[NodeId, ...], now: float) -> None:
        """Pin it for this reader: now, when it is written, or when it has come over."""
        store = self.store
        stored = store.stored.get(some)
        if stored is not None:
            if stored.in_memory:
                store.pin(some, process)
            else:
                store.readers.setdefault(some, []).append(Reader(process, nodes))
                store.restore(stored, now)
            return
        pull = self.pulls.get(some)
        elsewhere = [node for node in nodes if node != self.node and self.is_alive(node)]
        if pull is not None:
            known = {pull.source, *pull.others, *pull.tried}
            pull.others += [node for node in elsewhere if node not in known]
        elif not store.is_written(some):
            if not elsewhere:
                self.out.append(Send(process, ObjectGone(some, self._why_gone(nodes))))
                return
            # Each node begins at another source, so that one that many nodes read from is not asked by all of them.
            first = int.from_bytes(self.node, "big") % len(elsewhere)
            sources = elsewhere[first:] + elsewhere[:first]
            pull = self.pulls[some] = Pull(some, sources[0], sources[1:], {sources[0]})
            self._begin(pull, now)
        store.readers.setdefault(some, []).append(Reader(process, nodes))

    def look_elsewhere(self, some: ObjectId, now: float) -> None:
        """Who was to write it here died: its readers try the nodes that they named."""
        for reader in self.store.readers.pop(some, ()):
            self.read(reader.process, some, reader.nodes, now)

    def chunk(self, sender: ProcessId, message: ObjectChunk, now: float) -> None:
        pull = self.pulls.get(message.object)
        if pull is None or node_of(sender) != pull.source or message.first not in pull.asked:
            return
        pull.asked.discard(message.first)
        if pull.offset is None:
            pull.size = message.size
            offset = self.store.take(pull.object, self.me, pull.size, now) if not self.store.room else None
            if offset is None:
                self._wait_for_room(pull, now)
                return
            pull.offset = offset
            pull.next = len(message.data)
        self.out.append(WriteChunk(pull.offset + message.first, message.data))
        pull.got += len(message.data)
        if pull.got >= pull.size:
            self._finish(pull, now)
        else:
            self._ask(pull)

    def not_here(self, sender: ProcessId, some: ObjectId, now: float) -> None:
        pull = self.pulls.get(some)
        if pull is not None and pull.source == node_of(sender):
            self._next_source(pull, now)

    def node_gone(self, node: NodeId, now: float) -> None:
        for pull in list(self.pulls.values()):
            pull.others = [other for other in pull.others if other != node]
            if pull.source == node:
                self._next_source(pull, now)
        for some, puller in list(self.transfers):
            if node_of(puller) == node:
                self._end_transfer(some, puller, now)

    def _begin(self, pull: Pull, now: float) -> None:
        pull.next, pull.got = 0, 0
        pull.asked.clear()
        if pull.offset is not None and pull.size:
            self._ask(pull)
        elif pull.offset is not None:
            self._finish(pull, now)  # an empty object: its size was all there was to fetch
        else:
            self._ask_one(pull)

    def _ask(self, pull: Pull) -> None:
        while pull.next < pull.size and len(pull.asked) < self.limits.chunks_ahead:
            self._ask_one(pull)

    def _ask_one(self, pull: Pull) -> None:
        """Until the size is known, one chunk is under way: it brings the size."""
        pull.asked.add(pull.next)
        self.out.append(Send(raylet_of(pull.source), PullObject(pull.object, pull.next, self.limits.chunk_bytes)))
        pull.next += self.limits.chunk_bytes

    def _wait_for_room(self, pull: Pull, now: float) -> None:
        """The chunk is dropped: it is asked for again when there is room, and until then it may be wanted no more."""
        if pull.size > self.store.allocator.capacity:
            self._fail(pull, self.store.why_full(pull.size), now, "ObjectStoreFullError")
        else:
            pull.waits = True
            self.store.want_room(pull.object, self.me, pull.size, now)

    def _room_given(self, wanted: RoomWanted, offset: int | None, now: float) -> None:
        pull = self.pulls.get(wanted.object)
        if pull is None:
            if offset is not None:
                self.store.abandon(wanted.object, self.me, now)
        elif offset is None:
            self._fail(pull, self.store.why_full(wanted.size), now, self.store.refusal)
        else:
            pull.offset, pull.waits = offset, False
            self._begin(pull, now)

    def _next_source(self, pull: Pull, now: float) -> None:
        if not pull.others:
            self._fail(pull, self._why_gone(tuple(sorted(pull.tried))), now)
            return
        pull.source = pull.others.pop(0)
        pull.tried.add(pull.source)
        pull.asked.clear()
        if not pull.waits:
            self._begin(pull, now)

    def _finish(self, pull: Pull, now: float) -> None:
        del self.pulls[pull.object]
        self.store.seal(pull.object, self.me, now)
        self.out.append(Send(owner_of(pull.object), CopyMade(pull.object, self.node)))

    def _fail(self, pull: Pull, why: str, now: float, error: str = "ObjectLostError") -> None:
        del self.pulls[pull.object]
        self.store.abandon(pull.object, self.me, now)
        if pull.object in self.store.stored or self.store.is_written(pull.object):
            return  # here, meanwhile: its readers get it from there
        for reader in self.store.readers.pop(pull.object, ()):
            self.out.append(Send(reader.process, ObjectGone(pull.object, why, error)))

    @staticmethod
    def _why_gone(nodes: tuple[NodeId, ...]) -> str:
        named = ", ".join(node.hex() for node in nodes) or "none"
        return f"no node has it any more (asked: {named}); it was freed, evicted, or its node died"

    # ------------------------------------------------------------------ wanted elsewhere
    def serve(self, puller: ProcessId, message: PullObject, now: float) -> None:
        key = message.object, puller
        transfer = self.transfers.get(key)
        if transfer is None:
            stored = self.store.stored.get(message.object)
            if stored is None:
                self.out.append(Send(puller, NotHere(message.object)))
                return
            self.store.hold(message.object, puller)
            transfer = self.transfers[key] = Transfer(0, now)
        stored = self.store.stored[message.object]
        first = min(message.first, stored.size)
        length = min(message.most, self.limits.chunk_bytes, stored.size - first)
        if stored.in_memory:
            self.out.append(SendChunk(puller, message.object, stored.offset, first, length, stored.size))
        else:
            assert stored.file is not None
            at = stored.at
            self.out.append(SendSpilled(puller, message.object, stored.file.number, at, first, length, stored.size))
        transfer.sent += length
        transfer.touched = now
        if first + length >= stored.size:
            self._end_transfer(message.object, puller, now)

    def forget_stale(self, now: float) -> None:
        for (some, puller), transfer in list(self.transfers.items()):
            if now - transfer.touched >= self.limits.transfer_s:
                self._end_transfer(some, puller, now)

    def _end_transfer(self, some: ObjectId, puller: ProcessId, now: float) -> None:
        del self.transfers[some, puller]
        self.store.unpin(some, puller, now)
