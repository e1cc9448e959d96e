"""What lies in a store and gets lost is made again by whoever owns it, when somebody wants it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sparkray_core.ids import HEAD, ProcessId, node_of, object_id, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    STORED,
    STREAM_CLOSED,
    ActorChanged,
    AskObjects,
    CopyMade,
    DropBorrowers,
    EndSession,
    FreeObjects,
    LeaseGranted,
    LeaseLost,
    NodeGone,
    ObjectMissing,
    ObjectReady,
    PushCalls,
    PushTasks,
    StreamItems,
    StreamRead,
    TaskResults,
    Value,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.legacy import HANDOVER_S
from sparkray_core.model.lineage import RECORD_BYTES
from sparkray_core.model.owner import Actor, Owner, OwnerLimits, Task
from sparkray_core.model.streams import Stream
from tests.model.test_owner import (
    ME,
    NODE,
    OTHER_NODE,
    REMOTE,
    SECOND,
    WORKER,
    Bench,
    alive,
    lease_id,
    make_actor,
    pushed_by,
)

THERE: Value = (STORED, 1000, (OTHER_NODE,))
HERE: Value = (STORED, 1000, (NODE,))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def run(bench: Bench, *tasks: Task, value: Value = THERE) -> None:
    """Submit each and have a worker answer it."""
    for task in tasks:
        bench.submit(task)
        end(bench, task, value)


def worker_of(bench: Bench, task: Task) -> ProcessId:
    """Who runs it; a new worker for it if nobody does."""
    for _ in range(2):
        for lease in bench.owner.leasing.leases.values():
            if task.count in lease.inflight:
                return lease.worker
        for asked in list(bench.owner.leasing.requests):
            bench.hear(LeaseGranted(asked, ProcessId(NODE + asked[16:])))
    raise AssertionError("nobody runs it")


def end(bench: Bench, task: Task, value: Value) -> list[Effect]:
    return bench.done(task, worker=worker_of(bench, task), value=value)


def makes_again(bench: Bench, *tasks: Task) -> None:
    """Just these run, one after the other, and no other."""
    for task in tasks:
        assert list(bench.owner.book.tasks.values()).count(task) == 1
        running = [t.count for lease in bench.owner.leasing.leases.values() for t in lease.inflight.values()]
        queued = [t.count for s in bench.owner.leasing.shapes.values() for q in s.queues.values() for t in q.tasks]
        assert task.count in [*running, *queued]
        end(bench, task, HERE)


def node_dies(bench: Bench) -> list[Effect]:
    return bench.hear(NodeGone(OTHER_NODE, "power cut"))


def want(bench: Bench, *tasks: Task) -> list[Effect]:
    return bench.owner.want([entry for task in tasks for entry in task.returns], bench.now)


def check(bench: Bench, held: Sequence[Task] = ()) -> None:
    check_owner(bench.owner, [entry for task in held for entry in task.returns if entry.held])


def reason(entry: Entry) -> str:
    value = entry.value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "ObjectReconstructionFailedError"), value
    assert value[3] == entry.id.hex()
    return str(value[4])


def reason_of(task: Task) -> str:
    value = task.returns[0].value
    assert isinstance(value, tuple)
    return str(value[4])


def freed_by(effects: Sequence[Effect]) -> set[bytes]:
    return {
        some
        for e in effects
        if isinstance(e, Send) and isinstance(e.message, FreeObjects)
        for some in e.message.objects
    }


def drop(bench: Bench, *tasks: Task) -> list[Effect]:
    return bench.owner.drop([entry for task in tasks for entry in task.returns])


# ---------------------------------------------------------------------------------- tasks
def test_a_lost_result_is_made_again_when_somebody_wants_it_and_not_before(bench: Bench) -> None:
    task = bench.task(retries=3)
    run(bench, task)

    assert pushed_by(node_dies(bench)) == []
    assert task.returns[0].value is None
    check(bench, [task])
    assert pushed_by(want(bench, task)) == [task.count]
    assert task.retries == 2
    assert pushed_by(want(bench, task)) == []  # once is enough
    end(bench, task, HERE)

    assert task.returns[0].value == HERE
    check(bench, [task])
    assert drop(bench, task) == [Send(raylet_of(NODE), FreeObjects([task.returns[0].id]))]
    assert not bench.owner.lineage.records
    assert bench.owner.lineage.bytes == 0


def test_small_results_leave_no_record(bench: Bench) -> None:
    first = bench.task()
    run(bench, first, value=b"small")
    second = bench.task(refs=[first.returns[0]])
    run(bench, second, value=b"small")

    assert not bench.owner.lineage.records
    assert first.returns[0].pins == 0


def test_a_copy_elsewhere_is_enough(bench: Bench) -> None:
    task = bench.task()
    run(bench, task)
    bench.hear(CopyMade(task.returns[0].id, NODE, OTHER_NODE), RAYLET_OF_NODE)

    node_dies(bench)

    assert task.returns[0].value == HERE
    assert task.retries == 3


def test_a_borrower_who_asks_has_it_made_again_and_is_told_where_it_is(bench: Bench) -> None:
    task = bench.task()
    run(bench, task)
    some = bench.owner.refs.export(task.returns[0])
    bench.owner.refs.count_in(task.returns[0], REMOTE2)
    node_dies(bench)

    assert pushed_by(bench.hear(AskObjects([some]), REMOTE2)) == [task.count]

    assert Send(REMOTE2, ObjectReady(some, HERE)) in end(bench, task, HERE)


def test_a_reader_who_does_not_find_it_has_it_made_again(bench: Bench) -> None:
    """A spilled file that cannot be read, or a copy that was evicted."""
    task = bench.task()
    run(bench, task)
    some = bench.owner.refs.export(task.returns[0])

    assert pushed_by(bench.hear(ObjectMissing(some, [OTHER_NODE]), REMOTE2)) == [task.count]
    effects = end(bench, task, HERE)

    assert Send(REMOTE2, ObjectReady(some, HERE)) in effects
    assert Send(raylet_of(OTHER_NODE), FreeObjects([some])) in effects  # if it is there all the same
    check(bench, [task])


def test_a_reader_who_looked_where_it_was_before_is_told_where_it_is_now(bench: Bench) -> None:
    task = bench.task()
    run(bench, task, value=HERE)
    some = bench.owner.refs.export(task.returns[0])

    effects = bench.hear(ObjectMissing(some, [OTHER_NODE]), REMOTE2)

    assert effects == [Send(REMOTE2, ObjectReady(some, HERE))]
    assert task.retries == 3


def test_what_was_put_is_lost_and_the_error_says_what_where_and_why(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, THERE, [])
    node_dies(bench)

    assert isinstance(entry.value, tuple)
    assert entry.value[:2] == (FAILED, "ObjectLostError")
    for words in (entry.id.hex(), "put()", NODE.hex(), OTHER_NODE.hex(), "power cut", "put it once more"):
        assert words in entry.value[2]
    assert entry.value[3] == entry.id.hex()


def test_what_was_put_is_not_given_up_for_the_word_of_one_reader(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, THERE, [])
    (answer,) = bench.hear(ObjectMissing(entry.id, [OTHER_NODE]), REMOTE2)

    assert isinstance(answer, Send)
    assert isinstance(answer.message, ObjectReady)
    assert answer.message.value[1] == "ObjectLostError"
    assert entry.value == THERE


def test_a_place_of_what_was_put_is_looked_at_last_once_a_reader_did_not_find_it_there(bench: Bench) -> None:
    """Perhaps it could not be read only then: it is freed there, too, in the end."""
    entry = Entry(ME, 77)
    bench.owner.put(entry, THERE, [])
    bench.hear(CopyMade(entry.id, NODE, OTHER_NODE))

    (answer,) = bench.hear(ObjectMissing(entry.id, [OTHER_NODE]), REMOTE2)

    assert answer == Send(REMOTE2, ObjectReady(entry.id, (STORED, 1000, (NODE, OTHER_NODE))))
    free = FreeObjects([entry.id])
    assert bench.owner.drop([entry]) == [Send(raylet_of(NODE), free), Send(raylet_of(OTHER_NODE), free)]


def test_retries_are_used_up_by_making_it_again_as_by_crashes(bench: Bench) -> None:
    task = bench.task(retries=1)
    run(bench, task)
    node_dies(bench)
    want(bench, task)
    third = (STORED, 1000, (REMOTE2_NODE,))
    end(bench, task, third)

    bench.hear(NodeGone(REMOTE2_NODE, "power cut"))
    assert want(bench, task) == []

    assert reason(task.returns[0]) == "MAX_ATTEMPTS_EXCEEDED"
    value = task.returns[0].value
    assert isinstance(value, tuple)
    for words in ("f()", "max_retries", REMOTE2_NODE.hex(), "power cut"):
        assert words in value[2]
    assert not bench.owner.lineage.records
    check(bench, [task])


def test_retries_without_end_make_it_again_for_ever(bench: Bench) -> None:
    task = bench.task(retries=-1)
    run(bench, task)
    for _ in range(10):
        failure, effects = bench.owner.missed(task.returns[0], [OTHER_NODE], bench.now)
        assert failure is None
        assert pushed_by(effects) == [task.count]
        end(bench, task, THERE)
    assert task.retries == -1


def test_a_task_that_may_run_once_is_not_run_again(bench: Bench) -> None:
    task = bench.task(retries=0)
    run(bench, task)
    node_dies(bench)

    assert want(bench, task) == []

    assert reason(task.returns[0]) == "RETRIES_DISABLED"
    drop(bench, task)
    assert not bench.owner.lineage.records


def test_a_cancelled_task_is_not_run_again(bench: Bench) -> None:
    task = bench.running()
    bench.owner.cancel(task.count, force=False, recursive=False, now=0.0)
    bench.done(task, value=THERE)  # it had ended before the signal came
    node_dies(bench)
    want(bench, task)

    assert reason(task.returns[0]) == "TASK_CANCELLED"


def test_a_task_fails_with_the_argument_that_cannot_come_once_the_others_are_there(bench: Bench) -> None:
    once, often = bench.task(retries=0), bench.task()
    run(bench, once, often)
    node_dies(bench)
    consumer = bench.task(refs=[often.returns[0], once.returns[0]])
    bench.submit(consumer)
    assert reason(once.returns[0]) == "RETRIES_DISABLED"

    end(bench, often, HERE)

    assert reason_of(consumer) == "RETRIES_DISABLED"
    assert not bench.owner.book.tasks


# ---------------------------------------------------------------------------------- arguments
def test_a_chain_is_made_again_from_where_it_broke_each_task_once(bench: Bench) -> None:
    first = bench.task()
    run(bench, first)
    second = bench.task(refs=[first.returns[0]])
    run(bench, second)
    third = bench.task(refs=[second.returns[0], second.returns[0]])
    run(bench, third)
    freed = drop(bench, first, second)
    assert freed_by(freed) == {first.returns[0].id, second.returns[0].id}  # though the third may need them again
    check(bench, [third])

    node_dies(bench)
    want(bench, third)
    makes_again(bench, first, second)
    assert freed_by(end(bench, third, HERE)) == {second.returns[0].id}

    assert third.returns[0].value == HERE
    assert [task.retries for task in (first, second, third)] == [2, 2, 2]
    assert not bench.owner.book.tasks
    check(bench, [third])
    drop(bench, third)
    assert not bench.owner.lineage.records


def test_a_diamond_is_made_again_each_task_once(bench: Bench) -> None:
    root = bench.task()
    run(bench, root)
    left, right = bench.task(refs=[root.returns[0]]), bench.task(refs=[root.returns[0]])
    run(bench, left, right)
    last = bench.task(refs=[left.returns[0], right.returns[0]])
    run(bench, last)
    drop(bench, root, left, right)
    node_dies(bench)

    want(bench, last)
    makes_again(bench, root, left, right, last)

    assert last.returns[0].value == HERE
    assert [task.retries for task in (root, left, right, last)] == [2, 2, 2, 2]
    assert not bench.owner.book.tasks
    check(bench, [last])


def test_a_long_chain_is_let_go_of_in_one_go(bench: Bench) -> None:
    last = bench.task()
    run(bench, last)
    for _ in range(2000):
        following = bench.task(refs=[last.returns[0]])
        run(bench, following)
        drop(bench, last)
        last = following
    assert len(bench.owner.lineage.records) == 2001

    drop(bench, last)

    assert not bench.owner.lineage.records
    assert not bench.owner.refs.stored


def test_a_small_argument_is_kept_for_as_long_as_the_result(bench: Bench) -> None:
    maker = bench.task()
    run(bench, maker, value=b"small")
    task = bench.task(refs=[maker.returns[0]])
    run(bench, task)
    drop(bench, maker)
    node_dies(bench)

    assert pushed_by(want(bench, task)) == [task.count]
    end(bench, task, HERE)
    drop(bench, task)

    assert maker.returns[0].pins == 0


def test_a_put_argument_is_kept_for_as_long_as_the_result(bench: Bench) -> None:
    put = Entry(ME, 77)
    bench.owner.put(put, HERE, [])
    task = bench.task(refs=[put])
    run(bench, task)
    assert bench.owner.drop([put]) == []
    assert bench.owner.lineage.bytes > 1000
    check(bench, [task])

    assert freed_by(drop(bench, task)) == {task.returns[0].id, put.id}
    assert not bench.owner.refs.stored


def test_a_put_argument_that_is_lost_too_is_what_the_error_tells_of(bench: Bench) -> None:
    put = Entry(ME, 77)
    bench.owner.put(put, THERE, [])
    task = bench.task(refs=[put])
    run(bench, task)
    node_dies(bench)
    want(bench, task)

    value = task.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "ObjectLostError")
    assert put.id.hex() in value[2]


def test_references_inside_arguments_are_there_again(bench: Bench) -> None:
    inner = bench.task()
    run(bench, inner)
    task = bench.task(nested=list(inner.returns))
    run(bench, task)
    drop(bench, inner)
    node_dies(bench)

    assert pushed_by(want(bench, task)) == [task.count]  # which asks for it, if it looks
    assert pushed_by(bench.hear(AskObjects([inner.returns[0].id]), WORKER)) == [inner.count]
    assert Send(WORKER, ObjectReady(inner.returns[0].id, HERE)) in end(bench, inner, HERE)
    check(bench, [task])


def test_a_queued_task_whose_argument_got_lost_waits_for_it_again(bench: Bench) -> None:
    maker = bench.task()
    run(bench, maker)
    task = bench.task(refs=list(maker.returns))
    bench.submit(task)
    node_dies(bench)

    asked = next(iter(bench.owner.leasing.requests))
    effects = bench.hear(LeaseGranted(asked, SECOND))

    assert task.count not in pushed_by(effects)
    assert task.missing == 1
    makes_again(bench, maker, task)
    check(bench, [maker, task])


def test_a_borrowed_object_that_is_not_found_is_asked_for_at_its_owner(bench: Bench) -> None:
    bench.hear(LeaseLost(lease_id(1), ""))
    some = Entry(REMOTE, 5).id
    entry = bench.owner.refs.find(some)
    bench.owner.want([entry], bench.now)
    bench.hear(ObjectReady(some, THERE), REMOTE)

    failure, effects = bench.owner.missed(entry, [OTHER_NODE], bench.now)

    assert failure is None
    assert effects == [Send(REMOTE, ObjectMissing(some, [OTHER_NODE]))]
    assert entry.value is None


# ---------------------------------------------------------------------------------- several results
def two_returns(bench: Bench) -> Task:
    task = bench.task()
    task.returns += (Entry(ME, task.count, 1),)
    task.num_returns = 2
    return task


def answer(bench: Bench, task: Task, *values: Value) -> list[Effect]:
    return bench.hear(TaskResults([(task.count, list(values), None)], 1e-5), WORKER)


def test_results_that_were_not_lost_stay_and_their_second_making_goes(bench: Bench) -> None:
    task = two_returns(bench)
    bench.submit(task)
    bench.lease(1)
    answer(bench, task, THERE, HERE)
    node_dies(bench)
    assert task.returns[1].value == HERE
    want(bench, task)
    third = raylet_of(REMOTE2_NODE)

    effects = answer(bench, task, (STORED, 1000, (REMOTE2_NODE,)), (STORED, 1000, (REMOTE2_NODE,)))

    assert [entry.value for entry in task.returns] == [(STORED, 1000, (REMOTE2_NODE,)), HERE]
    assert Send(third, FreeObjects([task.returns[1].id])) in effects
    check(bench, [task])
    drop(bench, task)
    assert not bench.owner.lineage.records


def test_where_there_was_a_copy_already_what_is_inside_of_either_making_is_held(bench: Bench) -> None:
    """The node has kept its copy, or had given it up for room and has the second making now: nobody says which."""
    first, second = Entry(REMOTE2, 5).id, Entry(REMOTE2, 6).id
    task = two_returns(bench)
    bench.submit(task)
    bench.lease(1)
    answer(bench, task, THERE, (HOLDS, (STORED, 1000, (REMOTE2_NODE,)), (first,)))
    bench.hear(CopyMade(task.returns[1].id, NODE, OTHER_NODE))
    node_dies(bench)
    want(bench, task)

    effects = answer(bench, task, HERE, (HOLDS, HERE, (second,)))

    assert task.returns[1].value == (HOLDS, (STORED, 1000, (REMOTE2_NODE, NODE)), (first, second))
    assert not [effect for effect in effects if isinstance(effect, Send) and effect.to == REMOTE2]
    check(bench, [task])
    told = [(effect.to, effect.message) for effect in drop(bench, task) if isinstance(effect, Send)]
    assert (REMOTE2, DropBorrowers([(first, ME), (second, ME)])) in told


def test_a_crash_while_it_is_made_again_leaves_what_was_not_lost(bench: Bench) -> None:
    task = two_returns(bench)
    bench.submit(task)
    bench.lease(1)
    answer(bench, task, THERE, HERE)
    node_dies(bench)
    want(bench, task)

    effects = bench.hear(LeaseLost(lease_id(1), "killed"))

    assert Send(raylet_of(NODE), FreeObjects([task.returns[0].id])) in effects


def test_a_result_that_nobody_holds_is_freed_when_it_is_made_again_for_another_s_sake(bench: Bench) -> None:
    task = two_returns(bench)
    bench.submit(task)
    bench.lease(1)
    answer(bench, task, THERE, THERE)
    bench.owner.drop([task.returns[1]])
    node_dies(bench)
    bench.owner.want([task.returns[0]], bench.now)

    effects = answer(bench, task, HERE, HERE)

    assert Send(raylet_of(NODE), FreeObjects([task.returns[1].id])) in effects
    check_owner(bench.owner, [task.returns[0]])


def test_references_inside_a_lost_value_are_held_until_it_is_made_again_and_those_who_read_it_have_said_so(
    bench: Bench,
) -> None:
    """Its task makes others the second time."""
    theirs, others = Entry(REMOTE2, 5).id, Entry(REMOTE2, 6).id
    task = bench.task()
    run(bench, task, value=(HOLDS, THERE, (theirs,)))

    node_dies(bench)
    assert theirs in bench.owner.refs.exported
    want(bench, task)
    assert Send(REMOTE2, DropBorrowers([(theirs, ME)])) not in end(bench, task, (HOLDS, HERE, (others,)))

    assert [entry.id for entry in task.returns[0].contained or ()] == [others]
    assert Send(REMOTE2, DropBorrowers([(theirs, ME)])) in late(bench)
    check(bench, [task])


def test_what_is_inside_a_lost_value_goes_with_its_last_reference(bench: Bench) -> None:
    task = bench.task()
    run(bench, task, value=(HOLDS, THERE, (Entry(REMOTE2, 5).id,)))
    node_dies(bench)

    assert Send(REMOTE2, DropBorrowers([(Entry(REMOTE2, 5).id, ME)])) in drop(bench, task)


def test_a_value_made_again_for_a_late_reader_s_word_may_still_lie_there_as_it_was(bench: Bench) -> None:
    """The reader had looked before it was made again the first time. A node keeps what it has, so its bytes name what
    was inside then."""
    first, second = Entry(REMOTE2, 5).id, Entry(REMOTE2, 6).id
    task = bench.task()
    run(bench, task, value=(HOLDS, HERE, (first,)))
    some = bench.owner.refs.export(task.returns[0])

    bench.hear(ObjectMissing(some, [NODE]), REMOTE)
    end(bench, task, (HOLDS, HERE, (second,)))

    assert task.returns[0].value == (HOLDS, HERE, (first, second))
    assert Send(REMOTE2, DropBorrowers([(first, ME)])) not in late(bench)
    check(bench, [task])
    told = [(effect.to, effect.message) for effect in drop(bench, task) if isinstance(effect, Send)]
    assert (REMOTE2, DropBorrowers([(first, ME), (second, ME)])) in told


def late(bench: Bench) -> list[Effect]:
    """What time brings."""
    effects = bench.owner.tick(bench.now)
    bench.now += HANDOVER_S
    return [*effects, *bench.owner.tick(bench.now)]


# ---------------------------------------------------------------------------------- bytes
def bounded(most: int) -> Bench:
    bench = Bench()
    bench.owner = Owner(ME, OwnerLimits(lineage_bytes=most))
    return bench


def test_beyond_its_bytes_the_oldest_record_goes_and_the_error_says_so() -> None:
    bench = bounded(3 * RECORD_BYTES)
    tasks = [bench.task() for _ in range(3)]
    run(bench, *tasks)
    check(bench, tasks)
    node_dies(bench)

    want(bench, *tasks)

    assert reason(tasks[0].returns[0]) == "LINEAGE_EVICTED"
    value = tasks[0].returns[0].value
    assert isinstance(value, tuple)
    assert "lineage_bytes" in value[2]
    assert [task.count in bench.owner.book.tasks for task in tasks] == [False, True, True]


def test_without_any_bytes_nothing_is_kept() -> None:
    bench = bounded(0)
    put = Entry(ME, 77)
    bench.owner.put(put, HERE, [])
    task = bench.task(refs=[put])
    run(bench, task)

    assert bench.owner.drop([put]) == [Send(raylet_of(NODE), FreeObjects([put.id]))]
    assert bench.owner.lineage.bytes == 0
    check(bench, [task])


def test_an_evicted_argument_is_what_the_error_of_the_chain_tells_of() -> None:
    bench = bounded(int(2.5 * RECORD_BYTES))
    first = bench.task()
    run(bench, first)
    second = bench.task(refs=list(first.returns))
    run(bench, second)
    drop(bench, first)
    third = bench.task()
    run(bench, third)
    node_dies(bench)
    want(bench, second)

    assert reason(first.returns[0]) == "LINEAGE_EVICTED"
    value = second.returns[0].value
    assert isinstance(value, tuple)
    assert first.returns[0].id.hex() in value[2]


def test_the_end_of_the_session_lets_go_of_everything(bench: Bench) -> None:
    task = bench.task()
    run(bench, task)
    node_dies(bench)
    bench.hear(EndSession("over"))

    assert want(bench, task) == []
    assert bench.owner.lineage.bytes == 0
    drop(bench, task)
    assert not bench.owner.lineage.records


# ---------------------------------------------------------------------------------- actors
def calls_in(effects: Sequence[Effect]) -> list[int]:
    return [c[0] for e in effects if isinstance(e, Send) and isinstance(e.message, PushCalls) for c in e.message.calls]


@pytest.fixture
def actor(bench: Bench) -> Actor:
    made = make_actor(bench)
    bench.hear(alive(made, REMOTE), HEAD)
    return made


def call(bench: Bench, actor: Actor, retries: int, refs: list[Entry] | None = None) -> Task:
    task = bench.task(actor=actor, retries=retries, refs=refs)
    bench.submit(task)
    bench.done(task, worker=REMOTE, value=THERE)
    return task


def test_a_call_with_retries_is_made_again_in_the_actor_s_next_life(bench: Bench, actor: Actor) -> None:
    task, once = call(bench, actor, retries=1), call(bench, actor, retries=0)
    bench.hear(ActorChanged(actor.id, "restarting", 1, None, "its node died", None), HEAD)
    node_dies(bench)

    want(bench, task, once)
    effects = bench.hear(alive(actor, WORKER, 1), HEAD)

    assert reason(once.returns[0]) == "RETRIES_DISABLED"
    assert calls_in(effects) == [task.count]
    bench.done(task, worker=WORKER, value=HERE)
    assert task.returns[0].value == HERE
    assert actor.entry.pins == 0


def test_calls_are_made_again_before_those_that_wait_for_them(bench: Bench, actor: Actor) -> None:
    first = call(bench, actor, retries=-1)
    second = call(bench, actor, retries=-1, refs=list(first.returns))
    bench.hear(ActorChanged(actor.id, "restarting", 1, None, "its node died", None), HEAD)
    node_dies(bench)
    third = bench.task(actor=actor, refs=list(second.returns))
    bench.submit(third)

    ran = calls_in(bench.hear(alive(actor, WORKER, 1), HEAD))
    for task in (first, second, third):
        ran += calls_in(bench.done(task, worker=WORKER, value=HERE))

    assert ran == [first.count, second.count, third.count]


def test_a_record_does_not_keep_an_actor_alive(bench: Bench, actor: Actor) -> None:
    task = call(bench, actor, retries=-1)
    taken_along = bench.task(nested=[actor.entry])
    run(bench, taken_along)
    bench.owner.drop([actor.entry])
    assert not bench.owner.calls.actors
    node_dies(bench)

    want(bench, task)

    assert reason(task.returns[0]) == "ACTOR_GONE"


def test_an_actor_that_waits_for_what_it_had_made_itself_is_not_left_to_wait_for_ever(
    bench: Bench, actor: Actor
) -> None:
    task = call(bench, actor, retries=-1)
    some = bench.owner.refs.export(task.returns[0])

    effects = bench.hear(ObjectMissing(some, [OTHER_NODE]), REMOTE)

    (answer,) = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, ObjectReady)]
    assert answer.value[1] == "ObjectLostError"


def readied(effects: Sequence[Effect]) -> list[object]:
    found = [e.message.value for e in effects if isinstance(e, Send) and isinstance(e.message, ObjectReady)]
    return [value[1] if isinstance(value, tuple) else value for value in found]


@pytest.mark.parametrize("serial", [True, False])
def test_so_it_is_with_one_whose_calls_may_overtake_each_other_but_not_with_one_that_has_room_for_another(
    bench: Bench, actor: Actor, serial: bool
) -> None:
    task = call(bench, actor, retries=-1)
    actor.ordered, actor.serial = False, serial
    some = bench.owner.refs.export(task.returns[0])

    effects = bench.hear(ObjectMissing(some, [OTHER_NODE]), REMOTE)

    assert (readied(effects), calls_in(effects)) == ((["ObjectLostError"], []) if serial else ([], [task.count]))


def test_an_actor_that_asks_for_what_it_had_made_itself_and_is_lost_does_not_wait_for_ever(
    bench: Bench, actor: Actor
) -> None:
    task = call(bench, actor, retries=-1)
    some = bench.owner.refs.export(task.returns[0])
    node_dies(bench)

    effects = bench.hear(AskObjects([some]), REMOTE)

    assert (readied(effects), calls_in(effects)) == (["ObjectLostError"], [])
    assert calls_in(bench.hear(AskObjects([some]), SECOND)) == [task.count]
    assert readied(bench.hear(AskObjects([some]), REMOTE)) == ["ObjectLostError"]
    assert readied(bench.done(task, worker=REMOTE, value=b"again")) == [b"again"]


# ---------------------------------------------------------------------------------- streams
def streaming(bench: Bench, retries: int = 3, refs: list[Entry] | None = None) -> tuple[Task, Stream]:
    task = bench.task(retries=retries, refs=refs)
    stream = Stream(ME, task.count)
    task.returns, task.num_returns, task.stream = (stream.end,), 1, stream
    bench.submit(task)
    bench.lease(1)
    return task, stream


def items(bench: Bench, task: Task, first: int, *values: Value) -> list[Effect]:
    return bench.hear(StreamItems(task.count, first, list(values)), WORKER)


def ends(bench: Bench, task: Task, before: int, end: Value = b"end") -> list[Effect]:
    return bench.hear(TaskResults([(task.count, [end, before], None)], 1e-5), WORKER)  # type: ignore[list-item]


def take(bench: Bench, stream: Stream, number: int) -> list[Entry]:
    taken = [bench.owner.take(stream)[0] for _ in range(number)]
    return [entry for entry in taken if entry is not None]


def returns_in(effects: Sequence[Effect]) -> list[object]:
    return [t[2] for e in effects if isinstance(e, Send) and isinstance(e.message, PushTasks) for t in e.message.tasks]


def test_a_lost_item_is_made_again_by_a_run_that_skips_those_before_it_and_ends_after_it(bench: Bench) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, b"small", THERE, THERE)
    ends(bench, task, 3)
    _, second, third = take(bench, stream, 3)
    node_dies(bench)
    check_owner(bench.owner, [second, third])

    effects = bench.owner.want([third], bench.now)
    assert returns_in(effects) == [(2, 0, 0)]
    effects = items(bench, task, 2, HERE)

    assert third.value == HERE
    assert Send(WORKER, StreamRead(task.count, -1)) in effects
    ends(bench, task, 3)
    assert second.value is None
    check_owner(bench.owner, [second, third])
    bench.owner.drop([second, third])
    bench.owner.drop_stream(stream)
    assert not bench.owner.lineage.records


def test_lost_items_that_are_let_go_of_while_it_runs_again_go_with_the_run_that_does_not_come_to_them(
    bench: Bench,
) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, THERE, THERE)
    ends(bench, task, 2)
    first, second = take(bench, stream, 2)
    node_dies(bench)
    bench.owner.want([first], bench.now)
    bench.owner.drop([second])
    items(bench, task, 0, HERE)
    bench.owner.drop([first])
    bench.owner.drop_stream(stream)

    ends(bench, task, 1)

    assert not bench.owner.lineage.records
    check_owner(bench.owner, [])


def test_a_lost_item_that_is_no_stored_value_the_second_time_needs_no_record(bench: Bench) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, THERE)
    ends(bench, task, 1)
    (first,) = take(bench, stream, 1)
    node_dies(bench)
    bench.owner.want([first], bench.now)
    items(bench, task, 0, (FAILED, "ObjectStoreFullError", "no room"))
    ends(bench, task, 1)
    bench.owner.drop([first])
    bench.owner.drop_stream(stream)

    assert not bench.owner.lineage.records
    check_owner(bench.owner, [])


def test_an_item_that_was_lost_while_the_task_still_ran_is_made_again_at_its_end(bench: Bench) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, THERE)
    (first,) = take(bench, stream, 1)
    bench.owner.refs.export(first)
    bench.hear(ObjectMissing(first.id, [OTHER_NODE]), REMOTE2)
    assert first.value is None

    effects = ends(bench, task, 1)

    assert returns_in(effects) == [(0, 0, 0)]
    assert Send(REMOTE2, ObjectReady(first.id, HERE)) in items(bench, task, 0, HERE)
    ends(bench, task, 1)
    check_owner(bench.owner, [first])


def test_a_lost_item_of_a_generator_that_nobody_reads_any_more_is_made_before_its_worker_hears_of_that(
    bench: Bench,
) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, b"small", THERE, b"small")
    _, second, _ = take(bench, stream, 3)
    bench.owner.drop_stream(stream)
    bench.hear(LeaseLost(lease_id(1), "killed by SIGKILL"))
    node_dies(bench)
    bench.owner.want([second], bench.now)

    assert returns_in(bench.lease(2)) == [(1, 3, 0)]
    assert Send(WORKER, StreamRead(task.count, STREAM_CLOSED)) in items(bench, task, 1, HERE)
    ends(bench, task, 2)
    assert second.value == HERE
    check_owner(bench.owner, [second])


def test_a_lost_item_is_made_though_the_generator_is_let_go_of_meanwhile(bench: Bench) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, b"small", THERE, THERE)
    _, second, third = take(bench, stream, 3)
    bench.hear(LeaseLost(lease_id(1), "killed by SIGKILL"))
    node_dies(bench)
    bench.owner.want([second, third], bench.now)
    assert returns_in(bench.lease(2)) == [(1, 3, 0)]

    assert bench.owner.drop_stream(stream) == []
    assert items(bench, task, 1, HERE) == []
    assert items(bench, task, 2, HERE) == [Send(WORKER, StreamRead(task.count, STREAM_CLOSED))]
    assert [second.value, third.value] == [HERE, HERE]
    assert items(bench, task, 3, HERE) == [Send(raylet_of(NODE), FreeObjects([object_id(task_id(ME, task.count), 4)]))]
    ends(bench, task, 4)
    check_owner(bench.owner, [second, third])


@pytest.mark.parametrize("wanted", [True, False])
def test_a_late_item_of_a_run_that_was_given_up_does_not_stand_for_the_one_that_is_lost(
    bench: Bench, wanted: bool
) -> None:
    task, stream = streaming(bench)
    items(bench, task, 0, b"small", THERE)
    ends(bench, task, 2)
    _, second = take(bench, stream, 2)
    node_dies(bench)
    if wanted:
        bench.owner.want([second], bench.now)
        bench.hear(LeaseLost(lease_id(1), "killed by SIGKILL"))

    effects = bench.hear(StreamItems(task.count, 1, [(STORED, 1000, (REMOTE2_NODE,))]), REMOTE2)
    assert freed_by(effects) == set()  # a run may write it there
    check_owner(bench.owner, [second])

    effects = bench.lease(2) if wanted else bench.owner.want([second], bench.now)
    assert returns_in(effects) == [(1, 0, 0)]
    items(bench, task, 1, HERE)
    assert second.value == HERE
    effects = ends(bench, task, 2)
    assert freed_by(effects) == {second.id}
    check_owner(bench.owner, [second])


def test_a_generator_that_yields_less_the_second_time_fails_what_is_missing(bench: Bench) -> None:
    task, stream = streaming(bench, retries=-1)
    items(bench, task, 0, THERE, THERE)
    ends(bench, task, 2)
    first, second = take(bench, stream, 2)
    node_dies(bench)
    bench.owner.want([first, second], bench.now)
    ends(bench, task, 0)

    assert reason(first) == reason(second) == "RUN_FAILED"


def test_a_generator_that_cannot_run_again_for_its_argument_s_sake_fails_what_is_wanted(bench: Bench) -> None:
    argument = Entry(ME, 99)
    bench.owner.put(argument, THERE, [])
    task, stream = streaming(bench, retries=-1, refs=[argument])
    items(bench, task, 0, THERE)
    ends(bench, task, 1)
    (first,) = take(bench, stream, 1)
    node_dies(bench)
    bench.owner.want([first], bench.now)

    assert isinstance(first.value, tuple)
    assert first.value[:2] == (FAILED, "ObjectLostError")
    assert not bench.owner.book.tasks


RAYLET_OF_NODE = raylet_of(NODE)
REMOTE2 = ProcessId(b"node-3rd" + b"worker-9")
REMOTE2_NODE = node_of(REMOTE2)


def test_what_was_inside_of_a_lost_value_goes_with_it_though_it_lay_on_the_same_node(bench: Bench) -> None:
    inner, outer = bench.task(), bench.task()
    run(bench, inner, value=(STORED, 1000, (REMOTE2_NODE,)))
    other = bench.task(refs=[inner.returns[0]])  # for whose sake it may be made again
    run(bench, other, value=HERE)
    run(bench, outer, value=(HOLDS, THERE, (inner.returns[0].id,)))
    bench.hear(NodeGone(REMOTE2_NODE, "power cut"))
    want(bench, inner)
    end(bench, inner, THERE)  # so it is looked at behind what it is in
    drop(bench, inner)
    assert inner.returns[0].value == THERE

    node_dies(bench)

    assert inner.returns[0].value is None
    check(bench, [outer, other])
