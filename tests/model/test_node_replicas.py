"""Copies of what was put: who is asked to keep one, and who owns it when the owner's node is dead."""

from __future__ import annotations

from dataclasses import replace

from sparkray_core.ids import RECORDS, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    STORED,
    AddBorrowers,
    AskObjects,
    DropBorrowers,
    ForgetRecords,
    FreeObjects,
    InheritObjects,
    ObjectReady,
    ObjectTaken,
    RecordObjects,
    TakeObject,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.node_kept import Kept
from sparkray_core.model.node_replicas import Replicas
from sparkray_core.testing.builders import node_id, node_info, process_id, raylet

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
