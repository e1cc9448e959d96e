"""Who was counted in by somebody who died before he sent what that was for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sparkray_core.ids import HEAD, NodeId, ObjectId, ProcessId, node_of, object_id, task_id
from sparkray_core.messages import (
    HOLDS,
    STORED,
    AddBorrowers,
    AdoptObject,
    BorrowedCounts,
    CheckBorrowed,
    DropBorrowers,
    ForgetRecords,
    FreeObjects,
    JoinShard,
    NodeGone,
    NodeTable,
    ProcessGone,
    RecordedObject,
    RecordObjects,
)
from sparkray_core.model.effects import Effect, Send, SendFrom, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.records import keeper_of
from sparkray_core.model.shard import Shard
from sparkray_core.testing.builders import node_id, node_info, process_id, raylet
from tests.model import test_actor_states, test_node_kept, test_records, test_shard
from tests.model.test_owner import ME, NODE, RAYLET, REMOTE, SECOND, WORKER, Bench

HANDOVER_S = 30.0
THERE = NodeId(b"node-six")
LENDER = ProcessId(THERE + b"lender..")


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def some(bench: Bench) -> ObjectId:
    """Own, and held by nobody but those that LENDER has counted in: REMOTE twice, SECOND once."""
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    some = bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(some, REMOTE), (some, REMOTE), (some, SECOND)]), LENDER)
    bench.owner.drop([entry])
    return some


def later(bench: Bench, seconds: float = HANDOVER_S) -> list[Effect]:
    bench.now += seconds
    effects = bench.owner.tick(bench.now)
    check_owner(bench.owner, [])
    return effects


def asked(number: int, some: ObjectId, *borrowers: ProcessId) -> list[Effect]:
    return [Send(borrower, CheckBorrowed(number, [some])) for borrower in borrowers]


def borrowers(bench: Bench, some: ObjectId) -> dict[ProcessId, int] | None:
    entry = bench.owner.refs.exported.get(some)
    return entry.borrowers if entry is not None else None


def test_they_are_asked_when_nothing_of_the_dead_is_on_its_way_and_counted_as_they_say(
    bench: Bench, some: ObjectId
) -> None:
    assert bench.hear(NodeGone(THERE, "power cut")) == [WakeAt(HANDOVER_S)]

    assert later(bench, HANDOVER_S - 1.0) == [WakeAt(HANDOVER_S)]
    assert later(bench, 1.0) == asked(1, some, REMOTE, SECOND)

    assert bench.hear(BorrowedCounts(1, [(some, 1)]), REMOTE) == []
    assert borrowers(bench, some) == {REMOTE: 1, SECOND: 1}
    assert bench.hear(BorrowedCounts(1, [(some, 0)]), SECOND) == []
    assert bench.hear(DropBorrowers([(some, REMOTE)]), REMOTE) == [Send(RAYLET, FreeObjects([some]))]
    assert not bench.owner.refs.recount.pairs


def test_so_they_are_when_only_the_process_died(bench: Bench, some: ObjectId) -> None:
    bench.hear(ProcessGone(LENDER, "killed"))

    assert later(bench) == asked(1, some, REMOTE, SECOND)
    bench.hear(BorrowedCounts(1, [(some, 0)]), REMOTE)
    assert bench.hear(BorrowedCounts(1, [(some, 0)]), SECOND) == [Send(RAYLET, FreeObjects([some]))]
    assert not bench.owner.refs.recount.lenders


def test_nobody_is_asked_of_what_the_dead_has_not_lent(bench: Bench, some: ObjectId) -> None:
    assert bench.hear(NodeGone(NodeId(b"........"), "power cut")) == []
    bench.hear(DropBorrowers([(some, REMOTE), (some, REMOTE), (some, SECOND)]))

    assert bench.hear(NodeGone(THERE, "power cut")) == []


def test_a_borrower_that_said_so_itself_is_believed(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, b"value", [])
    some = bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(some, LENDER)]), LENDER)

    bench.hear(NodeGone(THERE, "power cut"))

    assert later(bench) == []


def test_who_was_counted_in_meanwhile_is_asked_again_as_that_may_be_on_its_way(bench: Bench, some: ObjectId) -> None:
    bench.hear(NodeGone(THERE, "power cut"))
    later(bench)
    bench.hear(AddBorrowers([(some, REMOTE)]), SECOND)
    bench.hear(BorrowedCounts(1, [(some, 1)]), SECOND)

    bench.hear(BorrowedCounts(1, [(some, 0)]), REMOTE)

    assert borrowers(bench, some) == {REMOTE: 3, SECOND: 1}
    assert later(bench) == asked(2, some, REMOTE)
    bench.hear(BorrowedCounts(2, [(some, 1)]), REMOTE)
    assert borrowers(bench, some) == {REMOTE: 1, SECOND: 1}


def test_an_answer_from_before_another_death_is_not_believed(bench: Bench, some: ObjectId) -> None:
    bench.hear(AddBorrowers([(some, SECOND)]), WORKER)
    bench.hear(NodeGone(THERE, "power cut"))
    later(bench)
    bench.hear(ProcessGone(WORKER, "killed"))

    bench.hear(BorrowedCounts(1, [(some, 0)]), REMOTE)

    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 2}
    assert later(bench) == asked(2, some, REMOTE, SECOND)


def test_what_a_dead_process_is_heard_of_late_is_asked_after_too(bench: Bench, some: ObjectId) -> None:
    bench.hear(ProcessGone(WORKER, "killed"))
    bench.hear(AddBorrowers([(some, SECOND)]), WORKER)

    assert later(bench) == asked(1, some, REMOTE, SECOND)


def test_an_answer_comes_behind_what_was_let_go_of(bench: Bench) -> None:
    theirs = object_id(task_id(REMOTE, 5))
    bench.done(bench.running(), value=(HOLDS, b"value", (theirs, theirs)))

    (answer,) = bench.hear(CheckBorrowed(1, [theirs]), REMOTE)
    assert answer == Send(REMOTE, BorrowedCounts(1, [(theirs, 2)]))

    entry = bench.owner.refs.exported[theirs]
    bench.owner.refs.unpin(entry)
    bench.owner.refs.unpin(entry)
    assert bench.hear(CheckBorrowed(2, [theirs]), REMOTE) == [
        Send(REMOTE, DropBorrowers([(theirs, ME), (theirs, ME)])),
        Send(REMOTE, BorrowedCounts(2, [(theirs, 0)])),
    ]


def test_a_raylet_asks_after_what_its_workers_have_put() -> None:
    bench = test_node_kept.Bench()
    bench.say(HEAD, NodeTable([node_info(letter, CPU=1).as_dict() for letter in "abc"]))
    some, far, lender = bench.an_id(), test_node_kept.FAR, process_id(node_id("c"), "lender")
    bench.say(bench.worker, AdoptObject(some, bench.write(some)))
    bench.say(lender, AddBorrowers([(some, far)]))
    bench.say(bench.worker, DropBorrowers([(some, bench.worker)]))
    bench.say(HEAD, NodeGone(node_of(lender), "power cut"))

    assert Send(far, CheckBorrowed(1, [some])) in bench.node.handle(ClockTicked(), HANDOVER_S)

    bench.say(far, BorrowedCounts(1, [(some, 0)]))
    assert bench.used == 0


def test_the_gcs_is_asked_too_for_what_it_was_to_record_may_never_have_come(bench: Bench, some: ObjectId) -> None:
    bench.hear(AddBorrowers([(some, HEAD)]), LENDER)
    bench.hear(NodeGone(THERE, "power cut"))

    assert later(bench) == asked(1, some, REMOTE, SECOND, HEAD)
    bench.hear(BorrowedCounts(1, [(some, 0)]), HEAD)
    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 1}


def test_the_gcs_says_how_often_it_has_it_in_records_and_in_what_actors_saved() -> None:
    bench = test_actor_states.Bench()
    outer, other, inner, unknown = (test_records.some_object(count) for count in (1, 2, 3, 4))
    values: list[RecordedObject] = [(outer, (HOLDS, b"1", (inner, inner)), ""), (other, None, "")]
    bench.say(test_records.OWNER, RecordObjects(ProcessId(b""), [], [test_records.task(2, inner)], values))
    bench.say(test_actor_states.ON_B, test_actor_states.saves(1, None, inner))

    answer = bench.say(test_actor_states.DRIVER, CheckBorrowed(5, [inner, unknown]))

    assert answer == [Send(test_actor_states.DRIVER, BorrowedCounts(5, [(inner, 4), (unknown, 0)]))]


# ---------------------------------------------------------------------------------- the GCS's shards
SHARDS = test_shard.SHARDS


def of_head(some: ObjectId, count: int = 0) -> BorrowedCounts:
    return BorrowedCounts(1, [(some, count)], SHARDS)


def counted_for_records(bench: Bench, some: ObjectId, times: int) -> None:
    """The GCS so often; and LENDER's node dies, and all are asked."""
    bench.hear(AddBorrowers([(some, HEAD)] * times), LENDER)
    bench.hear(NodeGone(THERE, "power cut"))
    later(bench)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_head_and_shards_say_counts_together_in_any_order(
    bench: Bench, some: ObjectId, order: tuple[int, ...]
) -> None:
    counted_for_records(bench, some, 5)
    answers = [(HEAD, of_head(some, 1)), *((shard, BorrowedCounts(1, [(some, 1)])) for shard in SHARDS)]
    for n in order:
        assert borrowers(bench, some) == {REMOTE: 2, SECOND: 1, HEAD: 5}
        bench.hear(answers[n][1], answers[n][0])

    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 1, HEAD: 3}
    assert not bench.owner.refs.recount.shares


