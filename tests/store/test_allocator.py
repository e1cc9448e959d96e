"""Blocks never overlap, and what is free always grows together again."""

from __future__ import annotations

import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sparkray_core.store.allocator import LARGE, PAGE, UNIT, Allocator

MIB = 1 << 20


def test_sizes_and_offsets_are_aligned() -> None:
    allocator = Allocator(MIB)
    small, large = allocator.allocate(1), allocator.allocate(LARGE + 1)

    assert small is not None
    assert large is not None
    assert (small % UNIT, allocator.size_of(small)) == (0, UNIT)
    assert (large % PAGE, allocator.size_of(large)) == (0, LARGE + PAGE)
    assert allocator.used == UNIT + LARGE + PAGE
    assert allocator.free_bytes == MIB - allocator.used


def test_whole_segment_can_be_one_block_and_then_nothing_is_left() -> None:
    allocator = Allocator(MIB)

    assert allocator.allocate(MIB) == 0
    assert allocator.allocate(1) is None
    assert (allocator.free_bytes, allocator.largest_free) == (0, 0)


def test_the_tightest_hole_is_taken() -> None:
    allocator = Allocator(100 * UNIT)
    offsets = [allocator.allocate(size * UNIT) for size in (5, 1, 3, 1, 4, 86)]
    for index in (0, 2, 4):
        allocator.free(offsets[index] or 0)

    assert allocator.allocate(3 * UNIT) == offsets[2]
    assert allocator.allocate(4 * UNIT) == offsets[4]
    assert allocator.allocate(5 * UNIT) == offsets[0]


def test_block_grows_together_with_both_neighbours() -> None:
    allocator = Allocator(3 * UNIT)
    last, middle, first = (allocator.allocate(UNIT) for _ in range(3))
    assert (first, middle, last) == (0, UNIT, 2 * UNIT)

    assert allocator.free(0) == UNIT
    allocator.free(2 * UNIT)
    assert allocator.largest_free == UNIT
    allocator.free(UNIT)
    assert allocator.largest_free == 3 * UNIT


def test_large_block_finds_the_one_hole_where_it_fits_aligned() -> None:
    # Small blocks are cut from the end: twelve holes of exactly the size, the topmost alone on a page.
    allocator = Allocator(32 * LARGE)
    pieces = []
    for _ in range(12):
        pieces += [_take(allocator, LARGE - UNIT), _take(allocator, UNIT)]
        _take(allocator, UNIT)
    _take(allocator, allocator.largest_free - PAGE)
    for offset in pieces:
        allocator.free(offset)

    assert allocator.allocate(LARGE) == allocator.capacity - LARGE
    assert allocator.largest_free == LARGE
    assert allocator.allocate(LARGE) is None


def _take(allocator: Allocator, size: int) -> int:
    offset = allocator.allocate(size)
    assert offset is not None
    return offset


def test_block_freed_twice_is_refused() -> None:
    allocator = Allocator(MIB)
    offset = _take(allocator, 100)
    allocator.free(offset)

    with pytest.raises(KeyError):
        allocator.free(offset)
    assert allocator.free_bytes == allocator.largest_free == MIB


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        Allocator(UNIT - 1)
    with pytest.raises(ValueError, match="cannot allocate -1"):
        Allocator(MIB).allocate(-1)


def test_every_block_of_no_bytes_has_a_place_of_its_own() -> None:
    allocator = Allocator(MIB)
    assert allocator.allocate(0) != allocator.allocate(0)


def test_ten_thousand_holes_do_not_make_it_slow() -> None:
    allocator = Allocator(1 << 32)
    offsets = [_take(allocator, UNIT * (i * 7919 % 900 + 1)) for i in range(20_000)]
    for offset in offsets[::2]:
        allocator.free(offset)

    started = time.process_time()
    for i in range(2_000):
        allocator.free(_take(allocator, UNIT * (i % 800)))

    assert time.process_time() - started < 0.5  # 125 us for each call; it takes 2


class AllocatorAgainstModel(RuleBasedStateMachine):
    """The model: a list of taken (offset, size)."""

    capacity = 2 * MIB + 100

    def __init__(self) -> None:
        super().__init__()
        self.allocator = Allocator(self.capacity)
        self.taken: list[tuple[int, int]] = []

    @rule(size=st.integers(0, 2_000) | st.integers(0, MIB) | st.sampled_from([LARGE - 1, LARGE, LARGE + 1, PAGE]))
    def allocate(self, size: int) -> None:
        offset = self.allocator.allocate(size)
        if offset is None:
            assert not any(self._fits(size, start, end) for start, end in self._gaps())
            return
        taken = self.allocator.size_of(offset)
        assert size <= taken < max(size + (PAGE if size >= LARGE else UNIT), UNIT + 1)
        assert offset % (PAGE if size >= LARGE else UNIT) == 0
        self.taken.append((offset, taken))
        self.taken.sort()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        offset, size = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        assert self.allocator.free(offset) == size

    @invariant()
    def what_is_free_is_what_the_model_says(self) -> None:
        gaps = self._gaps()
        assert all(start <= end for start, end in gaps), "two blocks overlap"
        assert self.allocator.used == sum(size for _, size in self.taken)
        assert self.allocator.free_bytes == sum(end - start for start, end in gaps)
        assert self.allocator.largest_free == max(end - start for start, end in gaps)
        start, stop = 100, self.allocator.capacity // 2
        within = [(max(start, low), min(stop, high)) for low, high in gaps]
        assert self.allocator.free_within(start, stop) == [(low, high) for low, high in within if low < high]

    def teardown(self) -> None:
        for offset, _ in self.taken:
            self.allocator.free(offset)
        assert self.allocator.used == 0
        assert self.allocator.largest_free == self.allocator.capacity == self.capacity // UNIT * UNIT

    def _gaps(self) -> list[tuple[int, int]]:
        starts = [0, *(offset + size for offset, size in self.taken)]
        ends = [*(offset for offset, _ in self.taken), self.allocator.capacity]
        return list(zip(starts, ends, strict=True))

    @staticmethod
    def _fits(size: int, start: int, end: int) -> bool:
        unit = PAGE if size >= LARGE else UNIT
        return -(-start // unit) * unit + max(-(-size // unit) * unit, UNIT) <= end


TestAllocatorAgainstModel = AllocatorAgainstModel.TestCase
TestAllocatorAgainstModel.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


@pytest.mark.slow
def test_allocator_against_model_at_length() -> None:
    at_length = settings(max_examples=300, stateful_step_count=80, deadline=None)
    run_state_machine_as_test(AllocatorAgainstModel, settings=at_length)
