"""Large values on their way into the segment: by several threads, and around pages that this process has not mapped.

What a byte costs here (2 cores, Linux 6.18, 4 KiB pages, one thread): to copy into mapped pages 0.1 ns; to map a page
that is there 0.45 ns more, and one that nobody has touched 1 ns more, by faults; a system call into pages that are
there, mapped or not, takes 0.33 ns in all, and into others 0.7 ns.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from sparkray_core.store.segment import Segment
from sparkray_core.system import LINUX

THREADS: Final = 4  # at most, and no more than CPUs: a few of them use all the bandwidth that the memory has
THREAD_BYTES: Final = 8 << 20  # for each at least: 1 ms of copying, against 0.05 ms to start a thread
LOOK_BYTES: Final = (
    4 << 20
)  # so far apart are the pages that are looked up in the page table; and what is mapped at once
_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE of Linux 5.14, which the mmap module does not name yet
_SC_LEVEL3_CACHE_SIZE: Final = 194  # of glibc, on every processor; Python has no name for it
_PRESENT: Final = 0x80  # in the last of the eight bytes of a page

Run: TypeAlias = "tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]"  # where it goes in the segment, and what


def _stream_bytes() -> int:
    """From here on the C library's memmove writes past the caches, which saves the memory a third of the work.

    What it goes by is three quarters of the last cache. Cut into pieces of less, a large copy takes longer than whole.
    0: another library, or it does not say.
    """
    try:
        if os.confstr("CS_GNU_LIBC_VERSION"):
            return max(0, os.sysconf(_SC_LEVEL3_CACHE_SIZE)) * 3 // 4
    except (ValueError, OSError):
        pass
    return 0


STREAM_BYTES: Final = _stream_bytes()


def _libc_madvise() -> Callable[[int, int, int], int] | None:
    if not LINUX:
        return None
    function: Any = ctypes.CDLL(None, use_errno=True).madvise  # mmap.madvise would hold the GIL
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


class Copier:
    """Writes to one segment, from the process that has it mapped. Any thread may call."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._into = np.frombuffer(segment.write_view(0, segment.size), np.uint8)  # keeps the map as long as we live
        self._address: int = self._into.ctypes.data
        self._madvise = _libc_madvise()
        self._table = -1  # of the pages of this process; -1: not to be had, then all count as mapped
        if LINUX:
            with contextlib.suppress(OSError):
                self._table = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self._table >= 0:
            os.close(self._table)
            self._table = -1

    # ------------------------------------------------------------------ which pages are mapped
    def is_mapped(self, offset: int) -> bool:
        """Whether a write there finds its page in this process's table. What was mapped may have been given back."""
        if self._table < 0:
            return True
        try:
            entry = os.pread(self._table, 8, (self._address + offset) // mmap.PAGESIZE * 8)
        except OSError:  # closed meanwhile
            return True
        return len(entry) < 8 or bool(entry[7] & _PRESENT)

    def mapped_until(self, start: int, stop: int) -> tuple[int, bool]:
        """The end of the run that begins at `start`, and whether its pages are mapped. By samples: it may err a bit."""
        known = self.is_mapped(start)
        at = (start // LOOK_BYTES + 1) * LOOK_BYTES
        while at < stop and self.is_mapped(at) == known:
            at += LOOK_BYTES
        return min(at, stop), known

    def map(self, start: int, stop: int) -> bool:
        """Map these pages, and take those from the system that are not there. The GIL is released.

        Returns:
            False where the system cannot do it, or has no memory left: writing maps them too, or fails as it may.
        """
        start = start // mmap.PAGESIZE * mmap.PAGESIZE
        return self._madvise is not None and not self._madvise(self._address + start, stop - start, _POPULATE_WRITE)

    def map_in_threads(self, offset: int, size: int) -> None:
        """What of it is not mapped, for who writes there in a way of its own."""
        to_map: list[Run] = []
        start = offset
        while start < offset + size:
            stop, known = self.mapped_until(start, offset + size)
            if not known:
                to_map.append((start, self._into[start:stop]))
            start = stop
        if to_map:
            in_threads([_bound(self._map_all, share) for share in shares(to_map, min(THREADS, _cpus()), 0)])

    # ------------------------------------------------------------------ copying
    def prefers_file(self, offset: int, size: int) -> bool:
        """Whether system calls are the quicker way there, for who writes everything in one go: see `copy`."""
        return not self.is_mapped(offset + size // 2) and self._segment.is_first_write(offset, size)

    def copy(self, pieces: Sequence[tuple[int, memoryview | bytes]]) -> None:
        """Write each piece to its place in the segment.

        Mapped pages are written to by all threads. Others are written by system calls the first time, which is the
        quickest way for a value that is written once; the second time all threads map them, for good.

        Raises:
            OSError: ENOSPC, where the segment is a file on a disk.
        """
        if len(pieces) == 1 and len(pieces[0][1]) < 2 * THREAD_BYTES and self.is_mapped(pieces[0][0]):
            offset, part = pieces[0]
            np.copyto(self._into[offset : offset + len(part)], np.frombuffer(part, np.uint8))
            return
        mapped: list[Run] = []
        to_map: list[Run] = []
        first: list[Run] = []
        for offset, part in pieces:
            source = np.frombuffer(part, np.uint8)
            start, end = offset, offset + len(source)
            while start < end:
                stop, known = self.mapped_until(start, end)
                piece = (start, source[start - offset : stop - offset])
                if known:
                    mapped.append(piece)
                elif self._segment.is_first_write(start, stop - start):
                    first.append(piece)
                else:
                    to_map.append(piece)
                start = stop
        threads = min(THREADS, _cpus())
        if first:  # by this thread: system calls that write to one file take turns anyway
            jobs = [lambda: self._move(mapped + to_map)] if mapped or to_map else []
            in_threads([*jobs, lambda: self._write(first)])
            return
        if to_map:
            in_threads([_bound(self._map_all, share) for share in shares(to_map, threads, 0)])
        in_threads([_bound(self._move, share) for share in shares(mapped + to_map, threads, STREAM_BYTES)])

    def _move(self, pieces: Sequence[Run]) -> None:
        for start, source in pieces:
            np.copyto(self._into[start : start + len(source)], source)

    def _map_all(self, pieces: Sequence[Run]) -> None:
        for start, source in pieces:
            self.map(start, start + len(source))

    def _write(self, pieces: Sequence[Run]) -> None:
        descriptor = self._segment.fileno()
        for start, source in pieces:
            left = source.data
            while left:  # one call writes 2 GiB at most
                written = os.pwrite(descriptor, left, start)
                left, start = left[written:], start + written


def shares(pieces: Sequence[Run], threads: int, least: int) -> list[list[Run]]:
    """The same bytes, dealt out to at most so many threads.

    Args:
        least: bytes; a copy of so many is not cut into smaller ones, if that leaves another thread idle.
    """
    size = sum(len(source) for _, source in pieces)
    most = max(1, min(threads, size // THREAD_BYTES))
    share = -(-size // most)
    if size >= least > share:
        share = least
    share = -(-share // mmap.PAGESIZE) * mmap.PAGESIZE
    dealt: list[list[Run]] = []
    room = 0
    for start, source in pieces:
        while len(source):
            if not room:
                dealt.append([])
                room = share
            taken = min(room, len(source))
            dealt[-1].append((start, source[:taken]))
            start, source, room = start + taken, source[taken:], room - taken
    return dealt


def in_threads(jobs: Sequence[Callable[[], None]]) -> None:
    """Do them all at the same time, the last one in this thread. All have ended when this returns, or raises."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failures.append(error)

    helpers = []
    for job in jobs[:-1]:
        helper = threading.Thread(target=run, args=(job,), name="sparkray-copy", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            run(job)
        else:
            helpers.append(helper)
    if jobs:
        run(jobs[-1])
    for helper in helpers:
        while helper.is_alive():  # what it writes to must stay ours until it ends, whatever happens: a Ctrl-C waits
            run(helper.join)
    if failures:
        raise failures[0]


def _bound(job: Callable[[Sequence[Run]], None], share: Sequence[Run]) -> Callable[[], None]:
    return lambda: job(share)


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if LINUX else os.cpu_count() or 1