def test_what_a_shard_lets_go_of_between_the_first_answer_and_the_last_has_all_asked_again(
    bench: Bench, some: ObjectId
) -> None:
    counted_for_records(bench, some, 2)
    bench.hear(of_head(some), HEAD)
    bench.hear(BorrowedCounts(1, [(some, 1)]), SHARDS[0])
    bench.hear(DropBorrowers([(some, HEAD)]), SHARDS[0])  # of one that it said it had
    bench.hear(BorrowedCounts(1, [(some, 0)]), SHARDS[1])

    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 1, HEAD: 1}
    assert Send(HEAD, CheckBorrowed(2, [some])) in later(bench)
    for process in (HEAD, *SHARDS):
        others = SHARDS if process == HEAD else []
        bench.hear(BorrowedCounts(2, [(some, 0)], others), process)
    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 1}


def test_part_of_an_answer_is_forgotten_with_the_next_round(bench: Bench, some: ObjectId) -> None:
    counted_for_records(bench, some, 1)
    bench.hear(BorrowedCounts(1, [(some, 0)]), SHARDS[0])
    bench.hear(AddBorrowers([(some, SECOND)]), WORKER)
    bench.hear(ProcessGone(WORKER, "killed"))
    later(bench)

    bench.hear(of_head(some), HEAD)
    bench.hear(BorrowedCounts(1, [(some, 0)]), SHARDS[1])

    assert borrowers(bench, some) == {REMOTE: 2, SECOND: 2, HEAD: 1}


