"""Objects on disk: which are written out, least lately used first, and which file holds what.

    MEMORY --> WRITING --> BOTH --> DISK --> RESTORING --+
       ^          |          ^                           |
       +-failed---+          +---------------------------+

Several objects share a file, written in one go; it goes when the last of them is freed. An object that was read back
keeps its place in the file: it never changes, so giving up its memory the next time costs nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from sparkray_core.ids import ObjectId
from sparkray_core.model.effects import DropSpilled, Effect, SpillObjects
from sparkray_core.model.limits import NodeLimits

ALIGNMENT = 64  # bytes, of an object in its file: as in the segment, so that it can be read in place there, too


class Where(Enum):
    MEMORY = "in memory"
    WRITING = "being written out"  # and still in memory
    BOTH = "in memory and on disk"
    DISK = "on disk"
    RESTORING = "being read back"


MOVES: Mapping[Where, frozenset[Where]] = {
    Where.MEMORY: frozenset({Where.WRITING}),
    Where.WRITING: frozenset({Where.BOTH, Where.MEMORY}),
    Where.BOTH: frozenset({Where.DISK}),
    Where.DISK: frozenset({Where.RESTORING}),
    Where.RESTORING: frozenset({Where.BOTH, Where.DISK}),
}


@dataclass(slots=True)
class Stored:
    """A sealed object of this node."""

    object: ObjectId
    offset: int  # in the segment; it means nothing while the object is on disk only
    size: int
    copy: bool  # pulled from another node, so it may be evicted
    pins: int = 0
    doomed: bool = False  # it goes with the last pin
    where: Where = Where.MEMORY
    file: SpillFile | None = field(default=None, repr=False)  # that has it, or is to have it
    at: int = 0  # first byte in that file
    used: int = 0  # grows with each use, over all objects

    @property
    def in_memory(self) -> bool:
        return self.where is not Where.DISK and self.where is not Where.RESTORING

    def move(self, to: Where) -> None:
        assert to in MOVES[self.where], f"{self.object.hex()}: {self.where} -> {to}"
        self.where = to


@dataclass(slots=True, eq=False)
class SpillFile:
    number: int
    size: int  # bytes
    members: dict[ObjectId, Stored] = field(default_factory=dict)  # that still exist
    written: bool = False


class Spills:
    """Primary copies that nobody reads, in the order of their last use, and the files that have some of them."""

    def __init__(self, capacity: int, limits: NodeLimits, out: list[Effect]) -> None:
        self.limits = limits
        self.out = out
        # One file takes an eighth of a small store at most, so that room comes bit by bit.
        self.file_bytes = min(limits.spill_bytes, capacity // 8)
        self.dirty: OrderedDict[ObjectId, Stored] = OrderedDict()  # in memory only
        self.clean: OrderedDict[ObjectId, Stored] = OrderedDict()  # in memory, and in a file
        self.files: dict[int, SpillFile] = {}
        self.writing: dict[int, SpillFile] = {}
        self.clean_bytes = 0
        self.failure = ""  # why the last attempt failed; empty after one that succeeded
        self.disk_full = False  # and whether that was for want of space
        self.again_at = 0.0  # no attempt before
        self.spilled_bytes = self.spilled_objects = 0  # since the start
        self.restored_bytes = self.restored_objects = 0
        self._numbers = 0
        self._uses = 0

    # ------------------------------------------------------------------ who may go
    def idle(self, stored: Stored) -> None:
        """Nobody reads it from now on."""
        self._uses += 1
        stored.used = self._uses
        self._enlist(stored)

    def busy(self, stored: Stored) -> None:
        """It is read, or gone."""
        self.dirty.pop(stored.object, None)
        if self.clean.pop(stored.object, None) is not None:
            self.clean_bytes -= stored.size

    def _enlist(self, stored: Stored, first: bool = False) -> None:
        if stored.where is Where.MEMORY:
            self.dirty[stored.object] = stored
            if first:
                self.dirty.move_to_end(stored.object, last=False)
        elif stored.where is Where.BOTH:
            self.clean[stored.object] = stored
            self.clean_bytes += stored.size
            if first:
                self.clean.move_to_end(stored.object, last=False)

    def first_clean(self, now: float) -> Stored | None:
        """Whose memory may go now. None: whoever was used longest ago is not on disk yet."""
        clean = next(iter(self.clean.values()), None)
        dirty = next(iter(self.dirty.values()), None)
        if clean is not None and dirty is not None and dirty.used < clean.used and now >= self.again_at:
            return None
        return clean

    # ------------------------------------------------------------------ writing
    def make_room(self, lacking: int, now: float) -> bool:
        """Write out what is to give this many bytes more. Whether room is on the way."""
        coming = sum(stored.size for file in self.writing.values() for stored in file.members.values())
        if not self.writing or coming < lacking:
            self._write(lacking - coming, now)
        return bool(self.writing)

    def write_ahead(self, used: int, capacity: int, now: float) -> None:
        """Before anybody lacks room: what is on disk as well can be dropped in no time."""
        if used - self.clean_bytes > capacity * self.limits.spill_mark and not self.writing:
            self._write(0, now)

    def _write(self, lacking: int, now: float) -> None:
        if now < self.again_at or len(self.writing) >= self.limits.spills_ahead or not self.dirty:
            return
        wanted = max(min(lacking, self.limits.spill_bytes), self.file_bytes)
        self._numbers += 1
        file = SpillFile(self._numbers, 0)
        for stored in islice(self.dirty.values(), self.limits.spill_objects):
            if file.members and file.size + stored.size > wanted:
                break
            stored.at = -(-file.size // ALIGNMENT) * ALIGNMENT
            file.size = stored.at + stored.size
            file.members[stored.object] = stored
        for stored in file.members.values():
            del self.dirty[stored.object]
            stored.file = file
            stored.move(Where.WRITING)
        self.files[file.number] = self.writing[file.number] = file
        pieces = tuple((stored.offset, stored.at, stored.size) for stored in file.members.values())
        self.out.append(SpillObjects(file.number, file.size, pieces))

    def written(self, number: int) -> None:
        file = self.writing.pop(number)
        file.written = True
        self.failure, self.disk_full, self.again_at = "", False, 0.0
        for stored in reversed(file.members.values()):
            stored.move(Where.BOTH)
            self.spilled_bytes += stored.size
            self.spilled_objects += 1
            if not stored.pins:
                self._enlist(stored, first=True)
        self._drop_if_empty(file)

    def failed(self, number: int, why: str, full: bool, now: float) -> None:
        """Nothing of it is on disk."""
        file = self.writing.pop(number)
        del self.files[number]
        self.failure, self.disk_full, self.again_at = why, full, now + self.limits.spill_retry_s
        for stored in reversed(file.members.values()):
            stored.file = None
            stored.move(Where.MEMORY)
            if not stored.pins:
                self._enlist(stored, first=True)

    # ------------------------------------------------------------------ reading, and the end
    def restored(self, stored: Stored) -> None:
        stored.move(Where.BOTH)
        self.restored_bytes += stored.size
        self.restored_objects += 1

    def forget(self, stored: Stored) -> None:
        """It was freed."""
        self.busy(stored)
        file, stored.file = stored.file, None
        if file is not None:
            del file.members[stored.object]
            self._drop_if_empty(file)

    def _drop_if_empty(self, file: SpillFile) -> None:
        if file.written and not file.members:
            del self.files[file.number]
            self.out.append(DropSpilled(file.number))

    def status(self) -> dict[str, int]:
        return {
            "objects": sum(len(file.members) for file in self.files.values() if file.written),
            "bytes": sum(file.size for file in self.files.values() if file.written),
            "files": len(self.files),
            "spilled_objects": self.spilled_objects,
            "spilled_bytes": self.spilled_bytes,
            "restored_objects": self.restored_objects,
            "restored_bytes": self.restored_bytes,
        }
