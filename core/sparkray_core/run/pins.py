"""The objects that this process has pinned in the segment: each once, however many views of it there are.

A pin whose last view died rests for as long as a reference to the object lives here: it could not be freed anyway, and
the next `get` of it needs no round trip. Only in drivers, only for objects of some size, and only a few: what rests
cannot be spilled.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from sparkray_core.ids import ObjectId
from sparkray_core.model.entries import Entry

REST_BYTES = 64 << 20  # of all that rest; of a small store a sixteenth
REST_OBJECT_BYTES = 16 << 20  # a larger one takes longer to be looked at than the round trip


class Pin:
    __slots__ = ("file", "offset", "rests", "size", "views")

    def __init__(self, offset: int, size: int, file: int) -> None:
        self.offset = offset
        self.size = size
        self.file = file  # 0: in the segment
        self.views = 1
        self.rests = False  # instead of being given back when it has no views; a reference is held


class Pins:
    """The core's lock is held in every call."""

    def __init__(self, store_bytes: int) -> None:
        """
        Args:
            store_bytes: 0 for a process in which no pin is to rest.
        """
        self.most = min(REST_BYTES, store_bytes // 16)  # bytes that rest
        self.held: dict[ObjectId, Pin] = {}
        self._resting: OrderedDict[ObjectId, Pin] = OrderedDict()
        self._bytes = 0

    def again(self, some: ObjectId) -> Pin | None:
        """One more view of what is pinned already."""
        pin = self.held.get(some)
        if pin is not None:
            pin.views += 1
            self._wake(some)
        return pin

    def add(self, some: ObjectId, offset: int, size: int, file: int, rests: bool) -> tuple[Pin, bool]:
        """The raylet has pinned it. The second: that pin is one too many (two threads asked), and goes back."""
        pin = self.again(some)
        if pin is not None:
            return pin, True
        pin = self.held[some] = Pin(offset, size, file)
        pin.rests = rests and not file and size <= min(REST_OBJECT_BYTES, self.most)
        return pin, False

    def released(self, some: ObjectId) -> list[ObjectId]:
        """A view died. What is to be unpinned at the raylet."""
        pin = self.held[some]
        pin.views -= 1
        if pin.views:
            return []
        if not pin.rests:
            del self.held[some]
            return [some]
        self._resting[some] = pin
        self._bytes += pin.size
        gone = []
        while self._bytes > self.most:
            oldest = next(iter(self._resting))
            self._wake(oldest)
            del self.held[oldest]
            gone.append(oldest)
        return gone

    def dropped(self, entries: Iterable[Entry]) -> list[ObjectId]:
        """The references to these died. What is to be unpinned at the raylet."""
        gone = []
        for entry in entries:
            pin = self.held.get(entry._id) if entry._id is not None else None
            if pin is not None:
                pin.rests = False
                if not pin.views:
                    self._wake(entry.id)
                    del self.held[entry.id]
                    gone.append(entry.id)
        return gone

    def _wake(self, some: ObjectId) -> None:
        pin = self._resting.pop(some, None)
        if pin is not None:
            self._bytes -= pin.size
