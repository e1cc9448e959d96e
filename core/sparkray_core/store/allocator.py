"""Where in the segment: best fit over free blocks that always grow together again.

PURE: offsets and sizes only, no memory is touched.

Sizes are rounded up, to 64 bytes or, from 64 KiB on, to whole pages. Large blocks are page-aligned and cut from the
start of a free block, small ones from its end: so pages of a large object hold nothing else and can be given back to
the system, and the small ones gather at the far end of the segment instead of splitting its middle.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

UNIT: Final = 64  # bytes: a cache line; smaller objects share none
PAGE: Final = 4096  # bytes
LARGE: Final = 64 << 10  # bytes; from here on whole pages, which wastes 6 % at most


class Allocator:
    """Free and taken blocks of one segment.

    A call costs a few binary searches, and moves of 8 bytes per free block: 1 us with a hundred of
    them, 2 us with 10,000, up to 13 us with 100,000.

    Attributes:
        capacity: bytes that are shared out: what was given, rounded down to 64.
        used: bytes in taken blocks, rounding included.
    """

    __slots__ = ("_by_size", "_ends", "_starts", "_taken", "capacity", "used")

    def __init__(self, capacity: int) -> None:
        if capacity < UNIT:
            raise ValueError(f"a segment of {capacity} bytes is too small: at least {UNIT} are needed")
        self.capacity = capacity - capacity % UNIT
        self.used = 0
        self._taken: dict[int, int] = {}  # offset -> size
        # The free blocks, three ways: by size and then offset, by their start, by their end.
        self._by_size: list[tuple[int, int]] = []
        self._starts: dict[int, int] = {}  # start -> end
        self._ends: dict[int, int] = {}  # end -> start
        self._add(0, self.capacity)

    @property
    def free_bytes(self) -> int:
        return self.capacity - self.used

    @property
    def largest_free(self) -> int:
        """Bytes of the largest free block. Alignment may take up to a page of it."""
        return self._by_size[-1][0] if self._by_size else 0

    def free_within(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(start, end) of what is free between the two. Looks at every free block."""
        cut = ((max(start, free), min(stop, end)) for free, end in self._starts.items())
        return sorted((free, end) for free, end in cut if free < end)

    def size_of(self, offset: int) -> int:
        """Bytes of the taken block, rounding included. Raises KeyError if there is none."""
        return self._taken[offset]

    def allocate(self, size: int) -> int | None:
        """Take `size` bytes: their offset, or None if no free block can hold them, however many are free in all.

        Raises:
            ValueError: size is negative. Zero bytes take a unit, so that every block has an offset of its own.
        """
        if size < 0:
            raise ValueError(f"cannot allocate {size} bytes")
        large = size >= LARGE
        unit = PAGE if large else UNIT
        size = max(-(-size // unit) * unit, UNIT)
        found = self._fit_large(size) if large else self._fit_small(size)
        if found is None:
            return None
        start, end, offset = found
        self._remove(start, end)
        if start < offset:
            self._add(start, offset)
        if offset + size < end:
            self._add(offset + size, end)
        self._taken[offset] = size
        self.used += size
        return offset

    def free(self, offset: int) -> int:
        """Give a block back: its size.

        Raises:
            KeyError: no taken block starts there; it was freed before, or never taken.
        """
        size = self._taken.pop(offset)
        self.used -= size
        start, end = offset, offset + size
        if (before := self._ends.get(start)) is not None:
            self._remove(before, start)
            start = before
        if (after := self._starts.get(end)) is not None:
            self._remove(end, after)
            end = after
        self._add(start, end)
        return size

    def _fit_small(self, size: int) -> tuple[int, int, int] | None:
        """(start, end) of the free block to use, and the offset in it."""
        index = bisect_left(self._by_size, (size, 0))
        if index == len(self._by_size):
            return None
        length, start = self._by_size[index]
        return start, start + length, start + length - size

    def _fit_large(self, size: int) -> tuple[int, int, int] | None:
        # Blocks of less than a page more than the size may lack room for alignment: a few are tried, for a tight fit.
        # The first one after them fits for sure. Only if there is none, the rest is searched.
        index = bisect_left(self._by_size, (size, 0))
        sure = bisect_left(self._by_size, (size + PAGE - UNIT, 0), index)
        few = min(index + 8, sure)
        for at in (*range(index, few), *range(sure, min(sure + 1, len(self._by_size))), *range(few, sure)):
            length, start = self._by_size[at]
            offset = -(-start // PAGE) * PAGE
            if offset + size <= start + length:
                return start, start + length, offset
        return None

    def _add(self, start: int, end: int) -> None:
        self._starts[start] = end
        self._ends[end] = start
        insort(self._by_size, (end - start, start))

    def _remove(self, start: int, end: int) -> None:
        del self._starts[start], self._ends[end]
        del self._by_size[bisect_left(self._by_size, (end - start, start))]
