"""Pins of a process: one for all views of an object, kept for a while where a reference is."""

from __future__ import annotations

from sparkray_core.ids import ObjectId, object_id, task_id
from sparkray_core.model.entries import Entry
from sparkray_core.run.pins import Pins
from sparkray_core.testing.builders import node_id, process_id

ME = process_id(node_id("a"), "driver")
MIB = 1 << 20


def an_entry(count: int) -> tuple[Entry, ObjectId]:
    entry = Entry(ME, count)
    assert entry.id == object_id(task_id(ME, count))
    return entry, entry.id


def test_an_object_is_pinned_once_for_all_its_views() -> None:
    pins = Pins(0)
    _, some = an_entry(1)
    assert pins.again(some) is None
    pin, doubled = pins.add(some, 64, 100, 0, rests=True)
    assert not doubled
    assert pins.again(some) is pin
    assert pins.add(some, 64, 100, 0, rests=True) == (pin, True)
    assert pins.released(some) == []
    assert pins.released(some) == []
    assert pins.released(some) == [some]
    assert not pins.held


def test_a_pin_rests_until_the_reference_dies() -> None:
    pins = Pins(256 * MIB)
    entry, some = an_entry(1)
    pin, _ = pins.add(some, 0, MIB, 0, rests=True)
    assert pins.released(some) == []
    assert pins.again(some) is pin
    assert pins.dropped([entry]) == []
    assert pins.released(some) == [some]

    pins.add(some, 0, MIB, 0, rests=True)
    pins.released(some)
    assert pins.dropped([entry]) == [some]
    assert not pins.held


def test_the_longest_unused_give_way() -> None:
    pins = Pins(32 * MIB)  # two rest
    ids = [an_entry(count)[1] for count in range(1, 4)]
    for some in ids:
        pins.add(some, 0, MIB, 0, rests=True)
    assert pins.released(ids[0]) == []
    assert pins.released(ids[1]) == []
    assert pins.released(ids[2]) == [ids[0]]
    assert list(pins.held) == ids[1:]


def test_what_is_too_large_or_read_from_a_file_does_not_rest() -> None:
    pins = Pins(32 * MIB)
    for size, file in ((3 * MIB, 0), (MIB, 7)):
        _, some = an_entry(size)
        pins.add(some, 0, size, file, rests=True)
        assert pins.released(some) == [some]
