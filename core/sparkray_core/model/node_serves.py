"""Objects of this node that others pull: all of one, or what has come of it so far.

    many want it at a time     the first few are served here; each later one is sent to one of those, and they to theirs
    it is being pulled here    what has come is served; who asks for more waits for that
    the puller is on this host it is told where the object lies, and reads it there
    it is being written here   it is served when that has ended: word of it went straight to its owner, and overtook the
                               writer's to us

A server holds a pin for as long as a transfer is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparkray_core.ids import NodeId, ObjectId, ProcessId, node_of
from sparkray_core.messages import NotHere, ObjectThere, PullFrom, PullObject
from sparkray_core.model.effects import Effect, Send, SendChunk, SendSpilled
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_objects import Store
from sparkray_core.model.node_pulls import Pull, Pulls


@dataclass(slots=True)
class Transfer:
    touched: float
    pinned: bool = False  # False: it is not here as a whole
    maps: bool = False  # the puller reads in our segment: until it says so, or its node dies, the object stays


class Serves:
    def __init__(self, store: Store, pulls: Pulls, limits: NodeLimits, out: list[Effect]) -> None:
        self.store = store
        self.pulls = pulls
        self.limits = limits
        self.out = out
        self.transfers: dict[tuple[ObjectId, ProcessId], Transfer] = {}
        self.waves: dict[ObjectId, list[NodeId]] = {}  # who has asked, in order, since it was first pulled at all
        self.waiting: dict[ObjectId, list[tuple[ProcessId, PullObject]]] = {}  # for what has not come here yet
        self.unwritten: dict[ObjectId, list[tuple[ProcessId, PullObject]]] = {}  # who waits for its writer
        self.is_alive: Callable[[NodeId], bool] = lambda node: True  # node.py knows
        pulls.on_chunk = self._more_came
        pulls.on_end = self._pull_ended

    def serve(self, puller: ProcessId, message: PullObject, now: float) -> None:
        some = message.object
        transfer = self.transfers.get((some, puller))
        stored = self.store.stored.get(some)
        pull = self.pulls.pulls.get(some) if stored is None else None
        if stored is None and pull is None and self.store.is_written(some):
            self.unwritten.setdefault(some, []).append((puller, message))
            return
        if stored is None and (pull is None or pull.source == node_of(puller)):
            self.out.append(Send(puller, NotHere(some)))
            return
        if transfer is None:
            if not message.maps and (other := self._sent_to(some, node_of(puller))) is not None:
                self.out.append(Send(puller, PullFrom(some, other)))
                return
            transfer = self.transfers[some, puller] = Transfer(now)
        if stored is not None and not transfer.pinned:
            self.store.hold(some, puller)
            transfer.pinned = True
        transfer.touched = now
        if pull is not None:
            self._serve_part(pull, puller, message)
            return
        stored = self.store.stored[some]
        if message.maps and stored.in_memory:
            transfer.maps = True
            self.out.append(Send(puller, ObjectThere(some, stored.size, stored.offset)))
            return
        first = min(message.first, stored.size)
        length = min(message.most, self.limits.chunk_bytes, stored.size - first)
        if stored.in_memory:
            self.out.append(SendChunk(puller, some, stored.offset, first, length, stored.size))
        else:
            assert stored.file is not None
            self.out.append(SendSpilled(puller, some, stored.file.number, stored.at, first, length, stored.size))
        if first + length >= stored.size:
            self.end(some, puller, now)

    def written(self, some: ObjectId, now: float) -> None:
        """Or its writer is gone."""
        for puller, message in self.unwritten.pop(some, ()):
            self.serve(puller, message, now)

    def writer_gone(self, now: float) -> None:
        for some in list(self.unwritten):
            self.written(some, now)

    def _sent_to(self, some: ObjectId, node: NodeId) -> NodeId | None:
        """Whom this one shall ask instead. None: us."""
        wave = self.waves.setdefault(some, [])
        if node in wave:
            return None  # it has asked there, in vain
        wave.append(node)
        turn, fanout = len(wave) - 1, self.limits.pull_fanout
        other = wave[(turn - fanout) // fanout] if turn >= fanout else None
        return other if other is not None and self.is_alive(other) else None

    def _serve_part(self, pull: Pull, puller: ProcessId, message: PullObject) -> None:
        chunk = self.limits.chunk_bytes
        last = min(message.first + min(message.most, chunk), pull.size) - 1
        parts = range(message.first // chunk * chunk, last + 1, chunk)
        if pull.offset is None or message.maps or not all(first in pull.have for first in parts):
            self.waiting.setdefault(pull.object, []).append((puller, message))
            return
        length = last + 1 - message.first
        self.out.append(SendChunk(puller, pull.object, pull.offset, message.first, length, pull.size))

    def _more_came(self, pull: Pull, now: float) -> None:
        for puller, message in self.waiting.pop(pull.object, ()):
            self._serve_part(pull, puller, message)

    def _pull_ended(self, some: ObjectId, now: float) -> None:
        """All of it is here, or nothing will be."""
        stored = self.store.stored.get(some)
        waiting = self.waiting.pop(some, [])
        for (other, puller), transfer in list(self.transfers.items()):
            if other != some or transfer.pinned:
                continue
            if stored is not None:
                self.store.hold(some, puller)
                transfer.pinned = True
            else:
                del self.transfers[some, puller]
                self.out.append(Send(puller, NotHere(some)))
        if stored is None:
            self._wave_ends(some)
            return
        for puller, message in waiting:
            self.serve(puller, message, now)

    def node_gone(self, node: NodeId, now: float) -> None:
        for some, puller in list(self.transfers):
            if node_of(puller) == node:
                self.end(some, puller, now)
        for some, waiting in list(self.unwritten.items()):
            self.unwritten[some] = [one for one in waiting if node_of(one[0]) != node]

    def forget_stale(self, now: float) -> None:
        for (some, puller), transfer in list(self.transfers.items()):
            pull = self.pulls.pulls.get(some)
            touched = max(transfer.touched, pull.touched) if pull is not None else transfer.touched
            if not transfer.maps and now - touched >= self.limits.transfer_s:
                if not transfer.pinned:  # what it waits for does not come
                    self.out.append(Send(puller, NotHere(some)))
                self.end(some, puller, now)

    def end(self, some: ObjectId, puller: ProcessId, now: float) -> None:
        """It needs it here no more; it may have said so already."""
        transfer = self.transfers.pop((some, puller), None)
        if transfer is None:
            return
        if some in self.waiting:
            self.waiting[some] = [one for one in self.waiting[some] if one[0] != puller]
            if not self.waiting[some]:
                del self.waiting[some]
        self._wave_ends(some)
        if transfer.pinned:
            self.store.unpin(some, puller, now)

    def _wave_ends(self, some: ObjectId) -> None:
        if not any(other == some for other, _ in self.transfers):
            self.waves.pop(some, None)
