"""Large copies into the segment: whole and right, whichever way a page was reached and however many threads did it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sparkray_core.store import copying
from sparkray_core.store.copying import LOOK_BYTES, THREAD_BYTES, Copier, in_threads, shares
from sparkray_core.store.segment import Segment
from sparkray_core.system import LINUX

SIZE = 64 << 20
needs_page_table = pytest.mark.skipif(not LINUX, reason="tells what is mapped by /proc/self/pagemap")


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    with Segment.create(SIZE, tmp_path) as segment:
        yield segment


@pytest.fixture
def copier(segment: Segment) -> Iterator[Copier]:
    copier = Copier(segment)
    yield copier
    copier.close()


def some_bytes(size: int) -> memoryview:
    return memoryview(np.random.default_rng(size).bytes(size))


@pytest.mark.parametrize("times", [1, 2, 3], ids=["first time", "second time, not mapped yet", "mapped"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_is_copied_is_there_and_nothing_else(
    threads: int, times: int, segment: Segment, copier: Copier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_cpus", lambda: threads)
    long, short = some_bytes(4 * THREAD_BYTES + 12345), some_bytes((1 << 20) + 1)
    pieces: list[tuple[int, memoryview | bytes]] = [(4096 + 64, short), (8 << 20, long), (48 << 20, bytes(short))]

    for _ in range(times):
        copier.copy(pieces)

    expected = np.zeros(SIZE, np.uint8)
    for offset, part in pieces:
        expected[offset : offset + len(part)] = np.frombuffer(part, np.uint8)
    assert np.array_equal(np.frombuffer(segment.write_view(0, SIZE), np.uint8), expected)


@needs_page_table
def test_value_over_the_end_of_what_is_mapped_is_whole(segment: Segment, copier: Copier) -> None:
    if not copier.map(0, 20 << 20):
        pytest.skip("this kernel cannot map ahead")
    assert copier.mapped_until(0, SIZE) == (20 << 20, True)
    assert copier.mapped_until(20 << 20, SIZE) == (SIZE, False)
    assert not copier.prefers_file(0, 16 << 20)
    value = some_bytes(40 << 20)

    copier.copy([(64, value)])

    assert copier.mapped_until(30 << 20, SIZE) == (SIZE, False), "written by system calls, which map nothing"
    assert segment.write_view(64, 40 << 20) == value


@needs_page_table
def test_what_is_written_a_second_time_is_mapped_and_what_was_given_back_is_not(
    segment: Segment, copier: Copier
) -> None:
    value = some_bytes(32 << 20)
    copier.copy([(0, value)])
    assert not copier.is_mapped(LOOK_BYTES)
    copier.copy([(0, value)])
    assert copier.mapped_until(0, 32 << 20) == (32 << 20, True)

    segment.punch(0, 32 << 20)

    assert not copier.is_mapped(LOOK_BYTES)
    copier.copy([(0, value)])
    assert segment.write_view(0, 32 << 20) == value


@needs_page_table
def test_what_is_mapped_for_another_writer_keeps_its_bytes(segment: Segment, copier: Copier) -> None:
    if not copier.map(16 << 20, 24 << 20):
        pytest.skip("this kernel cannot map ahead")
    value = some_bytes(8 << 20)
    copier.copy([(4 << 20, value)])

    copier.map_in_threads(0, 40 << 20)
    copier.map_in_threads(0, 40 << 20)

    assert copier.mapped_until(0, SIZE) == (40 << 20, True)
    assert segment.write_view(4 << 20, 8 << 20) == value
    assert bytes(segment.write_view(30 << 20, 8)) == bytes(8)


def test_without_the_page_table_all_counts_as_mapped(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "LINUX", False)
    copier = Copier(segment)
    value = some_bytes(20 << 20)

    assert copier.mapped_until(0, SIZE) == (SIZE, True)
    assert not copier.map(0, SIZE)
    copier.copy([(128, value)])

    assert segment.write_view(128, 20 << 20) == value


@pytest.mark.parametrize("stream", [0, 3 * THREAD_BYTES])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [[1], [THREAD_BYTES], [5 * THREAD_BYTES + 1, 3], [100, 2 * THREAD_BYTES, 7000, 1]])
def test_shares_are_the_same_bytes_in_the_same_order(sizes: list[int], threads: int, stream: int) -> None:
    sources = [np.frombuffer(some_bytes(size), np.uint8) for size in sizes]
    starts = [index * SIZE for index in range(len(sizes))]

    dealt = shares(list(zip(starts, sources, strict=True)), threads, stream)

    assert 1 <= len(dealt) <= threads
    flat = [run for share in dealt for run in share]
    for start, source in zip(starts, sources, strict=True):
        runs = [(at, part) for at, part in flat if start <= at < start + SIZE]
        assert np.array_equal(np.concatenate([part for _, part in runs]), source)
        assert [at for at, _ in runs] == [start + sum(len(p) for _, p in runs[:i]) for i in range(len(runs))]


def test_a_copy_is_not_cut_below_what_goes_past_the_caches() -> None:
    source = np.zeros(4 * THREAD_BYTES, np.uint8)

    assert [len(part) for [(_, part)] in shares([(0, source)], 4, 3 * THREAD_BYTES)] == [3 * THREAD_BYTES, THREAD_BYTES]
    assert [len(part) for [(_, part)] in shares([(0, source)], 4, 5 * THREAD_BYTES)] == [THREAD_BYTES] * 4


def test_failure_in_a_thread_is_raised_when_all_have_ended() -> None:
    begun, ended = threading.Event(), threading.Event()

    def fails() -> None:
        begun.wait(10)
        raise OSError("no space")

    def goes_on() -> None:
        begun.set()
        ended.wait(0.05)
        ended.set()

    with pytest.raises(OSError, match="no space"):
        in_threads([fails, goes_on, lambda: None])
    assert ended.is_set()


def test_without_more_threads_this_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []

    in_threads([lambda: done.append(1), lambda: done.append(2), lambda: done.append(3)])

    assert done == [1, 2, 3]


def test_closed_copier_leaves_no_descriptor(segment: Segment) -> None:
    before = set(os.listdir("/proc/self/fd")) if LINUX else set()
    copier = Copier(segment)
    copier.close()
    copier.close()

    assert not LINUX or set(os.listdir("/proc/self/fd")) == before
    assert copier.is_mapped(0)