def test_the_head_says_nothing_before_all_shards_have_joined() -> None:
    head = Head("s", test_shard.LIMITS)
    info = node_info("a", CPU=1)
    head.handle(Received(raylet("a"), info.join()), 0.0)
    head.handle(Received(SHARDS[0], JoinShard("memory://0")), 0.0)

    asked = head.handle(Received(test_shard.DRIVER, CheckBorrowed(1, [test_shard.SMALL])), 0.0)

    assert not [effect for effect in asked if isinstance(effect, Send | SendFrom)]


def test_what_was_never_recorded_is_freed_though_the_gcs_has_shards(bench: Bench, some: ObjectId) -> None:
    """A node had counted the GCS in for what is inside of a result, and died before its record had left it. Another
    result, which a living node has recorded, has the same inside."""
    head = test_shard.HeadBench()
    head.hears(RAYLET, replace(node_info("a", CPU=1), node=NODE).join())
    shards = {process: Shard(number, "memory://", test_shard.LIMITS) for number, process in enumerate(SHARDS)}
    outer = object_id(task_id(test_shard.OWNER, 1))
    recorded: list[RecordedObject] = [(outer, (HOLDS, b"1", (some,)), "")]
    told = Received(test_shard.OWNER, RecordObjects(ProcessId(b""), [], [], recorded))
    shards[keeper_of(test_shard.OWNER, 2)].handle(told, 0.0)
    bench.hear(AddBorrowers([(some, HEAD)]), test_shard.OWNER)
    bench.hear(DropBorrowers([(some, REMOTE), (some, REMOTE), (some, SECOND)]))
    bench.hear(AddBorrowers([(some, HEAD)]), LENDER)

    def ask() -> list[Effect]:
        freed: list[Effect] = []
        question = CheckBorrowed(1, [some])
        for asked in later(bench):
            assert asked == Send(HEAD, question)
            for effect in head.head.handle(Received(ME, question), bench.now):
                if isinstance(effect, SendFrom):
                    assert effect.sender == ME
                    (answer,) = shards[effect.to].handle(Received(ME, effect.message), bench.now)
                    assert isinstance(answer, Send)
                    freed += bench.hear(answer.message, effect.to)
                elif isinstance(effect, Send) and effect.to == ME:
                    freed += bench.hear(effect.message, HEAD)
        return freed

    bench.hear(NodeGone(THERE, "power cut"))
    assert ask() == []
    assert borrowers(bench, some) == {HEAD: 1}
    (dropped,) = shards[keeper_of(test_shard.OWNER, 2)].handle(
        Received(test_shard.OWNER, ForgetRecords([outer])), bench.now
    )
    assert isinstance(dropped, Send)
    assert bench.hear(dropped.message, SHARDS[0]) == [Send(RAYLET, FreeObjects([some]))]


