"""Pages of the segment that are taken from the system ahead of need: a first write to others takes twice as long."""

from __future__ import annotations

import contextlib
import logging
import os
import threading

from sparkray_core.store.segment import Segment

SLICE_BYTES = 16 << 20  # of one system call: 10 ms, after which the end of the raylet is noticed
SHARE = 16  # a sixteenth of the store at most
UNUSED_S = 60.0  # what no value has come near to by then goes back to the system

log = logging.getLogger(__name__)


class Warmth:
    """The start of the segment, where the first large values go, is made warm by a thread of least priority."""

    def __init__(self, segment: Segment, wanted: int) -> None:
        self.size = min(wanted, segment.size // SHARE) if segment.is_memory else 0
        self._segment = segment
        self._ends = False
        self._thread = threading.Thread(target=self._warm, name="sparkray-warmth", daemon=True)
        if self.size and hasattr(os, "posix_fallocate"):
            self._thread.start()

    def close(self) -> None:
        self._ends = True
        if self._thread.is_alive():
            self._thread.join(1.0)

    def give_back(self, free_at_start: int) -> None:
        """After `UNUSED_S`: unless something lies there, or did a moment ago."""
        if self.size and free_at_start >= self.size:
            self._segment.punch(0, self.size)

    def _warm(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            for start in range(0, self.size, SLICE_BYTES):
                if self._ends:
                    return
                os.posix_fallocate(self._segment.fileno(), start, min(SLICE_BYTES, self.size - start))
        except OSError as error:  # the memory is not there, and may never be asked for
            log.info("the first %d bytes of the store stay cold: %s", self.size, error)
