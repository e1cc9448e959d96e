"""The node's shared memory: a file without a name, mapped by every process that was handed its descriptor.

No name means that no kill can leave it behind, and that the size of /dev/shm (64 MB in many pods) does not matter.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from sparkray_core.system import LINUX

PAGE = mmap.PAGESIZE
_STRETCH = 1 << 20  # bytes; a byte is kept of each


class Segment:
    """`size` bytes of memory, shared. Which of them are whose is not known here: see `allocator`.

    A forked child may go on using it. Views that live at the fork live in both processes, and each calls its own copy
    of `on_release`; where that matters, the child forgets what it was to release.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Use `create` or `attach`. Takes over `fd`, and closes it on failure too."""
        try:
            # Twice: numpy lets a user make an array writable again if what is under it can be written to.
            self._maps = [mmap.mmap(fd, size), mmap.mmap(fd, size, access=mmap.ACCESS_READ)]
        except BaseException:
            os.close(fd)
            raise
        self.size = size
        self._fd = fd
        self.is_memory = False  # made here, and no file of a disk
        self._written = bytearray(-(-size // _STRETCH))  # 1: this process has written to this stretch
        self._writable, self._readable = memoryview(self._maps[0]), memoryview(self._maps[1])

    @classmethod
    def create(cls, size: int, fallback_folder: str | Path, *, anonymous: bool = True) -> Segment:
        """A new segment, all zeros. Memory is taken from the system page by page, as it is written.

        Args:
            size: bytes, at least 1.
            fallback_folder: where the file is made (and unlinked at once) if the system has no memfd_create.
            anonymous: False makes a file in any case.

        Raises:
            ValueError: size is not positive.
            OSError: ENOSPC if the folder's disk has not got `size` bytes free: running out later would be a SIGBUS.
        """
        if size <= 0:
            raise ValueError(f"a segment needs a positive size, not {size}")
        is_memory = anonymous and LINUX and hasattr(os, "memfd_create")
        fd = os.memfd_create("sparkray", os.MFD_CLOEXEC) if is_memory else _unlinked_file(size, fallback_folder)
        try:
            os.ftruncate(fd, size)
        except BaseException:
            os.close(fd)
            raise
        segment = cls(fd, size)
        segment.is_memory = is_memory
        return segment

    @classmethod
    def attach(cls, fd: int, size: int) -> Segment:
        """Map the segment behind a descriptor that was received. Takes over `fd`.

        Raises:
            ValueError: the file has fewer bytes; reading past its end would be a SIGBUS.
        """
        actual = os.fstat(fd).st_size
        if actual < size:
            os.close(fd)
            raise ValueError(f"the segment has {actual} bytes, not the {size} that were promised with it")
        return cls(fd, size)

    def fileno(self) -> int:
        """The descriptor to hand to other processes; stays ours."""
        return self._fd

    def write_view(self, offset: int, size: int) -> memoryview:
        """Writable; the caller knows that the block is its own."""
        self._check(offset, size)
        return self._writable[offset : offset + size]

    def is_first_write(self, offset: int, size: int) -> bool:
        """Whether this process has written nothing yet to some of this block; asking counts as writing.

        Its pages are not in our map then, and perhaps nowhere. A page fault for each costs more than the copying:
        system calls write there at twice the speed (268 MB that nobody has touched: 0.3 instead of 0.6 s). But what is
        in the map is written at twice the speed of system calls (0.1 s).
        """
        first, last = offset // _STRETCH, (offset + size - 1) // _STRETCH + 1
        if self._written.find(0, first, last) < 0:
            return False
        self._written[first:last] = b"\1" * (last - first)
        return True

    def pinned_view(self, offset: int, size: int, on_release: Callable[[], None]) -> memoryview:
        """Read-only and in place. `on_release` is called once, when this view and all that was made from it (slices,
        arrays, Arrow buffers and what shares them) have died.

        It is called by the garbage collector, in whatever thread, at whatever moment, perhaps with locks held and in
        the midst of a call of the same code: it must do no more than append to a deque. What it raises is printed and
        lost. Costs 2 us.
        """
        self._check(offset, size)
        from sparkray_core.store.pinned import pinned  # here, so that a process without large values needs no numpy

        return pinned(self._readable[offset : offset + size], on_release)

    def punch(self, offset: int, size: int) -> int:
        """Give the memory of a block's whole pages back to the system; they read as zeros afterwards.

        Returns:
            The bytes given back; 0 where the system or the folder's file system cannot do it.

        Costs 0.15 ms per MiB with the GIL held, and the next write there runs at 1.5 instead of 16 GB/s (Linux 6.18,
        4 KiB pages): worth it for memory that is not soon used again, a few MiB at a time.
        """
        self._check(offset, size)
        start = -(-offset // PAGE) * PAGE
        end = (offset + size) // PAGE * PAGE
        if start >= end or not hasattr(mmap, "MADV_REMOVE"):
            return 0
        try:
            self._maps[0].madvise(mmap.MADV_REMOVE, start, end - start)
        except OSError:  # EOPNOTSUPP, EINVAL: not a file system with holes
            return 0
        return end - start

    def close(self) -> None:
        """Close the descriptor, and unmap, at once or when the last view dies. May be called again."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        self._readable.release()
        self._writable.release()
        while self._maps:
            with contextlib.suppress(BufferError):  # views live: they hold the map, and the last one ends it
                self._maps.pop().close()

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, offset: int, size: int) -> None:
        if not 0 <= offset <= offset + size <= self.size:
            raise ValueError(f"{size} bytes at {offset} are not within the segment of {self.size}")


def pinned_file_view(path: str, offset: int, size: int, on_release: Callable[[], None]) -> memoryview:
    """Like `Segment.pinned_view`, of a range of a file. The file may be removed meanwhile.

    Raises:
        OSError: it cannot be opened or mapped.
    """
    from sparkray_core.store.pinned import pinned

    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        file_map = mmap.mmap(descriptor, offset - start + size, access=mmap.ACCESS_READ, offset=start)
    finally:
        os.close(descriptor)
    return pinned(memoryview(file_map)[offset - start :], on_release)


def _unlinked_file(size: int, folder: str | Path) -> int:
    import tempfile  # 8 ms, and Linux has no use for it

    fd, path = tempfile.mkstemp(prefix="sparkray-", dir=folder)
    os.unlink(path)
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if free < size:
        os.close(fd)
        raise OSError(
            errno.ENOSPC, f"{folder} has {free} bytes free, the object store is to have {size}; make it smaller"
        )
    return fd
