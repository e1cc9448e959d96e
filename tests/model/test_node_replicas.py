"""Copies of what was put: who is asked to keep one, and who owns it when the owner's node is dead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparkray_core.ids import HEAD, RECORDS, NodeId, ObjectId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    STORED,
    AddBorrowers,
    AskObjects,
    CopyMade,
    DropBorrowers,
    ForgetRecords,
    FreeObjects,
    InheritObjects,
    Message,
    NodeGone,
    NodeTable,
    NotHere,
    ObjectChunk,
    ObjectGone,
    ObjectReady,
    ObjectTaken,
    ProcessGone,
    PullObject,
    RecordObjects,
    TakeObject,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.invariants import check
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.node_kept import Kept
from sparkray_core.model.node_replicas import Replicas
from sparkray_core.testing.builders import a_node, node_id, node_info, process_id, raylet

A, B, C, D = (node_id(letter) for letter in "abcd")
READER = process_id(D, "reader")
SOME = object_id(task_id(raylet_of(A), 1))


def replicas(*others: NodeInfo) -> tuple[Replicas, list[Effect]]:
    out: list[Effect] = []
    made = Replicas(node_info("a"), out)
    made.nodes = lambda: others
    made.is_here = lambda some: True
    return made, out


def test_nodes_of_other_hosts_are_asked_first() -> None:
    copies, out = replicas(replace(node_info("b"), host="a"), node_info("c"), node_info("d"))
    copies.want(SOME, 3)
    copies.settle()

    assert out == [Send(raylet("c"), TakeObject(SOME)), Send(raylet("d"), TakeObject(SOME))]
    copies.settle()
    assert len(out) == 2


def test_too_few_nodes_are_asked_and_more_when_they_join() -> None:
    copies, out = replicas(node_info("b"))
    copies.want(SOME, 3)
    copies.settle()
    assert out == [Send(raylet("b"), TakeObject(SOME))]

    copies.nodes = lambda: (node_info("b"), node_info("c"))
    copies.news = True
    copies.settle()

    assert out[1:] == [Send(raylet("c"), TakeObject(SOME))]


def test_a_copy_that_died_or_could_not_be_made_is_made_elsewhere() -> None:
    copies, out = replicas(node_info("b"), node_info("c"))
    copies.want(SOME, 2)
    copies.settle()
    out.clear()
    copies.nodes = lambda: (node_info("c"),)
    copies.node_gone(B)
    copies.settle()
    assert out == [Send(raylet("c"), TakeObject(SOME))]

    copies.taken(C, ObjectTaken(SOME, False))
    assert not copies.at[SOME]


def test_a_raylet_that_inherits_answers_those_who_asked_before_and_frees_all_copies() -> None:
    out: list[Effect] = []
    kept = Kept(raylet_of(B), 10, out)
    value: Value = (STORED, 100, (A, B, C))
    left: Value = (STORED, 100, (B, C))
    kept.receive(READER, AddBorrowers([(SOME, READER)]))
    kept.receive(READER, AskObjects([SOME]))
    assert out == []

    assert kept.inherit(InheritObjects(raylet_of(A), "power cut", [], [], [(SOME, value, "")])) == {SOME: left}

    assert out == [Send(READER, ObjectReady(SOME, left))]
    kept.refs.flush(out)
    assert out[1:] == [Send(RECORDS, RecordObjects(ProcessId(b""), [], [], [(SOME, left, "")]))]
    out.clear()
    kept.refs.legacy.settle(0.0)
    kept.receive(READER, DropBorrowers([(SOME, READER)]))
    kept.refs.flush(out)
    assert out == []  # somebody may have it who has not said so
    kept.refs.legacy.settle(30.0)
    kept.refs.flush(out)
    assert out == [
        Send(RECORDS, ForgetRecords([SOME])),
        Send(raylet("b"), FreeObjects([SOME])),
        Send(raylet("c"), FreeObjects([SOME])),
    ]


class HeirBench:
    """Node b, of which a and c are known."""

    def __init__(self) -> None:
        self.node = a_node("b", CPU=1)
        self.node.start(0.0)
        self.hears(HEAD, NodeTable([node_info(letter, CPU=1).as_dict() for letter in "abc"]))
        self.hears(READER, AddBorrowers([(SOME, READER)]))

    def hears(self, sender: ProcessId, message: Message) -> list[Effect]:
        """What others are told of the object's bytes."""
        effects = self.node.handle(Received(sender, message), 0.0)
        check(self.node)
        kinds = (PullObject, TakeObject, ObjectTaken, ObjectGone)
        return [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.message, kinds)]

    def inherits(self, *there: NodeId) -> list[Effect]:
        value: Value = (STORED, 3, there)
        told = self.hears(HEAD, InheritObjects(raylet_of(A), "power cut", [], [], [(SOME, value, "")]))
        told += self.hears(HEAD, ProcessGone(raylet_of(A), "power cut", self.node.me, [SOME]))
        return told + self.hears(HEAD, NodeGone(A, "power cut"))

    def is_kept(self) -> bool:
        stored = self.node.store.stored.get(SOME)
        return stored is not None and not stored.copy and SOME not in self.node.store.evictable


