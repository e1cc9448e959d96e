"""Objects in files: what comes back is what was written, or is told to be lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparkray_core.ids import NodeId, ObjectId, ProcessId, raylet_of
from sparkray_core.messages import NotHere, ObjectChunk
from sparkray_core.model.effects import DropSpilled, RestoreObject, Send, SendSpilled, SpillObjects
from sparkray_core.model.events import Event, Restored, RestoreFailed, Spilled
from sparkray_core.run import folders
from sparkray_core.run.loop import Loop
from sparkray_core.run.spill_disk import SUM_BYTES, SpillDisk
from sparkray_core.store.segment import Segment

SIZE = SUM_BYTES + 1000
SMALL = 100
AT = SIZE + 63 & ~63  # where the second object begins in the file
FIRST, SECOND = ObjectId(b"1" * 28), ObjectId(b"2" * 28)
PEER: ProcessId = raylet_of(NodeId(b"12345678"))
Do = Callable[["SpillObjects | RestoreObject | SendSpilled"], "Event | Send"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Segment, Do, SpillDisk]]:
    """A segment with two objects, which are in file 1 as well; and what has a job done and returns what came of it."""
    loop = Loop()
    heard: list[Event | Send] = []

    def hear(done: Event | Send) -> None:
        heard.append(done)
        loop._stopped = True

    with Segment.create(4 * SIZE, tmp_path) as segment:
        disk = SpillDisk(segment, str(tmp_path), None, loop, hear)

        def do(job: SpillObjects | RestoreObject | SendSpilled) -> Event | Send:
            disk(job)
            loop._stopped = False
            loop.run(after=lambda: None)
            return heard.pop()

        segment.write_view(0, SIZE)[:] = bytes(index % 251 for index in range(SIZE))
        segment.write_view(SIZE, SMALL)[:] = b"x" * SMALL
        assert do(SpillObjects(1, AT + SMALL, ((0, 0, SIZE), (SIZE, AT, SMALL)))) == Spilled(1)
        yield segment, do, disk
        disk.close()
    loop.close()


def _spoil(folder: Path, byte: int) -> None:
    """As a disk does that fails without a word."""
    with open(folders.spill_path(str(folder), 1), "r+b") as file:
        file.seek(byte)
        old = file.read(1)
        file.seek(byte)
        file.write(bytes([old[0] ^ 1]))


def test_what_is_read_back_is_what_was_written(node: tuple[Segment, Do, SpillDisk], tmp_path: Path) -> None:
    segment, do, disk = node

    assert do(RestoreObject(FIRST, 1, 0, 2 * SIZE, SIZE)) == Restored(FIRST)
    assert do(RestoreObject(SECOND, 1, AT, 3 * SIZE, SMALL)) == Restored(SECOND)
    assert segment.write_view(2 * SIZE, SIZE) == segment.write_view(0, SIZE)
    assert segment.write_view(3 * SIZE, SMALL) == segment.write_view(SIZE, SMALL)
    last = do(SendSpilled(PEER, FIRST, 1, 0, SUM_BYTES, 1000, SIZE))
    assert last == Send(PEER, ObjectChunk(FIRST, SUM_BYTES, SIZE, bytes(segment.write_view(SUM_BYTES, 1000))))
    disk(DropSpilled(1))
    assert do(SendSpilled(PEER, FIRST, 1, 0, 0, SUM_BYTES, SIZE)) == Send(PEER, NotHere(FIRST))
    assert not os.path.exists(folders.spill_path(str(tmp_path), 1))


def test_bytes_that_changed_on_disk_are_lost_and_not_read(node: tuple[Segment, Do, SpillDisk], tmp_path: Path) -> None:
    _, do, _ = node
    _spoil(tmp_path, SUM_BYTES + 5)

    failed = do(RestoreObject(FIRST, 1, 0, 2 * SIZE, SIZE))

    assert isinstance(failed, RestoreFailed)
    assert f"has other bytes than were written, from byte {SUM_BYTES} on" in failed.why
    assert isinstance(do(SendSpilled(PEER, FIRST, 1, 0, 0, SUM_BYTES, SIZE)).message, ObjectChunk)  # type: ignore[union-attr]
    assert do(SendSpilled(PEER, FIRST, 1, 0, SUM_BYTES, 1000, SIZE)) == Send(PEER, NotHere(FIRST))
    assert do(RestoreObject(SECOND, 1, AT, 3 * SIZE, SMALL)) == Restored(SECOND)