# ---------------------------------------------------------------------------------- below zero
@pytest.fixture
def ours(bench: Bench) -> ObjectId:
    """Own, and held by nobody but SECOND."""
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    some = bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(some, SECOND)]), SECOND)
    bench.owner.drop([entry])
    return some


def test_who_let_go_before_the_word_that_counts_it_in_counts_as_nothing_when_that_does_not_come(
    bench: Bench, ours: ObjectId
) -> None:
    """It was sent by a node that was cut off from here, and then buried."""
    assert bench.hear(DropBorrowers([(ours, REMOTE)]), REMOTE) == [WakeAt(HANDOVER_S)]
    bench.hear(NodeGone(THERE, "cut off"))
    assert bench.hear(DropBorrowers([(ours, SECOND)]), SECOND) == []

    assert later(bench, HANDOVER_S - 1.0) == [WakeAt(HANDOVER_S)]
    assert later(bench, 1.0) == [Send(RAYLET, FreeObjects([ours]))]
    assert not bench.owner.refs.recount.below


def test_if_it_comes_all_is_well(bench: Bench, ours: ObjectId) -> None:
    bench.hear(DropBorrowers([(ours, REMOTE)]), REMOTE)
    bench.hear(AddBorrowers([(ours, REMOTE)]), LENDER)

    assert not bench.owner.refs.recount.below
    assert later(bench) == []
    assert borrowers(bench, ours) == {SECOND: 1}


def test_the_time_is_that_of_each_that_counts_below_zero(bench: Bench, ours: ObjectId) -> None:
    bench.hear(DropBorrowers([(ours, REMOTE), (ours, REMOTE)]), REMOTE)
    later(bench, 10.0)
    bench.hear(DropBorrowers([(ours, WORKER)]), WORKER)

    later(bench, HANDOVER_S - 10.0)
    assert borrowers(bench, ours) == {SECOND: 1, WORKER: -1}
    later(bench, 10.0)
    assert borrowers(bench, ours) == {SECOND: 1}


def test_so_it_is_with_what_a_raylet_owns() -> None:
    bench = test_node_kept.Bench()
    some = bench.an_id()
    bench.say(bench.worker, AdoptObject(some, bench.write(some)))
    bench.say(test_node_kept.FAR, DropBorrowers([(some, test_node_kept.FAR)]))
    bench.say(bench.worker, DropBorrowers([(some, bench.worker)]))
    assert some in bench.node.store.stored

    bench.node.handle(ClockTicked(), HANDOVER_S)

    assert some not in bench.node.store.stored
