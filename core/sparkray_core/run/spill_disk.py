"""Spilled objects on disk: one thread that does only I/O, for the raylet, whose loop must stay awake.

Files lie in <node's folder>/spill, which is a link when another folder was wished for: whoever removes the node's
folder, be it the keeper, the raylet or a later sweep, removes what the link leads to as well (`folders`).

What is read back has the checksums that it had when it was written, or it is lost, as if the disk had failed. (Not so
what a process reads in the file itself, when memory has no room for it.)
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import threading
import zlib
from collections.abc import Callable

from sparkray_core.messages import NotHere, ObjectChunk
from sparkray_core.model.effects import DropSpilled, RestoreObject, Send, SendSpilled, SpillObjects
from sparkray_core.model.events import Event, Restored, RestoreFailed, Spilled, SpillFailed
from sparkray_core.run.folders import make_spill_folder, spill_path
from sparkray_core.run.loop import Loop
from sparkray_core.run.mailbox import Mailbox
from sparkray_core.store.segment import Segment

PIECE_BYTES = 8 << 20  # of one system call: between two of them other threads of the raylet get the memory's bandwidth
SUM_BYTES = 4 << 20  # have a checksum each; so much is read for another node at a time (`NodeLimits.chunk_bytes`)
CLOSE_S = 2.0  # for the piece that is under way at the end

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_Job = "SpillObjects | RestoreObject | SendSpilled | DropSpilled"

log = logging.getLogger(__name__)


class SpillDisk:
    """Jobs are done one after the other, in order; what came of them is told in the loop."""

    def __init__(
        self, segment: Segment, folder: str, elsewhere: str | None, loop: Loop, on_event: Callable[[Event | Send], None]
    ) -> None:
        """
        Args:
            folder: the node's.
            elsewhere: where the files shall lie; None: in `folder`. Made when the first object is spilled.
            on_event: what the model is to hear, or whom to send something, in the loop's thread.
        """
        self._segment = segment
        self._node_folder = folder
        self._elsewhere = elsewhere
        self._has_folder = False
        self._loop = loop
        self._on_event = on_event
        self._jobs: queue.SimpleQueue[SpillObjects | RestoreObject | SendSpilled | DropSpilled | None] = (
            queue.SimpleQueue()
        )
        self._done: Mailbox[Event | Send] | None = None
        self._sums: dict[int, dict[int, list[int]]] = {}  # file: first byte of an object there: of its parts, in order
        self._thread: threading.Thread | None = None
        self._closed = False

    def __call__(self, job: SpillObjects | RestoreObject | SendSpilled | DropSpilled) -> None:
        if self._thread is None:
            self._done = Mailbox(self._loop, self._on_event)
            self._thread = threading.Thread(target=self._work, args=[self._done], name="sparkray-spill", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def close(self) -> None:
        """What is not begun is not done."""
        self._closed = True
        if self._thread is not None and self._done is not None:
            self._jobs.put(None)
            self._thread.join(CLOSE_S)
            self._done.close()

    # ------------------------------------------------------------------------------ in the thread
    def _work(self, told: Mailbox[Event | Send]) -> None:
        while (job := self._jobs.get()) is not None and not self._closed:
            result = self._do(job)
            if result is not None:
                told.put(result)

    def _do(self, job: SpillObjects | RestoreObject | SendSpilled | DropSpilled) -> Event | Send | None:
        if isinstance(job, SpillObjects):
            try:
                self._write(job)
            except OSError as error:
                log.warning("%d bytes cannot be spilled: %s", job.size, error)
                with contextlib.suppress(OSError):
                    os.unlink(self._path(job.file))
                return SpillFailed(job.file, self._why(error), error.errno in _NO_SPACE)
            return Spilled(job.file)
        if isinstance(job, RestoreObject):
            try:
                view = self._segment.write_view(job.offset, job.size)
                self._read_into(job.file, job.at, view)
                self._check(job.file, job.at, 0, view)
            except OSError as error:
                log.error("object %s cannot be restored: %s", job.object.hex(), error)
                return RestoreFailed(job.object, str(error))
            return Restored(job.object)
        if isinstance(job, SendSpilled):
            data = bytearray(job.length)
            try:
                self._read_into(job.file, job.at + job.first, memoryview(data))
                if job.first % SUM_BYTES == 0 and (job.length == SUM_BYTES or job.first + job.length == job.size):
                    self._check(job.file, job.at, job.first, memoryview(data))
            except OSError as error:
                log.error("object %s cannot be read: %s", job.object.hex(), error)
                return Send(job.to, NotHere(job.object))
            return Send(job.to, ObjectChunk(job.object, job.first, job.size, bytes(data)))
        self._sums.pop(job.file, None)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(job.file))
        return None

    def _write(self, job: SpillObjects) -> None:
        if not self._has_folder:
            make_spill_folder(self._node_folder, self._elsewhere)
            self._has_folder = True
        descriptor = os.open(self._path(job.file), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            self._reserve(descriptor, job.size)
            sums: dict[int, list[int]] = {}
            for offset, at, size in job.pieces:
                view = self._segment.write_view(offset, size)
                sums[at] = _sums_of(view)
                self._write_piece(descriptor, view, at)
            self._sums[job.file] = sums
        finally:
            os.close(descriptor)

    @staticmethod
    def _reserve(descriptor: int, size: int) -> None:
        """A disk without space says so before a byte is written."""
        if not hasattr(os, "posix_fallocate") or not size:
            return
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise

    @staticmethod
    def _write_piece(descriptor: int, view: memoryview, at: int) -> None:
        while view:
            written = os.pwrite(descriptor, view[:PIECE_BYTES], at)
            view, at = view[written:], at + written

    def _read_into(self, file: int, at: int, view: memoryview) -> None:
        descriptor = os.open(self._path(file), os.O_RDONLY)
        try:
            while view:
                got = os.preadv(descriptor, [view[:PIECE_BYTES]], at)
                if not got:
                    raise OSError(errno.EIO, f"{self._path(file)} ends at byte {at}")
                view, at = view[got:], at + got
        finally:
            os.close(descriptor)

    def _check(self, file: int, at: int, first: int, view: memoryview) -> None:
        """Raises `OSError` if these bytes, from byte `first` of the object on, are not what was written."""
        begin = first // SUM_BYTES
        for number, found in enumerate(_sums_of(view), begin):
            if found != self._sums[file][at][number]:
                byte = at + number * SUM_BYTES
                raise OSError(errno.EIO, f"{self._path(file)} has other bytes than were written, from byte {byte} on")

    def _path(self, file: int) -> str:
        return spill_path(self._node_folder, file)

    def _why(self, error: OSError) -> str:
        where = self._elsewhere or self._node_folder
        try:
            disk = os.statvfs(where)
        except OSError:
            return f"{where}: {error.strerror or error}"
        free = disk.f_bavail * disk.f_frsize
        return f"{where} has {free >> 20} MiB free: {error.strerror or error}. Free space there, or set another folder"


def _sums_of(view: memoryview) -> list[int]:
    """Of each part. It takes this thread's time: zlib lets others run meanwhile."""
    return [zlib.crc32(view[begin : begin + SUM_BYTES]) for begin in range(0, len(view), SUM_BYTES)]
