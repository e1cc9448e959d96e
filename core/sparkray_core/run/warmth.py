"""Pages of the segment that are had ahead of need: a first write to others takes up to ten times as long.

Two things make memory warm. The raylet takes it from the system, once per node; a driver maps it, because only pages in
its own table are written to at full speed. Both in the background, and only for the start of the segment, where the
first large values go. What nobody has used after a minute goes back to the system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkray_core.store.allocator import Allocator
from sparkray_core.store.segment import Segment

if TYPE_CHECKING:
    from sparkray_core.store.copying import Copier

SLICE_BYTES = 4 << 20  # of one system call: 2 ms, for which it holds a lock that writers of this file want, too
MAP_BYTES = 1 << 20  # of one system call: 0.5 ms, for which it holds a lock that every growing heap wants, too
SHARE = 16  # a sixteenth of the store at most
UNUSED_S = 60.0  # what no value lies in by then goes back to the system
GIVE_BACK_BYTES = 16 << 20  # in one turn of the raylet: 3 ms
NICENESS = 10  # a tenth of a busy CPU; with less, those who wait for the locks would wait for long
MAP_WITHIN_S = 30.0  # after the start of the node; later, the memory may have been given back already
MAP_WAIT_S = 3.0  # for the raylet to take memory from the system

log = logging.getLogger(__name__)


def warm_bytes(wanted: int, store_bytes: int) -> int:
    return min(wanted, store_bytes // SHARE)


class Warmth:
    """The raylet's half: the start of the segment is taken from the system by a thread of low priority."""

    def __init__(self, segment: Segment, wanted: int) -> None:
        self.size = warm_bytes(wanted, segment.size) if segment.is_memory else 0
        self._segment = segment
        self._ends = False
        self._given_back = 0
        self._thread = threading.Thread(target=self._warm, name="sparkray-warmth", daemon=True)
        if self.size and hasattr(os, "posix_fallocate"):
            self._thread.start()

    def close(self) -> None:
        self._ends = True
        if self._thread.is_alive():
            self._thread.join(1.0)

    def give_back(self, allocator: Allocator) -> bool:
        """After `UNUSED_S`: what is free of the next stretch. Whether there are more."""
        start = self._given_back
        self._given_back = stop = min(start + GIVE_BACK_BYTES, self.size)
        for free, end in allocator.free_within(start, stop):
            self._segment.punch(free, end - free)
        return stop < self.size

    def _warm(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            for start in range(0, self.size, SLICE_BYTES):
                if self._ends:
                    return
                os.posix_fallocate(self._segment.fileno(), start, min(SLICE_BYTES, self.size - start))
        except OSError as error:  # the memory is not there, and may never be asked for
            log.info("the first %d bytes of the store stay cold: %s", self.size, error)


class MapAhead:
    """The driver's half: behind the raylet, its pages are mapped.

    Only in the driver whose node has just been started, and only if it has numpy: without, it has no large values.
    """

    def __init__(self, segment: Segment, size: int, copier: Callable[[], Copier]) -> None:
        self._segment = segment
        self._size = size
        self._copier = copier
        self._until = time.monotonic() + MAP_WITHIN_S
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._map, name="sparkray-warmth", daemon=True)

    def start(self) -> None:
        if self._size and time.monotonic() < self._until:
            self._thread.start()

    def close(self) -> None:
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()  # it must not map what is no longer ours

    def _map(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        copier = self._copier()
        patience = time.monotonic() + MAP_WAIT_S
        there = 0
        for start in range(0, self._size, MAP_BYTES):
            stop = min(start + MAP_BYTES, self._size)
            while there < stop:  # to be the first to touch a page costs twice as much
                if self._ends.is_set() or time.monotonic() > patience:
                    return
                there = os.fstat(self._segment.fileno()).st_blocks * 512
                if there < stop:
                    self._ends.wait(0.005)
            if self._ends.is_set() or not copier.map(start, stop):
                return
