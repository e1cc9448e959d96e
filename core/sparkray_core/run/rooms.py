"""The block of the store that a driver writes to again and again, so that most `put`s of some size wait for nobody.

Beside the copy, a `put` costs a round trip to the raylet for room, and three messages that the raylet has to handle.
Neither is needed for a value that is gone before anybody has heard of it:

    kept    the last value that was put. To the raylet it is being written still, until its id is about to leave this
            process, or the next value is put. If its reference dies before, its block is
    spare   and the next value is written there, under the same id, without a message.

If it is still held when the next value is put, that one is sealed at once: the raylet does its work meanwhile.

The raylet needs to know nothing of this. Who asks it for what is kept (nobody can, before the id left) would wait until
it is sealed, as for any other. What is not used for REST_S is sealed or goes back. In drivers only: what a worker puts
is its raylet's from the start.

Not done: to hold room for values whose references stay. A request ahead of need stands in the raylet's line before
those who need room now, and in a full store pushes others' values to disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sparkray_core.ids import ObjectId, object_id, task_id
from sparkray_core.messages import STORED, FreeObjects, SealObjects
from sparkray_core.model.entries import Entry
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pump import now
from sparkray_core.run.records import clock
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.run.core import Core

REST_S: Final = 0.05  # without a `put`; then what is kept is sealed, and what is spare goes back
MOST_BYTES: Final = 16 << 20  # of the block: copying a larger value takes longer than all that is saved here
STORE_SHARE: Final = 32  # and of a small store no more than this part
PAGE: Final = 4096  # by up to so much the room that a value takes depends on where in memory it is
TIGHT: Final = 8  # what is smaller by more than this part of the block gets one of its own


class Room:
    """A block of the segment that is this process's to write to, as the object of its own with this number."""

    __slots__ = ("count", "offset", "size")

    def __init__(self, count: int, offset: int, size: int) -> None:
        self.count = count
        self.offset = offset
        self.size = size

    def fits(self, size: int) -> bool:
        return self.size - self.size // TIGHT - PAGE <= size <= self.size


class Rooms:
    """Of one driver. The core's lock is held in every call but `put`."""

    def __init__(self, core: Core) -> None:
        self.most = min(MOST_BYTES, core.segment.size // STORE_SHARE)
        self.due: float | None = None  # when `rest` is to be called, monotonic seconds
        self._core = core
        self._refs = core.owner.refs
        self._refs.on_unsealed = self._ended
        self._kept: Room | None = None  # of `refs.unsealed`
        self._spare: Room | None = None
        self._last: Entry | None = None  # that was put
        self._lasting = False  # the one before it was held for longer than until the next one
        self._used_at = 0.0

    def put(self, serialized: values.Serialized) -> ObjectRef[Any] | None:
        """A reference to the value, stored; None if it is too large for this way. Without the lock."""
        size = values.segment_size(serialized)
        if size > self.most:
            return None
        core, begin = self._core, clock()
        room = self._take(size)
        if room is None:
            count, wanted = next(core.counter), (size // PAGE + 2) * PAGE
            room = Room(count, core.allocate(self._id(count), wanted), wanted)
        try:
            with core.segment.write_view(room.offset, size) as view:
                core.write(view, room.offset, serialized)
        except BaseException:  # the value's own code, or a Ctrl-C
            with core.lock:
                self._give_back(room)
            raise
        entry = Entry(core.me, room.count)
        entry.value = (STORED, size, (core.node,))
        with core.lock:
            core._check_open()
            self.seal()  # another thread's
            self._kept, self._refs.unsealed, self._last = room, entry, entry
            self._used_at = now()
            if self._lasting:
                self.seal()
            elif self.due is None:
                self._call_at(self._used_at + REST_S)
        core.records.span("put", begin, f"{size} bytes")
        return ObjectRef(entry)

    def _take(self, size: int) -> Room | None:
        core = self._core
        with core.lock:
            core._check_open()
            core._kick_if_any()  # the reference to what is kept may have died
            self._lasting = self._last is not None and self._last.held
            self.seal()
            room, self._spare = self._spare, None
            if room is not None and not room.fits(size):
                self._give_back(room)
                room = None
        return room

    def seal(self) -> None:
        """What is kept becomes an object like any other."""
        entry, self._refs.unsealed, self._kept = self._refs.unsealed, None, None
        if entry is not None and entry.value is not None:
            core = self._core
            core._send(core.raylet_id, SealObjects([entry.id]))
            core._perform(core.owner.put(entry, entry.value, []))

    def _ended(self, entry: Entry) -> None:
        """What was kept is about to be seen, or nobody holds it any more: the owner says so in mid-work."""
        if entry.held or entry.pins or entry.borrowers:
            self.seal()
            return
        room, self._kept = self._kept, None
        self._refs.unsealed = None
        assert room is not None
        if entry._id is None and self._spare is None:
            self._spare = room
        else:  # somebody has seen the id, if only to print it: no other value may have the same
            self._give_back(room)

    def rest(self, moment: float) -> None:
        """`due` has come."""
        self.due = None
        if moment < self._used_at + REST_S:
            self._call_at(self._used_at + REST_S)
        else:
            self.let_go()

    def let_go(self) -> None:
        """Of all that is held ahead: room is wanted, or nothing was put for a while."""
        self.seal()
        room, self._spare = self._spare, None
        if room is not None:
            self._give_back(room)

    def _give_back(self, room: Room) -> None:
        some, core = self._id(room.count), self._core
        core._send(core.raylet_id, SealObjects([some]))  # a block that is being written cannot be freed
        core._send(core.raylet_id, FreeObjects([some]))

    def _call_at(self, due: float) -> None:
        self.due = due
        pump = self._core.pump
        if pump.next_wake is None or due < pump.next_wake:
            pump.next_wake = due
        if pump.asleep:
            pump.wake()

    def _id(self, count: int) -> ObjectId:
        return object_id(task_id(self._core.me, count), 0)
