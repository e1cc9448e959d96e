"""What the GCS keeps of objects whose owners may die before those who borrow them."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import HEAD, FunctionId, ObjectId, ProcessId, object_id, task_id
from sparkray_core.messages import (
    HOLDS,
    STORED,
    AddBorrowers,
    DropBorrowers,
    EstateClosed,
    ForgetRecords,
    RecordedTask,
    RecordObjects,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.records import NO_ROOM, OBJECT_BYTES, Records, places_in, stored_in
from sparkray_core.testing.builders import node_id, process_id

OWNER, HEIR, OTHER = process_id(node_id("a"), "owner"), process_id(node_id("b"), "heir"), process_id(node_id("c"), "x")
FUNCTION = (FunctionId(b"f" * 16), "f", b"pickle")
STORED_THERE: Value = (STORED, 1000, (node_id("c"),))


def some_object(count: int, owner: ProcessId = OWNER, index: int = 0) -> ObjectId:
    return object_id(task_id(owner, count), index)


def task(count: int, *arguments: ObjectId, payload: bytes = b"arguments") -> RecordedTask:
    refs: list[tuple[int | str, ObjectId]] = list(enumerate(arguments))
    return (count, FUNCTION[0], payload, refs, [], 1, 3, {"CPU": 1000}, "", 0, 0, ())


class Bench:
    def __init__(self, most_bytes: int = 1 << 20, most_objects: int = 100) -> None:
        self.out: list[Effect] = []
        self.records = Records(most_bytes, most_objects, 30.0, self.out)

    def said(self) -> list[tuple[ProcessId, Any]]:
        said = [(effect.to, effect.message) for effect in self.out if isinstance(effect, Send)]
        self.out.clear()
        return said

    def record(self, *objects: tuple[ObjectId, Value | None, str], tasks: list[RecordedTask] | None = None) -> None:
        functions: list[tuple[FunctionId, str, bytes]] = [FUNCTION] if tasks else []
        self.records.record(OWNER, RecordObjects(ProcessId(b""), functions, tasks or [], list(objects)))

    def dies(self, owner: ProcessId, heir: ProcessId | None, now: float) -> EstateClosed:
        left = self.records.close(owner, "killed")
        self.records.passes(owner, heir, now)
        return left

    def forget(self, *objects: ObjectId) -> None:
        self.records.forget(OWNER, ForgetRecords(list(objects)))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_heir_gets_all_that_was_recorded_and_nodes_hear_what_may_lie_there(bench: Bench) -> None:
    pending, small, stored = (some_object(count) for count in (1, 2, 3))
    described = [task(1), task(3)]
    objects = [(pending, None, ""), (small, b"2", ""), (stored, STORED_THERE, "")]
    bench.record(*objects, tasks=described)

    left = bench.dies(OWNER, HEIR, 10.0)

    assert left == EstateClosed(OWNER, "killed", ProcessId(b""), [FUNCTION], described, objects)
    assert stored_in(left.objects) == [stored]
    assert places_in(left.objects) == [node_id("c")]
    assert bench.said() == []
    assert (bench.records.count, bench.records.bytes) == (0, 0)


def test_without_an_heir_nothing_is_kept_and_what_was_inside_is_let_go(bench: Bench) -> None:
    inner = some_object(7, OTHER)
    bench.record((some_object(1), (HOLDS, b"1", (inner,)), ""))

    left = bench.records.close(OWNER, "killed")
    assert len(left.objects) == 1
    assert bench.said() == []
    bench.records.passes(OWNER, None, 10.0)

    assert bench.said() == [(OTHER, DropBorrowers([(inner, HEAD)]))]
    assert (bench.records.count, bench.records.bytes) == (0, 0)


def test_what_is_inside_is_held_until_the_heir_has_said_that_it_holds_it(bench: Bench) -> None:
    argument = some_object(7, OTHER)
    bench.record((some_object(1), None, ""), tasks=[task(1, argument)])
    bench.dies(OWNER, HEIR, 10.0)
    bench.said()

    bench.records.settle(39.0)
    assert bench.said() == []
    assert bench.records.next_wake() == 40.0
    bench.records.settle(40.0)
    assert bench.said() == [(OTHER, DropBorrowers([(argument, HEAD)]))]


def test_an_argument_that_the_heir_owns_now_is_held_there_by_the_gcs_itself(bench: Bench) -> None:
    argument = some_object(1)
    bench.record((argument, STORED_THERE, ""), (some_object(2), None, ""), tasks=[task(1), task(2, argument)])

    bench.dies(OWNER, HEIR, 10.0)
    bench.records.settle(40.0)

    assert bench.said() == [(HEIR, AddBorrowers([(argument, HEAD)])), (HEIR, DropBorrowers([(argument, HEAD)]))]


def test_how_a_small_value_was_made_is_forgotten_with_its_coming(bench: Bench) -> None:
    argument = some_object(7, OTHER)
    bench.record((some_object(1), None, ""), tasks=[task(1, argument)])
    assert bench.said() == []

    bench.record((some_object(1), b"1", ""))

    assert bench.said() == [(OTHER, DropBorrowers([(argument, HEAD)]))]
    bench.forget(some_object(1))
    assert (bench.records.count, bench.records.bytes, bench.records.estates) == (0, 0, {})


def test_a_value_that_comes_again_lets_go_of_what_the_former_one_had_inside(bench: Bench) -> None:
    inner, value = some_object(7, OTHER), (HOLDS, b"1", (some_object(7, OTHER),))
    bench.record((some_object(1), value, ""))
    bench.record((some_object(1), value, ""))

    assert bench.said() == [(OTHER, DropBorrowers([(inner, HEAD)]))]


def test_beyond_the_limit_of_bytes_only_that_there_was_something_is_kept() -> None:
    bench = Bench(most_bytes=OBJECT_BYTES + 5000)
    bench.record((some_object(1), None, ""), tasks=[task(1, payload=bytes(10_000))])
    bench.record((some_object(2), bytes(10_000), ""))

    told = bench.dies(OWNER, HEIR, 0.0)

    assert told.tasks == []
    assert told.objects == [(some_object(1), None, NO_ROOM), (some_object(2), None, NO_ROOM)]
    assert (bench.records.count, bench.records.bytes) == (0, 0)


def test_beyond_the_limit_of_objects_nothing_is_kept_and_what_is_inside_is_let_go() -> None:
    bench = Bench(most_objects=1)
    inner = some_object(7, OTHER)

    bench.record((some_object(1), b"1", ""), (some_object(2), (HOLDS, b"2", (inner,)), ""))

    assert bench.said() == [(OTHER, DropBorrowers([(inner, HEAD)]))]
    assert bench.records.count == 1


def test_what_is_inside_of_closed_records_is_held_whoever_becomes_its_owner(bench: Bench) -> None:
    inner = some_object(7, OTHER)
    bench.record((some_object(1), (HOLDS, b"1", (inner,)), ""))
    bench.records.close(OWNER, "killed")

    bench.dies(OTHER, HEIR, 0.0)

    assert bench.said() == [(HEIR, AddBorrowers([(inner, HEAD)]))]
    bench.records.passes(OWNER, None, 1.0)
    assert bench.said() == [(HEIR, DropBorrowers([(inner, HEAD)]))]


def test_the_end_of_an_heir_ends_its_inheritance(bench: Bench) -> None:
    bench.record((some_object(1), b"1", ""))
    bench.dies(OWNER, HEIR, 0.0)
    assert [told.process for told in bench.records.obituaries()] == [OWNER]

    bench.dies(HEIR, None, 1.0)

    assert bench.records.obituaries() == []
