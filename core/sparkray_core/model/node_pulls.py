"""Objects that readers here want and other nodes have. (What others want of ours: `node_serves`.)

One pull per object, however many read it here. Chunks are asked for several ahead, of all pulls together no more than
this node may have under way. Of a source on the same host only the place is asked: its segment is mapped, and bytes are
copied from there. Sources are tried one after the other; what has come from one is not asked of the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sparkray_core.ids import NodeId, ObjectId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import CopyMade, ObjectChunk, ObjectGone, ObjectThere, PullDone, PullFrom, PullObject
from sparkray_core.model.effects import CopyChunk, Effect, ForgetChunks, MapPeer, Send, WriteChunk
from sparkray_core.model.events import ChunkCopied, PeerMapped
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.node_objects import Reader, RoomWanted, Store


@dataclass(slots=True)
class Pull:
    object: ObjectId
    source: NodeId
    others: list[NodeId]  # to be tried if this source has not got it
    tried: set[NodeId]
    touched: float  # when something of it came last
    begun: float = 0.0  # when this source was first asked
    offset: int | None = None  # of the block that it is written to; None: the size is not known, or there is no room
    size: int = 0
    todo: deque[int] = field(default_factory=lambda: deque([0]))  # first bytes of chunks to ask for
    asked: dict[int, int] = field(default_factory=dict)  # of chunks under way, and their lengths
    have: set[int] = field(default_factory=set)  # of those that are written
    answered: bool = False  # this source has, so that more than one chunk is asked of it at a time
    waits: bool = False  # for room in the store; nothing is asked for until there is some
    maps: bool = False  # the source was asked for the place only
    copies: set[int] = field(default_factory=set)  # first bytes of what is being copied out of its segment


class Pulls:
    def __init__(self, me: ProcessId, store: Store, limits: NodeLimits, out: list[Effect]) -> None:
        self.me = me
        self.node = node_of(me)
        self.store = store
        self.limits = limits
        self.out = out
        self.pulls: dict[ObjectId, Pull] = {}
        self.under_way = 0  # bytes asked for
        self.hungry: dict[ObjectId, None] = {}  # would ask for more, if more might be under way; first come, first
        self.mapped: dict[NodeId, bool | None] = {}  # nodes of this host; None: not known yet
        # Running mean of how fast an object comes from another host, in bytes per second; 0: not known yet.
        self.bytes_s = 0.0
        self.pulled_objects = self.pulled_bytes = self.copied_bytes = 0  # since the start; copied on this host
        self.is_known: Callable[[NodeId], bool] = lambda node: True  # and alive; node.py knows
        self.is_dead: Callable[[NodeId], bool] = lambda node: False
        self.neighbour: Callable[[NodeId], NodeInfo | None] = lambda node: None  # of this host; node.py knows
        self.owner_now: Callable[[ObjectId], ProcessId] = owner_of  # of one that died: its heir
        # `node_serves` hands on what comes:
        self.on_chunk: Callable[[Pull, float], None] = lambda pull, now: None
        self.on_end: Callable[[ObjectId, float], None] = lambda some, now: None
        store.on_room = self._room_given

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
        elsewhere = [node for node in nodes if node != self.node and not self.is_dead(node)]
        if pull is not None:
            known = {pull.source, *pull.others, *pull.tried}
            pull.others += [node for node in elsewhere if node not in known]
        elif not store.is_written(some):
            if not elsewhere:
                self.out.append(Send(process, ObjectGone(some, self._why_gone(nodes))))
                return
            # Each node begins at another source, so that one that many nodes read from is not asked by all of them.
            # A source on this host comes first: it costs no network.
            first = int.from_bytes(self.node, "big") % len(elsewhere)
            sources = elsewhere[first:] + elsewhere[:first]
            sources.sort(key=lambda node: self.neighbour(node) is None)
            pull = self.pulls[some] = Pull(some, sources[0], sources[1:], {sources[0]}, now)
            self._begin(pull, now)
        store.readers.setdefault(some, []).append(Reader(process, nodes))

    def look_elsewhere(self, some: ObjectId, now: float) -> None:
        """Who was to write it here died: its readers try the nodes that they named."""
        for reader in self.store.readers.pop(some, ()):
            self.read(reader.process, some, reader.nodes, now)

    # ------------------------------------------------------------------ what comes
    def chunk(self, sender: ProcessId, message: ObjectChunk, now: float) -> None:
        pull = self.pulls.get(message.object)
        if pull is None or node_of(sender) != pull.source or message.first not in pull.asked:
            return
        self.under_way -= pull.asked.pop(message.first)
        pull.answered = True
        pull.maps = False  # it is not in the source's memory
        if pull.offset is None and not self._take_room(pull, message.size, now):
            self._feed()
            return
        assert pull.offset is not None
        self.out.append(WriteChunk(pull.offset + message.first, message.data))
        self._has(pull, message.first, len(message.data), now)

    def there(self, sender: ProcessId, message: ObjectThere, now: float) -> None:
        """The source is on this host, and says where in its segment it is."""
        pull = self.pulls.get(message.object)
        if pull is None or node_of(sender) != pull.source or not pull.maps or pull.copies:
            return
        self._call_off(pull)
        if pull.offset is None and not self._take_room(pull, message.size, now):
            self.out.append(Send(sender, PullDone(message.object)))
            self._feed()
            return
        assert pull.offset is not None
        if not pull.size:
            self._finish(pull, now)
            return
        pull.todo.clear()
        for first in self._missing(pull):
            length = self._length(pull, first)
            pull.copies.add(first)
            self.out.append(CopyChunk(pull.object, pull.source, first, length, message.offset, pull.offset))
        self._feed()

    def copied(self, event: ChunkCopied, now: float) -> None:
        pull = self.pulls.get(event.object)
        if pull is not None and event.first in pull.copies:
            pull.copies.discard(event.first)
            self.copied_bytes += event.length
            self._has(pull, event.first, event.length, now)

    def not_here(self, sender: ProcessId, some: ObjectId, now: float) -> None:
        pull = self.pulls.get(some)
        if pull is not None and pull.source == node_of(sender):
            self._next_source(pull, now)

    def pull_from(self, sender: ProcessId, message: PullFrom, now: float) -> None:
        """The source has others to serve, and names one of them."""
        pull = self.pulls.get(message.object)
        if pull is None or node_of(sender) != pull.source or not pull.asked:
            return
        named = [message.node] if message.node != self.node and not self.is_dead(message.node) else []
        first = [*named, pull.source]
        pull.others = first + [node for node in pull.others if node not in first]
        self._next_source(pull, now)

    def peer_mapped(self, event: PeerMapped, now: float) -> None:
        """(What was mapped may turn out not to be readable all the same.)"""
        if event.node not in self.mapped:
            return  # it is gone
        self.mapped[event.node] = event.mapped
        for pull in list(self.pulls.values()):
            if pull.source == event.node and not pull.asked and not pull.waits:
                self._call_off(pull)
                self._begin(pull, now)

    def lane_broke(self, node: NodeId, now: float) -> None:
        """What was asked of it may have been on its way, and is asked for again; what comes all the same is dropped."""
        for pull in list(self.pulls.values()):
            if pull.source == node and pull.asked and not pull.maps:
                self._call_off(pull)
                self._begin(pull, now)

    def node_known(self, node: NodeId, now: float) -> None:
        for pull in list(self.pulls.values()):
            if pull.source == node and not pull.asked and not pull.waits:
                self._begin(pull, now)

    def give_up_unknown(self, now: float) -> None:
        """Of a node that the head does not tell of even then nobody knows any more."""
        for pull in list(self.pulls.values()):
            if now - pull.begun >= self.limits.unknown_s and not self.is_known(pull.source):
                self._next_source(pull, now)

    def node_gone(self, node: NodeId, now: float) -> None:
        self.mapped.pop(node, None)
        for pull in list(self.pulls.values()):
            pull.others = [other for other in pull.others if other != node]
            if pull.source == node:
                self._next_source(pull, now)

    # ------------------------------------------------------------------ asking
    def _begin(self, pull: Pull, now: float) -> None:
        """Ask this source for what is missing."""
        pull.maps = pull.answered = False
        pull.begun = now
        if pull.offset is not None:
            pull.todo = deque(self._missing(pull))
            if not pull.todo:
                self._finish(pull, now)
                return
        if not self.is_known(pull.source):
            return  # its word came before the head's: `node_known` begins again
        neighbour = self.neighbour(pull.source)
        if neighbour is not None:
            if pull.source not in self.mapped:
                self.mapped[pull.source] = None
                self.out.append(MapPeer(pull.source, neighbour.folder, neighbour.store_bytes))
            mapped = self.mapped[pull.source]
            if mapped is None:
                return  # `peer_mapped` begins again
            if mapped:
                pull.maps = True
                pull.asked[first := pull.todo.popleft()] = 0  # no bytes: only the place is asked
                self.out.append(
                    Send(raylet_of(pull.source), PullObject(pull.object, first, self.limits.chunk_bytes, True))
                )
                return
        self._ask(pull)

    def _missing(self, pull: Pull) -> list[int]:
        return [first for first in range(0, pull.size, self.limits.chunk_bytes) if first not in pull.have]

    def _length(self, pull: Pull, first: int) -> int:
        most = self.limits.chunk_bytes
        return min(most, pull.size - first) if pull.size else most

    def _ask(self, pull: Pull) -> None:
        """The first one alone: it brings the size, or says that this source has not got it."""
        ahead = self.limits.chunks_ahead if pull.answered else 1
        while pull.todo and len(pull.asked) < ahead:
            length = self._length(pull, pull.todo[0])
            if self.under_way and self.under_way + length > self.limits.pull_ahead_bytes:
                self.hungry[pull.object] = None
                return
            first = pull.todo.popleft()
            pull.asked[first] = length
            self.under_way += length
            self.out.append(Send(raylet_of(pull.source), PullObject(pull.object, first, self.limits.chunk_bytes)))

    def _feed(self) -> None:
        """Less is under way: whose turn it is asks on."""
        while self.hungry and (not self.under_way or self.under_way < self.limits.pull_ahead_bytes):
            some = next(iter(self.hungry))
            del self.hungry[some]
            if (pull := self.pulls.get(some)) is not None and not pull.waits and not pull.maps:
                self._ask(pull)
                if some in self.hungry:
                    return

    def _call_off(self, pull: Pull) -> None:
        """What was asked is not waited for any more."""
        self.under_way -= sum(pull.asked.values())
        pull.asked.clear()
        self.hungry.pop(pull.object, None)
        if pull.copies:
            pull.copies.clear()
            self.out.append(ForgetChunks(pull.object))

    def _has(self, pull: Pull, first: int, length: int, now: float) -> None:
        pull.have.add(first)
        pull.touched = now
        self.pulled_bytes += length
        if len(pull.have) * self.limits.chunk_bytes >= pull.size:
            self._finish(pull, now)
        else:
            if not pull.copies:
                self._ask(pull)
            self.on_chunk(pull, now)
        self._feed()

    # ------------------------------------------------------------------ room
    def _take_room(self, pull: Pull, size: int, now: float) -> bool:
        """The size is known now. Without room what came is dropped: it is asked for again when there is some, and until
        then it may be wanted no more."""
        pull.size = size
        pull.offset = self.store.take(pull.object, self.me, size, now) if not self.store.room else None
        if pull.offset is not None:
            pull.todo = deque(first for first in self._missing(pull) if first)
        elif size > self.store.allocator.capacity:
            self._fail(pull, self.store.why_full(size), now, "ObjectStoreFullError")
        else:
            pull.waits, pull.todo = True, deque([0])
            self.store.want_room(pull.object, self.me, size, now)
        return pull.offset is not None

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

    # ------------------------------------------------------------------ ends
    def _next_source(self, pull: Pull, now: float) -> None:
        self._call_off(pull)
        if not pull.others:
            self._fail(pull, self._why_gone(tuple(sorted(pull.tried))), now)
            return
        pull.source = pull.others.pop(0)
        pull.tried.add(pull.source)
        if pull.offset is None:
            pull.todo = deque([0])
        if not pull.waits:
            self._begin(pull, now)
        self._feed()

    def _finish(self, pull: Pull, now: float) -> None:
        if pull.maps:
            self.out.append(Send(raylet_of(pull.source), PullDone(pull.object)))
        self._call_off(pull)
        del self.pulls[pull.object]
        self.pulled_objects += 1
        network = not pull.maps and len(pull.tried) == 1
        if network and pull.size >= self.limits.measured_bytes and now > pull.begun:
            bytes_s = pull.size / (now - pull.begun)
            self.bytes_s = bytes_s if not self.bytes_s else self.bytes_s + 0.2 * (bytes_s - self.bytes_s)
        self.store.seal(pull.object, self.me, now)
        self.out.append(Send(self.owner_now(pull.object), CopyMade(pull.object, self.node, pull.source)))
        self.on_end(pull.object, now)

    def _fail(self, pull: Pull, why: str, now: float, error: str = "ObjectLostError") -> None:
        self._call_off(pull)
        del self.pulls[pull.object]
        self.store.abandon(pull.object, self.me, now)
        self.on_end(pull.object, now)
        self._feed()
        if pull.object in self.store.stored or self.store.is_written(pull.object):
            return  # here, meanwhile: its readers get it from there
        for reader in self.store.readers.pop(pull.object, ()):
            self.out.append(Send(reader.process, ObjectGone(pull.object, why, error)))

    def got(self, pull: Pull) -> int:
        """Bytes that are here."""
        return min(len(pull.have) * self.limits.chunk_bytes, pull.size)

    def status(self) -> dict[str, int]:
        return {"objects": self.pulled_objects, "bytes": self.pulled_bytes, "on_this_host": self.copied_bytes}

    @staticmethod
    def _why_gone(nodes: tuple[NodeId, ...]) -> str:
        named = ", ".join(node.hex() for node in nodes) or "none"
        return f"no node has it any more (asked: {named}); it was freed, evicted, or its node died"
