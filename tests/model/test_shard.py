"""A shard of the GCS and the head beside it: who is told what, in which order, when owners and their nodes die."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparkray_core.frozen import replaced
from sparkray_core.ids import HEAD, ProcessId, object_id, raylet_of, shard_node, task_id
from sparkray_core.messages import (
    STORED,
    CloseNode,
    DrainNode,
    EndSession,
    EstateClosed,
    ForgetRecords,
    InheritObjects,
    JoinShard,
    Message,
    NodeClosed,
    NodeGone,
    NodeTable,
    ProcessGone,
    RecordObjects,
    RegisterJob,
    RegisterProcess,
    ShardTable,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.events import ClockTicked, ConnectionLost, PeerLost, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node import Node
from sparkray_core.model.records import keeper_of
from sparkray_core.model.shard import Shard
from sparkray_core.store.allocator import Allocator
from sparkray_core.testing.builders import node_id, node_info, process_id, raylet

A, B = node_id("a"), node_id("b")
DRIVER, OWNER = process_id(A, "driver"), process_id(B, "owner")
SMALL, LARGE = object_id(task_id(OWNER, 1)), object_id(task_id(OWNER, 2))
THERE: Value = (STORED, 1000, (A,))
RECORDED = RecordObjects(DRIVER, [], [], [(SMALL, b"1", ""), (LARGE, THERE, "")])
LEFT = EstateClosed(OWNER, "killed", DRIVER, [], [], [(SMALL, b"1", ""), (LARGE, THERE, "")])
LIMITS = HeadLimits(shards=2, table_gap_s=0.0)
SHARDS = [raylet_of(shard_node(number)) for number in range(2)]


def sent(effects: list[Effect]) -> list[tuple[ProcessId, Message]]:
    return [(effect.to, effect.message) for effect in effects if isinstance(effect, Send)]


@pytest.fixture
def shard() -> Callable[[ProcessId, Message], list[tuple[ProcessId, Message]]]:
    made = Shard(0, "memory://", LIMITS)
    assert sent(made.start(0.0)) == [(HEAD, JoinShard("memory://"))]

    def hears(sender: ProcessId, message: Message) -> list[tuple[ProcessId, Message]]:
        said = sent(made.handle(Received(sender, message), 1.0))
        check(made)
        return said

    return hears


Hears = Callable[[ProcessId, Message], "list[tuple[ProcessId, Message]]"]


def test_what_an_owner_recorded_goes_to_the_head_with_the_word_of_its_end(shard: Hears) -> None:
    assert shard(OWNER, RECORDED) == []
    assert shard(raylet_of(B), ProcessGone(OWNER, "killed")) == [(HEAD, LEFT)]
    assert shard(HEAD, ProcessGone(OWNER, "killed", DRIVER)) == []


def test_one_that_had_recorded_nothing_is_told_of_all_the_same(shard: Hears) -> None:
    shard(OWNER, RECORDED)
    shard(OWNER, ForgetRecords([SMALL, LARGE]))
    nothing = EstateClosed(OWNER, "killed", ProcessId(b""), [], [], [])
    assert shard(raylet_of(B), ProcessGone(OWNER, "killed")) == [(HEAD, nothing)]


def test_what_is_read_after_the_death_goes_after_the_rest(shard: Hears) -> None:
    shard(raylet_of(B), ProcessGone(OWNER, "killed"))
    assert shard(OWNER, RECORDED) == [(HEAD, LEFT)]


def test_of_a_dead_node_all_owners_are_told_and_what_it_still_says_is_not_heard(shard: Hears) -> None:
    shard(OWNER, RECORDED)
    gone = replaced(LEFT, why="its node is gone: silent")
    assert shard(HEAD, CloseNode(B, "silent")) == [(HEAD, gone), (HEAD, NodeClosed(B))]
    assert shard(OWNER, RECORDED) == []
    assert shard(raylet_of(B), ProcessGone(OWNER, "killed")) == []


def test_only_its_own_raylet_and_the_head_can_say_that_an_owner_is_dead() -> None:
    made = Shard(0, "memory://", LIMITS)
    made.handle(Received(OWNER, RECORDED), 0.0)
    for sender in (DRIVER, raylet_of(A), process_id(A, "x")):
        assert sent(made.handle(Received(sender, ProcessGone(OWNER, "a lie")), 1.0)) == []
    assert OWNER in made.records.estates


def test_all_of_one_owner_are_kept_in_one_place_and_owners_are_spread() -> None:
    owners = [process_id(A, f"o{number}") for number in range(200)]
    assert {keeper_of(owner, 0) for owner in owners} == {HEAD}
    counts = [sum(keeper_of(owner, 4) == raylet_of(shard_node(number)) for owner in owners) for number in range(4)]
    assert sum(counts) == 200
    assert min(counts) > 25


# ---------------------------------------------------------------------------------- the head
class HeadBench:
    def __init__(self) -> None:
        self.now = 0.0
        self.head = Head("s", LIMITS)
        self.head.start(0.0)
        for info in (node_info("a", CPU=1), node_info("b", CPU=1)):
            self.hears(raylet_of(info.node), info.join())
        for number, process in enumerate(SHARDS):
            self.hears(process, JoinShard(f"memory://{number}"))
        self.hears(DRIVER, RegisterJob(1, {}))

    def hears(self, sender: ProcessId, message: Message) -> list[tuple[ProcessId, Message]]:
        said = sent(self.head.handle(Received(sender, message), self.now))
        check(self.head)
        return said

    def ticks(self, now: float) -> list[tuple[ProcessId, Message]]:
        self.now = now
        return sent(self.head.handle(ClockTicked(), now))


@pytest.fixture
def bench() -> HeadBench:
    return HeadBench()


def test_nodes_hear_who_has_the_records_before_they_have_joined() -> None:
    bench = HeadBench()
    info = node_info("c", CPU=1)
    said = [message for to, message in bench.hears(raylet_of(info.node), info.join()) if to == raylet_of(info.node)]
    table = ShardTable(2, [(shard_node(0), "memory://0"), (shard_node(1), "memory://1")])
    assert said[0] == table
    assert isinstance(said[1], NodeTable)


def test_a_death_is_told_when_the_shard_has_said_what_there_was(bench: HeadBench) -> None:
    assert bench.hears(raylet_of(B), ProcessGone(OWNER, "killed")) == []
    told = ProcessGone(OWNER, "killed", DRIVER)
    assert bench.hears(SHARDS[1], LEFT) == [
        (DRIVER, InheritObjects(OWNER, "killed", [], [], LEFT.objects)),
        (SHARDS[0], told),
        (SHARDS[1], told),
        (raylet_of(A), ProcessGone(OWNER, "killed", DRIVER, [LARGE])),
        (raylet_of(B), ProcessGone(OWNER, "killed", DRIVER, [LARGE])),
    ]


def test_what_comes_late_goes_to_the_same_heir_and_nobody_is_told_twice(bench: HeadBench) -> None:
    bench.hears(SHARDS[1], LEFT)  # sooner than its raylet's word
    told = ProcessGone(OWNER, "killed", DRIVER)
    assert bench.hears(raylet_of(B), ProcessGone(OWNER, "killed")) == []
    assert bench.hears(SHARDS[1], LEFT) == [
        (DRIVER, InheritObjects(OWNER, "killed", [], [], LEFT.objects)),
        (SHARDS[0], told),
        (SHARDS[1], told),
    ]


def test_a_dead_node_is_buried_when_all_shards_have_answered_and_its_owners_come_first(bench: HeadBench) -> None:
    said = sent(bench.head.handle(PeerLost(B, "silent"), 0.0))
    assert said == [(shard, CloseNode(B, "silent")) for shard in SHARDS]
    assert bench.hears(SHARDS[0], NodeClosed(B)) == []
    assert bench.hears(SHARDS[1], LEFT) == []
    assert bench.head.nodes.is_alive(B)

    told = [message for to, message in bench.hears(SHARDS[1], NodeClosed(B)) if to == raylet_of(A)]

    assert told[:2] == [ProcessGone(OWNER, "killed", DRIVER, [LARGE]), NodeGone(B, "silent")]
    assert not bench.head.nodes.is_alive(B)


@pytest.mark.parametrize("draining", ["", "ac"])
def test_what_a_raylet_owned_goes_to_a_node_that_stays_if_one_has_it(bench: HeadBench, draining: str) -> None:
    bench.hears(raylet("c"), node_info("c", CPU=1).join())
    for letter in draining or "a":
        bench.hears(DRIVER, DrainNode(0, node_id(letter), "sold", None))
    bench.head.handle(PeerLost(B, "silent"), 0.0)
    there: Value = (STORED, 10, (B, A, node_id("c")))
    kept = object_id(task_id(raylet_of(B), 1))
    bench.hears(SHARDS[0], EstateClosed(raylet_of(B), "silent", ProcessId(b""), [], [], [(kept, there, "")]))
    bench.hears(SHARDS[0], NodeClosed(B))

    told = bench.hears(SHARDS[1], NodeClosed(B))

    heirs = [to for to, message in told if isinstance(message, InheritObjects)]
    assert heirs == [raylet("a" if draining else "c")]  # none stays, or c does


def test_a_shard_that_does_not_answer_holds_up_a_burial_for_a_while_only(bench: HeadBench) -> None:
    bench.head.handle(PeerLost(B, "silent"), 0.0)
    bench.hears(SHARDS[0], NodeClosed(B))
    assert bench.head.nodes.is_alive(B)
    bench.head.nodes.all[A].heard = LIMITS.close_s
    bench.ticks(LIMITS.close_s)
    assert not bench.head.nodes.is_alive(B)
    assert bench.hears(SHARDS[1], NodeClosed(B)) == []


def test_two_nodes_that_do_not_reach_each_other_are_judged_once(bench: HeadBench) -> None:
    bench.hears(raylet_of(A), NodeGone(B, "no answer"))
    bench.hears(raylet_of(B), NodeGone(A, "no answer"))
    said = bench.ticks(LIMITS.complaint_s)
    assert [message.node for _, message in said if isinstance(message, CloseNode)] == [B, B]


def test_shards_end_with_the_session_and_strangers_are_none(bench: HeadBench) -> None:
    assert bench.hears(raylet_of(shard_node(7)), JoinShard("memory://7")) == []
    assert bench.hears(raylet_of(shard_node(7)), LEFT) == []
    said = bench.hears(raylet_of(A), EndSession("done"))
    assert [to for to, message in said if to in SHARDS] == SHARDS


# ---------------------------------------------------------------------------------- the raylet
def test_a_raylet_sends_the_word_of_a_death_to_the_head_and_after_the_records_to_their_shard() -> None:
    info = node_info("a", CPU=1)
    node = Node(info, "s", Allocator(info.store_bytes))
    assert node.keeper_of(OWNER) == HEAD
    node.handle(Received(process_id(A, "x"), ShardTable(9, [])), 0.0)
    node.handle(Received(HEAD, ShardTable(2, [(shard_node(0), "memory://0")])), 0.0)
    assert {node.keeper_of(process_id(A, f"o{number}")) for number in range(20)} == set(SHARDS)
    mine = process_id(A, "o")
    node.handle(Received(mine, RegisterProcess("driver", 1)), 0.0)
    said = sent(node.handle(ConnectionLost(mine), 0.0))
    ends = [(to, message.process) for to, message in said if isinstance(message, ProcessGone)]
    assert ends == [(HEAD, mine), (node.keeper_of(mine), mine)]
