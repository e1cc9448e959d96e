"""Memory that processes share: visible to all, pinned by views, gone when nobody holds it."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import pickle
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparkray_core.store.segment import Segment
from sparkray_core.system import LINUX
from sparkray_core.wire import values

SIZE = 1 << 20


@pytest.fixture(params=[True, False], ids=["memfd", "file"])
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Segment]:
    with Segment.create(SIZE, tmp_path, anonymous=request.param) as segment:
        yield segment
    assert list(tmp_path.iterdir()) == []


class Release:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def test_only_the_first_write_to_a_stretch_is_one(tmp_path: Path) -> None:
    with Segment.create(8 << 20, tmp_path) as segment:
        assert segment.is_memory is LINUX
        assert segment.is_first_write(100, 3 << 20)
        assert not segment.is_first_write(100, 3 << 20)
        assert not segment.is_first_write(1 << 20, 1 << 20)
        assert segment.is_first_write(3 << 20, 2 << 20)
        assert segment.is_first_write((8 << 20) - 1, 1)


def test_new_segment_is_zeros_and_takes_no_memory(segment: Segment) -> None:
    assert bytes(segment.write_view(0, SIZE)) == bytes(SIZE)
    assert os.fstat(segment.fileno()).st_size == SIZE


def test_unwritten_segment_takes_no_space(segment: Segment) -> None:
    assert os.fstat(segment.fileno()).st_blocks == 0


def test_descriptor_is_not_inherited_by_programs(segment: Segment) -> None:
    assert not os.get_inheritable(segment.fileno())


def test_attached_segment_sees_what_is_written(segment: Segment) -> None:
    with Segment.attach(os.dup(segment.fileno()), SIZE) as other:
        segment.write_view(100, 5)[:] = b"hello"
        assert bytes(other.pinned_view(100, 5, Release())) == b"hello"
        other.write_view(200, 3)[:] = b"you"
    assert bytes(segment.write_view(200, 3)) == b"you"


def test_child_process_sees_the_writes_of_its_parent_and_the_other_way_round(segment: Segment) -> None:
    segment.write_view(0, 6)[:] = b"before"
    to_child, from_parent = os.pipe()
    pid = _fork()
    if pid == 0:
        # Nothing but os._exit may end this process: pytest lives in it too.
        try:
            os.read(to_child, 1)
            seen = bytes(segment.pinned_view(0, 12, Release()))
            segment.write_view(4096, 5)[:] = b"child"
            os._exit(0 if seen == b"beforeafter\0" else 1)
        finally:
            os._exit(2)
    segment.write_view(6, 5)[:] = b"after"
    os.write(from_parent, b"x")
    os.close(to_child)
    os.close(from_parent)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert bytes(segment.write_view(4096, 5)) == b"child"


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and newer warn of threads (OpenBLAS, jemalloc) at a fork. The child touches nothing of theirs.
        warnings.filterwarnings("ignore", ".*is multi-threaded", DeprecationWarning)
        return os.fork()


def _exporter(view: memoryview) -> Any:
    return view.obj


MADE: dict[str, Callable[[memoryview], Any]] = {
    "itself": lambda view: view,
    "slice": lambda view: view[8:16],
    "slice of slice": lambda view: view[8:][8:].cast("d"),
    "frombuffer": lambda view: np.frombuffer(view, "u1")[4:],
    "ndarray": lambda view: np.ndarray((10,), "<f8", view),
    "slice of ndarray": lambda view: np.ndarray((10,), "<f8", view[8:])[2:].reshape(2, 4),
    "asarray": lambda view: np.asarray(view)[1:],
    "the exporter": lambda view: _exporter(view)[1:][2:],
    "plain view of the exporter": lambda view: _exporter(view).view(np.ndarray)[1:],
    "arrow": lambda view: pa.py_buffer(view).slice(10),
    "arrow array": lambda view: pa.Array.from_buffers(pa.int64(), 10, [None, pa.py_buffer(view)])[3:],
    "pickle buffer": pickle.PickleBuffer,
}


@pytest.mark.parametrize("name", MADE)
def test_release_is_called_once_when_the_last_of_what_was_made_from_the_view_has_died(
    name: str, segment: Segment
) -> None:
    release = Release()
    view = segment.pinned_view(4096, 8000, release)
    made = MADE[name](view)
    second = MADE[name](view)

    del view, made
    assert release.calls == 0
    del second
    assert release.calls == 1


def test_copies_do_not_pin(segment: Segment) -> None:
    release = Release()
    view = segment.pinned_view(0, 100, release)
    copies = [_exporter(view).copy(), np.array(view), bytes(view), pickle.loads(pickle.dumps(_exporter(view)))]

    del view

    assert release.calls == 1
    del copies
    assert release.calls == 1


@pytest.mark.parametrize(
    "value", [{"a": np.arange(1_000), "b": [1]}, pa.table({"a": range(1_000)})], ids=["numpy", "arrow"]
)
def test_value_read_in_place_pins_until_its_last_array_dies(value: Any, segment: Segment) -> None:
    release = Release()
    serialized = values.serialize(value)
    size = values.segment_size(serialized)
    values.write_to(segment.write_view(4096, size), serialized)

    back = values.deserialize(*values.read_from(segment.pinned_view(4096, size, release)))
    column = back["a"][10:20]
    del back

    assert column[0] == value["a"][10]
    assert release.calls == 0
    del column
    assert release.calls == 1


def test_value_without_buffers_pins_nothing_once_it_is_read(segment: Segment) -> None:
    release = Release()
    serialized = values.serialize({"a": ["text"]})
    size = values.segment_size(serialized)
    values.write_to(segment.write_view(0, size), serialized)

    back = values.deserialize(*values.read_from(segment.pinned_view(0, size, release)))

    assert back == {"a": ["text"]}
    assert release.calls == 1


def test_view_in_a_cycle_is_released_by_the_collector(segment: Segment) -> None:
    release = Release()
    cycle: list[Any] = [segment.pinned_view(0, 100, release)]
    cycle.append(cycle)

    del cycle
    gc.collect()

    assert release.calls == 1


def test_pinned_view_is_read_only(segment: Segment) -> None:
    view = segment.pinned_view(0, 100, Release())
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.asarray(view).flags.writeable = True
    with pytest.raises(ValueError, match="WRITEABLE"):
        _exporter(view).flags.writeable = True
    with pytest.raises(ValueError, match="WRITEABLE"):
        np.ndarray((10,), "u1", view).flags.writeable = True


def test_views_outlive_the_segment_object(tmp_path: Path) -> None:
    release = Release()
    segment = Segment.create(SIZE, tmp_path)
    segment.write_view(0, 5)[:] = b"hello"
    view = segment.pinned_view(0, 100, release)
    array = np.ndarray((5,), "u1", view)
    writable = segment.write_view(5, 1)

    segment.close()
    segment.close()
    del view, segment
    writable[0] = 33

    assert bytes(array) == b"hello"
    assert release.calls == 0
    del array
    assert release.calls == 1


def test_closed_segment_leaves_neither_descriptor_nor_mapping(tmp_path: Path) -> None:
    before = _descriptors()
    segment = Segment.create(SIZE, tmp_path)
    view = segment.pinned_view(0, 100, Release())
    map_gone = weakref.ref(segment._maps[1])

    segment.close()
    assert map_gone() is not None
    del view

    assert map_gone() is None
    assert _descriptors() == before


def _descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    return set(os.listdir(folder)) if folder.exists() else set()


def test_nothing_outside_the_segment_is_handed_out(segment: Segment) -> None:
    assert len(segment.pinned_view(SIZE, 0, Release())) == 0
    for offset, size in [(-1, 5), (0, SIZE + 1), (SIZE, 1), (5, -1)]:
        with pytest.raises(ValueError, match="not within the segment"):
            segment.write_view(offset, size)
        with pytest.raises(ValueError, match="not within the segment"):
            segment.pinned_view(offset, size, Release())
        with pytest.raises(ValueError, match="not within the segment"):
            segment.punch(offset, size)


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="no MADV_REMOVE on this system")
def test_punched_pages_go_back_to_the_system_and_read_as_zeros(segment: Segment) -> None:
    page = mmap.PAGESIZE
    segment.write_view(0, SIZE)[:] = b"\1" * SIZE
    full = os.fstat(segment.fileno()).st_blocks

    given_back = segment.punch(100, 10 * page)

    if given_back == 0:
        pytest.skip("this file system has no holes")
    assert given_back == 9 * page
    assert os.fstat(segment.fileno()).st_blocks * 512 == full * 512 - 9 * page
    assert bytes(segment.write_view(0, 11 * page)) == b"\1" * page + bytes(9 * page) + b"\1" * page
    assert segment.punch(100, page) == 0


def test_punch_gives_nothing_back_where_the_system_cannot(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_REMOVE", raising=False)
    segment.write_view(0, SIZE)[:] = b"\1" * SIZE

    assert segment.punch(0, SIZE) == 0
    assert bytes(segment.write_view(0, 1)) == b"\1"


def test_file_is_used_where_the_system_has_no_memfd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with Segment.create(SIZE, tmp_path) as segment:
        assert os.fstat(segment.fileno()).st_dev == os.stat(tmp_path).st_dev
        assert list(tmp_path.iterdir()) == []


def test_disk_that_is_too_small_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: disk)
    before = _descriptors()

    with pytest.raises(OSError, match="has 40960 bytes free") as caught:
        Segment.create(SIZE, tmp_path, anonymous=False)

    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    assert _descriptors() == before


def test_senseless_sizes_are_refused_and_leave_no_descriptor(tmp_path: Path) -> None:
    before = _descriptors()
    with pytest.raises(ValueError, match="positive size"):
        Segment.create(0, tmp_path)
    with Segment.create(SIZE, tmp_path) as segment, pytest.raises(ValueError, match="not the 1048577"):
        Segment.attach(os.dup(segment.fileno()), SIZE + 1)
    assert _descriptors() == before
