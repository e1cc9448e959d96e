"""What workers put and their raylet owns: handed over, heard of too early, and freed."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import HEAD, ObjectId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    STORED,
    AddBorrowers,
    AdoptObject,
    AllocateObject,
    AskObjects,
    DropBorrowers,
    Message,
    ObjectReady,
    ProcessGone,
    RegisterProcess,
    SealObjects,
)
from sparkray_core.model.effects import Send
from sparkray_core.model.events import ClockTicked, Received, WorkerExited
from sparkray_core.model.invariants import check
from sparkray_core.model.legacy import HANDOVER_S
from sparkray_core.model.node_kept import kept_count, maker_of
from sparkray_core.testing.builders import a_node, an_object, node_id, process_id, register_workers

A = node_id("a")
ME = raylet_of(A)
DRIVER = process_id(A, "driver")
FAR = process_id(node_id("b"), "far")


class Bench:
    def __init__(self) -> None:
        self.node = a_node("a", CPU=1)
        (self.worker,) = register_workers(self.node, self.node.start(0.0), 0.0)
        self.say(DRIVER, RegisterProcess("driver", 1))

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        return self._sent(self.node.handle(Received(sender, message), 0.0))

    def kill(self) -> list[Any]:
        return self._sent(self.node.handle(WorkerExited(self.worker, "killed"), 0.0))

    def _sent(self, effects: list[Any]) -> list[Any]:
        check(self.node)
        return [
            (effect.to, effect.message)
            for effect in effects
            if isinstance(effect, Send) and isinstance(effect.message, (ObjectReady, DropBorrowers, AddBorrowers))
        ]

    def an_id(self, count: int = 1) -> ObjectId:
        number = kept_count(self.worker, count)
        assert number is not None
        return object_id(task_id(ME, number))

    def write(self, some: ObjectId, size: int = 1000) -> tuple[Any, ...]:
        self.say(self.worker, AllocateObject(some, size))
        self.say(self.worker, SealObjects([some]))
        return (STORED, size, (A,))

    @property
    def used(self) -> int:
        return self.node.store.allocator.used


def test_the_maker_can_be_read_off_the_id() -> None:
    bench = Bench()
    assert maker_of(bench.an_id(7)) == bench.worker
    assert kept_count(process_id(A, "a guest."), 1) is None


def test_a_borrower_gets_the_value_after_its_maker_died_and_it_goes_with_the_borrower() -> None:
    bench = Bench()
    some = bench.an_id()
    value = bench.write(some)
    bench.say(bench.worker, AdoptObject(some, value))
    bench.say(bench.worker, AddBorrowers([(some, FAR)]))
    bench.kill()

    assert bench.say(FAR, AskObjects([some])) == [(FAR, ObjectReady(some, value))]
    bench.say(FAR, DropBorrowers([(some, FAR)]))
    assert bench.used == 0
    assert not bench.node.kept.refs.exported
    ((_, answer),) = bench.say(FAR, AskObjects([some]))
    assert answer.value[1] == "ObjectLostError"


def test_word_of_a_third_that_comes_before_the_object_waits_for_it() -> None:
    bench = Bench()
    some = bench.an_id()
    assert bench.say(DRIVER, AskObjects([some])) == []
    bench.say(FAR, AddBorrowers([(some, FAR)]))

    assert bench.say(bench.worker, AdoptObject(some, b"value")) == [(DRIVER, ObjectReady(some, b"value"))]
    bench.say(bench.worker, DropBorrowers([(some, bench.worker)]))
    assert some in bench.node.kept.refs.exported
    bench.say(FAR, DropBorrowers([(some, FAR)]))
    assert not bench.node.kept.refs.exported


def test_who_waits_for_what_was_never_handed_over_hears_of_the_maker_s_end() -> None:
    bench = Bench()
    some = bench.an_id()
    bench.write(some)
    bench.say(DRIVER, AskObjects([some]))

    ((to, answer),) = bench.kill()
    assert to == DRIVER
    assert answer.value[:2] == (FAILED, "OwnerDiedError")
    assert bench.used == 0
    ((_, answer),) = bench.say(DRIVER, AskObjects([bench.an_id(2)]))
    assert answer.value[0] == FAILED


@pytest.mark.parametrize("killed", [True, False])
def test_what_lies_inside_is_held_for_as_long_and_then_dropped(killed: bool) -> None:
    bench = Bench()
    outer, inner, theirs = bench.an_id(1), bench.an_id(2), an_object(FAR, 5)
    bench.say(bench.worker, AdoptObject(inner, b"inner"))
    bench.say(bench.worker, AdoptObject(outer, (HOLDS, b"outer", (inner, theirs))))
    bench.say(bench.worker, AddBorrowers([(outer, FAR)]))
    if killed:
        bench.kill()
    else:
        bench.say(bench.worker, DropBorrowers([(inner, bench.worker), (outer, bench.worker)]))

    (told,) = bench.say(FAR, AskObjects([outer]))
    assert told == (FAR, ObjectReady(outer, (HOLDS, b"outer", (inner, theirs))))
    bench.say(FAR, DropBorrowers([(inner, FAR)]))
    assert set(bench.node.kept.refs.exported) == {outer, inner, theirs}
    assert bench.say(FAR, DropBorrowers([(outer, FAR)])) == [(FAR, DropBorrowers([(theirs, ME)]))]
    assert not bench.node.kept.refs.exported


@pytest.mark.parametrize("takes", [True, False])
def test_what_a_dead_owner_had_is_held_until_its_heir_has_said_what_of_it_it_has(takes: bool) -> None:
    """It may be inside of what is inherited. That the GCS was counted in for that may be told later than the death."""
    bench = Bench()
    some = bench.an_id()
    bench.say(bench.worker, AdoptObject(some, bench.write(some)))
    bench.say(bench.worker, AddBorrowers([(some, FAR)]))
    bench.say(bench.worker, DropBorrowers([(some, bench.worker)]))

    bench.say(HEAD, ProcessGone(FAR, "killed", DRIVER))
    assert bench.used

    if takes:
        bench.say(DRIVER, AddBorrowers([(some, DRIVER)]))
    bench.node.handle(ClockTicked(), HANDOVER_S)
    assert bool(bench.used) == takes
    bench.say(DRIVER, DropBorrowers([(some, DRIVER)]))
    assert not bench.used


def test_so_is_what_it_was_counted_in_for_by_a_third_that_had_not_heard_of_its_death() -> None:
    bench = Bench()
    some = bench.an_id()
    bench.say(bench.worker, AdoptObject(some, bench.write(some)))
    bench.say(HEAD, ProcessGone(FAR, "killed", DRIVER))

    bench.say(bench.worker, AddBorrowers([(some, FAR)]))
    bench.say(bench.worker, DropBorrowers([(some, bench.worker)]))
    assert bench.used

    bench.node.handle(ClockTicked(), HANDOVER_S)
    assert not bench.used
