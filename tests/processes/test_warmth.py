"""Memory that is had ahead of need: taken, mapped, and given back where nothing lies in it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparkray_core.run import warmth
from sparkray_core.run.warmth import MapAhead, Warmth
from sparkray_core.store.allocator import Allocator
from sparkray_core.store.copying import Copier
from sparkray_core.store.segment import Segment
from sparkray_core.system import LINUX

STORE = 640 << 20
WARM = 40 << 20  # a sixteenth

pytestmark = pytest.mark.skipif(not LINUX, reason="only a memfd is made warm")


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    with Segment.create(STORE, tmp_path) as segment:
        yield segment


def taken(segment: Segment) -> int:
    return os.fstat(segment.fileno()).st_blocks * 512


def wait_ended(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(30)
            assert not thread.is_alive()


def test_no_more_than_a_sixteenth_is_taken_and_what_is_free_of_it_given_back(segment: Segment) -> None:
    warm = Warmth(segment, 1 << 30)
    wait_ended("sparkray-warmth")
    assert warm.size == taken(segment) == WARM
    allocator = Allocator(STORE)
    first, _, third = (allocator.allocate(4 << 20) for _ in range(3))
    allocator.free(first or 0)
    assert third == 8 << 20
    segment.write_view(4 << 20, 8 << 20)[:] = b"x" * (8 << 20)

    turns = 1
    while warm.give_back(allocator):
        turns += 1

    assert turns == 3, "no turn takes longer than a few milliseconds"
    assert taken(segment) == 8 << 20
    assert bytes(segment.write_view(4 << 20, 8 << 20)) == b"x" * (8 << 20)
    warm.close()


def test_driver_maps_what_the_raylet_has_taken(segment: Segment) -> None:
    copier = Copier(segment)
    if not copier.map(0, 4096):
        pytest.skip("this kernel cannot map ahead")
    mapping = MapAhead(segment, WARM, lambda: copier)
    mapping.start()
    warm = Warmth(segment, WARM)
    wait_ended("sparkray-warmth")

    assert copier.mapped_until(0, STORE) == (WARM, True)
    assert taken(segment) == WARM
    mapping.close()
    warm.close()
    copier.close()


@pytest.mark.parametrize("end", ["patience", "close"])
def test_driver_takes_nothing_from_the_system_itself(
    end: str, segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warmth, "MAP_WAIT_S", 0.05 if end == "patience" else 60.0)
    copier = Copier(segment)
    mapping = MapAhead(segment, WARM, lambda: copier)

    mapping.start()
    if end == "close":
        mapping.close()
    wait_ended("sparkray-warmth")

    assert taken(segment) == 0
    mapping.close()
    copier.close()


def test_driver_that_comes_late_maps_nothing(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmth, "MAP_WITHIN_S", -1.0)

    def fail() -> Copier:
        raise AssertionError("mapped all the same")

    MapAhead(segment, WARM, fail).start()

    made: Callable[[], list[str]] = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
    assert "sparkray-warmth" not in made()
