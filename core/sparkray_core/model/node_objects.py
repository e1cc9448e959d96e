"""The books of one node's shared-memory store: which object lies where, who reads it, what may go.

    a process:   AllocateObject -> unsealed -> SealObjects -> stored -> FreeObjects, and no pins -> freed
    a pull:      take           -> unsealed -> seal        -> stored copy -> no pins, and room is needed -> evicted

What is no copy and has no pins goes to disk when room is needed (`node_spills`), and comes back when it is to be read.
An unsealed block belongs to its writer; several processes may write the same object at once (attempts of one task that
lost sight of each other), and the first to seal it wins. Bytes are never touched here; the segment is the shell's.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from sparkray_core.ids import NodeId, ObjectId, ProcessId, owner_of
from sparkray_core.messages import ObjectAllocated, ObjectGone, ObjectPinned, ObjectRefused
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import Effect, PunchHole, RestoreObject, Send
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_spills import Spills, Stored, Where
from sparkray_core.model.resources import show_bytes


class Allocates(Protocol):
    """Gives out ranges of the segment: `store.allocator.Allocator`."""

    @property
    def capacity(self) -> int: ...
    @property
    def used(self) -> int: ...  # rounding included
    @property
    def free_bytes(self) -> int: ...
    def allocate(self, size: int) -> int | None: ...
    def free(self, offset: int) -> int: ...  # its size
    def size_of(self, offset: int) -> int: ...  # rounding included


@dataclass(slots=True)
class Block:
    """Not sealed: only its writer knows what is in it."""

    object: ObjectId
    writer: ProcessId  # the raylet itself, for a pull
    offset: int
    size: int
    doomed: bool = False  # nobody wants it any more: it goes when it is sealed


@dataclass(frozen=True, slots=True)
class Reader:
    """Waits for an object to be here."""

    process: ProcessId
    nodes: tuple[NodeId, ...]  # that have it, as far as it knows


@dataclass(slots=True)
class RoomWanted:
    object: ObjectId
    who: ProcessId
    size: int
    until: float  # refused then, unless room is on the way
    restores: bool = False  # an object of this node that is on disk


class Store:
    def __init__(self, me: ProcessId, allocator: Allocates, limits: NodeLimits, out: list[Effect]) -> None:
        self.me = me  # the raylet, as the writer of pulled copies
        self.allocator = allocator
        self.limits = limits
        self.out = out
        self.spills = Spills(allocator.capacity, limits, out)
        self.stored: dict[ObjectId, Stored] = {}
        self.unsealed: dict[tuple[ObjectId, ProcessId], Block] = {}
        self.pins: dict[ProcessId, dict[ObjectId, int]] = {}
        self.evictable: OrderedDict[ObjectId, None] = OrderedDict()  # unpinned copies, least lately used first
        self.readers: dict[ObjectId, list[Reader]] = {}
        self.room: deque[RoomWanted] = deque()  # first come, first served; each has a limit of time
        self.holes: dict[int, tuple[int, float]] = {}  # offset: (size, since) of large ones not punched yet
        self.ended_transfers: Recent[bytes, frozenset[ObjectId]] = Recent(limits.remembered)
        self._prefix_lengths: set[int] = set()  # of ended transfers
        self.name_of: Callable[[ProcessId], str] = lambda process: process.hex()  # node.py knows
        self.gone_owner: Callable[[ObjectId, ProcessId], bool] = lambda some, writer: False  # node.py knows
        self.on_room: Callable[[RoomWanted, int | None, float], None] = lambda wanted, offset, now: None  # pulls know

    # ------------------------------------------------------------------ room
    def allocate(self, some: ObjectId, who: ProcessId, size: int, now: float) -> None:
        """Answer with room now, or when there is some, or with a refusal."""
        block = self.unsealed.get((some, who))
        if block is not None and block.size == size:
            self.out.append(Send(who, ObjectAllocated(some, block.offset)))
            return
        if block is not None:
            self._free_block(block, now)
        if size > self.allocator.capacity:
            self.out.append(Send(who, ObjectRefused(some, self.why_full(size))))
            return
        offset = self.take(some, who, size, now) if not self.room else None
        if offset is not None:
            self.out.append(Send(who, ObjectAllocated(some, offset)))
        else:
            self.want_room(some, who, size, now)

    def take(self, some: ObjectId, who: ProcessId, size: int, now: float) -> int | None:
        """A block of this size, giving up the memory of what can be had elsewhere; None if even so there is no room."""
        offset = self._find(size, now)
        if offset is not None:
            self.unsealed[some, who] = Block(some, who, offset, size)
        return offset

    def _find(self, size: int, now: float) -> int | None:
        offset = self.allocator.allocate(size)
        while offset is None and self.evictable:
            self._evict(self.stored[next(iter(self.evictable))])
            offset = self.allocator.allocate(size)
        while offset is None and (stored := self.spills.first_clean(now)) is not None:
            self.spills.busy(stored)
            stored.move(Where.DISK)
            self.allocator.free(stored.offset)
            offset = self.allocator.allocate(size)
        if offset is None:
            return None
        end = offset + size
        for start in [start for start, (length, _) in self.holes.items() if start < end and offset < start + length]:
            del self.holes[start]
        return offset

    def want_room(self, some: ObjectId, who: ProcessId, size: int, now: float) -> None:
        patience = self.limits.room_s if who != self.me else self.limits.read_room_s
        self.room.append(RoomWanted(some, who, size, now + patience))

    def settle(self, now: float) -> None:
        """Once after each event: who waits for room gets it, or hears that there is none."""
        while self.room:
            wanted = self.room[0]
            if wanted.restores and not self._is_awaited(wanted.object):
                self.room.popleft()
                continue
            offset = self._find(wanted.size, now)
            lacking = wanted.size - self.allocator.free_bytes
            if offset is None and (self.spills.make_room(lacking, now) or now < wanted.until):
                return
            self.room.popleft()
            if wanted.restores:
                self._restore_at(wanted, offset)
                continue
            if offset is not None:
                self.unsealed[wanted.object, wanted.who] = Block(wanted.object, wanted.who, offset, wanted.size)
            if wanted.who == self.me:
                self.on_room(wanted, offset, now)
            elif offset is not None:
                self.out.append(Send(wanted.who, ObjectAllocated(wanted.object, offset)))
            else:
                why = self.why_full(wanted.size)
                self.out.append(Send(wanted.who, ObjectRefused(wanted.object, why, self.refusal)))
        self.spills.write_ahead(self.allocator.used, self.allocator.capacity, now)

    def next_wake(self, now: float) -> float | None:
        if not self.room or self.spills.writing:
            return None  # an event will come
        until, again_at = self.room[0].until, self.spills.again_at
        return min(until, again_at) if now < again_at else until

    @property
    def refusal(self) -> str:
        """The class of error of who gets no room now."""
        return "OutOfDiskError" if self.spills.disk_full else "ObjectStoreFullError"

    def why_full(self, size: int) -> str:
        allocator = self.allocator
        if size > allocator.capacity:
            return (
                f"an object of {show_bytes(size)} can never fit into this node's store of "
                f"{show_bytes(allocator.capacity)}; start the node with a larger object_store_memory"
            )
        pinned = sum(stored.size for stored in self.stored.values() if stored.pins and stored.in_memory)
        facts = (
            f"no room for an object of {show_bytes(size)}: this node's store of "
            f"{show_bytes(allocator.capacity)} has {show_bytes(allocator.free_bytes)} free, "
            f"{show_bytes(pinned)} is being read"
        )
        if self.spills.failure:
            return f"{facts}, and what is not read cannot be spilled to disk: {self.spills.failure}"
        return (
            f"{facts}, and nothing was freed within {self.limits.room_s:g} s. Let go of references to large objects "
            f"and of arrays that lie in them, or start the node with a larger object_store_memory.{self._largest()}"
        )

    def _largest(self, most: int = 3) -> str:
        """Who could make room."""
        here = sorted((one for one in self.stored.values() if one.in_memory), key=lambda one: -one.size)[:most]
        if not here:
            return ""
        told = []
        for stored in here:
            readers = [self.name_of(process) for process, held in self.pins.items() if stored.object in held]
            by = f"read by {' and '.join(readers)}" if readers else "read by nobody"
            owner = self.name_of(owner_of(stored.object))
            told.append(f"{show_bytes(stored.size)} ({stored.object.hex()}, of {owner}, {by})")
        return f" The largest: {'; '.join(told)}"

    # ------------------------------------------------------------------ written
    def seal(self, some: ObjectId, writer: ProcessId, now: float) -> bool:
        """The block becomes the object, if it is the first of its kind. Whoever waits to read it is served."""
        block = self.unsealed.pop((some, writer), None)
        if block is None:
            return False
        unwanted = block.doomed or self.gone_owner(some, writer) or self._left_out(some)
        known = self.stored.get(some)
        if known is not None:
            known.doomed = known.doomed and unwanted
            if writer != self.me:
                known.copy = False
            self._read(known)
            if not known.pins and known.in_memory:
                self._unread(known)
            self._release(block.offset, block.size, now)
        else:
            copy = writer == self.me
            known = self.stored[some] = Stored(some, block.offset, block.size, copy, doomed=unwanted)
            self._unread(known)
        self._serve_readers(known, now)
        return True

    def is_written(self, some: ObjectId) -> bool:
        """Whether a process of this node is writing it now."""
        return any(block.object == some and block.writer != self.me for block in self.unsealed.values())

    def _serve_readers(self, stored: Stored, now: float) -> None:
        """It is sealed; perhaps it is on disk again already."""
        if stored.in_memory:
            for reader in self.readers.pop(stored.object, ()):
                self.pin(stored.object, reader.process)
        elif stored.object in self.readers:
            self.restore(stored, now)
        self._let_go(stored, now)

    # ------------------------------------------------------------------ read
    def pin(self, some: ObjectId, process: ProcessId) -> None:
        """For a reader here: hold it, and tell where it is."""
        stored = self.hold(some, process)
        self.out.append(Send(process, ObjectPinned(some, stored.offset, stored.size)))

    def hold(self, some: ObjectId, process: ProcessId) -> Stored:
        stored = self.stored[some]
        stored.pins += 1
        held = self.pins.setdefault(process, {})
        held[some] = held.get(some, 0) + 1
        self._read(stored)
        return stored

    def _read(self, stored: Stored) -> None:
        """It has to stay where it is."""
        self.evictable.pop(stored.object, None)
        self.spills.busy(stored)

    def _unread(self, stored: Stored) -> None:
        """It may give up its memory."""
        if stored.copy:
            self.evictable[stored.object] = None
        else:
            self.spills.idle(stored)

    def unpin(self, some: ObjectId, process: ProcessId, now: float) -> None:
        held = self.pins.get(process, {})
        if some not in held:
            return  # its pins went with a node or process that was thought dead
        held[some] -= 1
        if not held[some]:
            del held[some]
        if not held:
            del self.pins[process]
        stored = self.stored[some]
        stored.pins -= 1
        if not stored.pins and stored.in_memory:
            self._unread(stored)
        self._let_go(stored, now)

    # ------------------------------------------------------------------ on disk
    def restore(self, stored: Stored, now: float) -> None:
        """Its readers are listed; they get it when it is back, or where it is if no room can be made for it."""
        if stored.where is Where.DISK and not any(w.restores and w.object == stored.object for w in self.room):
            self.room.append(RoomWanted(stored.object, self.me, stored.size, now, restores=True))

    def _is_awaited(self, some: ObjectId) -> bool:
        return some in self.readers and some in self.stored and self.stored[some].where is Where.DISK

    def _restore_at(self, wanted: RoomWanted, offset: int | None) -> None:
        stored = self.stored[wanted.object]
        assert stored.file is not None
        if offset is None:  # all is being read, or the disk is full: it is read where it is
            for reader in self.readers.pop(wanted.object):
                self.hold(wanted.object, reader.process)
                place = ObjectPinned(wanted.object, stored.at, stored.size, stored.file.number)
                self.out.append(Send(reader.process, place))
            return
        stored.offset = offset
        stored.move(Where.RESTORING)
        self.out.append(RestoreObject(stored.object, stored.file.number, stored.at, offset, stored.size))

    def restored(self, some: ObjectId, now: float) -> None:
        stored = self.stored[some]
        self.spills.restored(stored)
        if not stored.pins:
            self._unread(stored)
        self._serve_readers(stored, now)

    def not_restored(self, some: ObjectId, why: str, now: float) -> None:
        """It is lost, as if its node had died."""
        stored = self.stored[some]
        stored.move(Where.DISK)
        stored.doomed = True
        self._release(stored.offset, stored.size, now)
        for reader in self.readers.pop(some, ()):
            gone = ObjectGone(some, f"it was spilled to disk, and cannot be read: {why}")
            self.out.append(Send(reader.process, gone))
        self._let_go(stored, now)

    # ------------------------------------------------------------------ not wanted any more
    def free(self, some: ObjectId, now: float) -> None:
        for block in self.unsealed.values():
            if block.object == some:
                block.doomed = True
        stored = self.stored.get(some)
        if stored is not None:
            stored.doomed = True
            self._let_go(stored, now)

    def free_all(self, unwanted: Callable[[ObjectId], bool], now: float) -> None:
        known = {*self.stored, *(some for some, _ in self.unsealed)}
        for some in sorted(some for some in known if unwanted(some)):
            self.free(some, now)

    def end_transfer(self, prefix: bytes, keep: Iterable[ObjectId], now: float) -> None:
        """Of the objects with this prefix only these stay, also of those that are sealed after this."""
        kept = frozenset(keep)
        self.ended_transfers.remember(prefix, kept)
        self._prefix_lengths.add(len(prefix))
        self.free_all(lambda some: some.startswith(prefix) and some not in kept, now)

    def drop_process(self, process: ProcessId, now: float) -> list[ObjectId]:
        """It is dead: its pins, unsealed blocks and requests go.

        Returns:
            What it was writing and others wait to read, while nobody else writes it: they have to look elsewhere.
        """
        for some, count in list(self.pins.get(process, {}).items()):
            for _ in range(count):
                self.unpin(some, process, now)
        self.room = deque(wanted for wanted in self.room if wanted.who != process)
        for some, waiting in list(self.readers.items()):
            self.readers[some] = [reader for reader in waiting if reader.process != process]
            if not self.readers[some]:
                del self.readers[some]
                if some in self.stored:
                    self._let_go(self.stored[some], now)
        written = [block for block in self.unsealed.values() if block.writer == process]
        for block in written:
            self._free_block(block, now)
        return [block.object for block in written if block.object in self.readers and not self.is_written(block.object)]

    def abandon(self, some: ObjectId, writer: ProcessId, now: float) -> None:
        """The writer gives its block, or its wish for one, up."""
        self.room = deque(
            wanted for wanted in self.room if wanted.restores or (wanted.object, wanted.who) != (some, writer)
        )
        block = self.unsealed.get((some, writer))
        if block is not None:
            self._free_block(block, now)

    def punch(self, now: float) -> None:
        """Holes that nobody filled for a while go back to the system."""
        for offset, (size, since) in list(self.holes.items()):
            if now - since >= self.limits.punch_s:
                del self.holes[offset]
                self.out.append(PunchHole(offset, size))

    def _left_out(self, some: ObjectId) -> bool:
        """Whether it comes after the end of its transfer, and is not one of those that were kept."""
        for length in self._prefix_lengths:
            kept = self.ended_transfers.get(some[:length])
            if kept is not None and some not in kept:
                return True
        return False

    def _let_go(self, stored: Stored, now: float) -> None:
        if not stored.doomed or stored.pins or stored.where is Where.RESTORING or stored.object in self.readers:
            return
        del self.stored[stored.object]
        self.evictable.pop(stored.object, None)
        if stored.in_memory:
            self._release(stored.offset, stored.size, now)
        self.spills.forget(stored)

    def _evict(self, stored: Stored) -> None:
        """For room that is filled at once. The owner may go on naming this node, which then says NotHere."""
        del self.stored[stored.object]
        del self.evictable[stored.object]
        self.allocator.free(stored.offset)

    def _free_block(self, block: Block, now: float) -> None:
        del self.unsealed[block.object, block.writer]
        self._release(block.offset, block.size, now)

    def _release(self, offset: int, size: int, now: float) -> None:
        self.allocator.free(offset)
        if size >= self.limits.punch_bytes:
            self.holes[offset] = (size, now)