def test_an_heir_fetches_what_it_has_not_and_keeps_it_as_others_do() -> None:
    bench = HeirBench()

    (pull,) = bench.inherits(A, C)
    assert isinstance(pull, Send)
    assert pull.to == raylet("c")
    assert isinstance(pull.message, PullObject)

    asked = bench.hears(raylet("c"), ObjectChunk(SOME, 0, 3, b"abc"))
    assert asked == [Send(raylet("c"), TakeObject(SOME))]  # that may have pulled it to read it
    assert bench.is_kept()
    assert bench.hears(raylet("c"), ObjectTaken(SOME, True)) == []


def test_an_heir_keeps_what_it_had_only_pulled_to_be_read() -> None:
    bench = HeirBench()
    store = bench.node.store
    assert store.take(SOME, bench.node.me, 3, 0.0) is not None
    store.seal(SOME, bench.node.me, 0.0)
    assert SOME in store.evictable

    bench.inherits(A, B)

    assert bench.is_kept()


def test_an_heir_leaves_where_it_is_what_stays_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be on disk."""
    bench = HeirBench()
    store = bench.node.store
    assert store.take(SOME, bench.node.me, 3, 0.0) is not None
    store.seal(SOME, bench.node.me, 0.0)
    bench.hears(raylet("a"), TakeObject(SOME))
    assert bench.is_kept()
    read: list[ObjectId] = []
    monkeypatch.setattr(bench.node.pulls, "read", lambda process, some, nodes, now: read.append(some))

    assert bench.inherits(A, B)[-1:] == [Send(raylet("c"), TakeObject(SOME))]

    assert not read


def test_an_heir_that_has_no_room_tries_again_when_nodes_change() -> None:
    bench = HeirBench()
    assert bench.inherits(A, C)
    bench.hears(raylet("c"), NotHere(SOME))
    assert not bench.node.drain.taking
    assert bench.hears(READER, AskObjects([SOME])) == []

    (pull,) = bench.hears(HEAD, NodeTable([node_info("d", CPU=1).as_dict()]))
    assert isinstance(pull, Send)
    assert isinstance(pull.message, PullObject)


def test_an_heir_does_not_fetch_again_what_was_freed_meanwhile() -> None:
    bench = HeirBench()
    bench.inherits(A, C)
    bench.hears(raylet("c"), NotHere(SOME))
    bench.hears(READER, DropBorrowers([(SOME, READER)]))
    bench.node.handle(ClockTicked(), 31.0)  # nobody else had it

    assert bench.hears(HEAD, NodeTable([node_info("d", CPU=1).as_dict()])) == []
    assert not bench.node.replicas.copies


def test_the_heir_of_an_heir_is_told_of_copies_that_its_predecessor_had_not_heard_of() -> None:
    node = a_node("d")
    first = ProcessGone(raylet("a"), "power cut", raylet("b"), [SOME])
    node.handle(Received(HEAD, first), 0.0)
    assert node.store.take(SOME, node.me, 100, 0.0) is not None
    node.store.seal(SOME, node.me, 0.0)

    effects = node.handle(Received(HEAD, ProcessGone(raylet("b"), "power cut", raylet("c"), [SOME])), 0.0)

    assert [effect for effect in effects if isinstance(effect, Send) and effect.to != HEAD] == [
        Send(raylet("c"), CopyMade(SOME, D, D))
    ]
