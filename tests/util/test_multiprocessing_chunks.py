"""How `Pool.map` divides what it is given when nobody says how."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray.util.multiprocessing.pool import CHUNKS_PER_PROCESS, LAST_PER_PROCESS, tapering


@given(st.integers(0, 5000), st.integers(1, 64), st.integers(1, 300))
def test_chunks_cover_all_items_and_do_not_grow(items: int, processes: int, most: int) -> None:
    sizes = tapering(items, processes, most)
    assert sum(sizes) == items
    assert all(0 < size <= most for size in sizes)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("items", "processes"), [(200, 2), (1000, 8), (100_000, 4)])
def test_the_first_are_as_multiprocessings_and_the_last_a_small_part_of_them(items: int, processes: int) -> None:
    most = -(-items // (processes * CHUNKS_PER_PROCESS))
    sizes = tapering(items, processes, most)
    assert sizes[0] == most
    assert max(sizes[-processes:]) <= max(1, -(-items // (processes * LAST_PER_PROCESS)))
    assert len(sizes) < 4 * processes * CHUNKS_PER_PROCESS


def test_a_few_items_are_a_chunk_each() -> None:
    assert tapering(3, 4, 1) == [1, 1, 1]
    assert tapering(0, 4, 1) == []
