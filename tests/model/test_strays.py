"""Results that lie in a store before their owner knows of them, or after it has given up the run that made them."""

from __future__ import annotations

import pytest

from sparkray_core.ids import HEAD, NodeId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    STORED,
    AddBorrowers,
    CopyMade,
    FreeObjects,
    LeaseLost,
    NodeGone,
    ObjectMoved,
    ProcessGone,
    TaskResults,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import place
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.owner import Actor, Task
from tests.model.test_calls import restarting
from tests.model.test_lineage import HERE, THERE, items, streaming
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
)

THIRD_NODE = NodeId(b"node-3rd")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def freed(effects: list[Effect]) -> list[tuple[ProcessId, bytes]]:
    return [
        (e.to, o)
        for e in effects
        if isinstance(e, Send) and isinstance(e.message, FreeObjects)
        for o in e.message.objects
    ]


def running(bench: Bench, retries: int = 0) -> Task:
    task = bench.task(retries=retries)
    bench.submit(task)
    bench.lease(1, REMOTE)
    return task


def words(task: Task) -> tuple[CopyMade, ObjectMoved]:
    """As said of a result of a node that is drained."""
    some = task.returns[0].id
    return CopyMade(some, THIRD_NODE, OTHER_NODE), ObjectMoved(some, OTHER_NODE, THIRD_NODE)


def passes_on(bench: Bench, task: Task) -> list[Effect]:
    return [effect for word in words(task) for effect in bench.hear(word, raylet_of(THIRD_NODE))]


# ---------------------------------------------------------------------------------- passed on early
def test_a_result_that_its_node_passes_on_before_its_owner_hears_of_it_is_where_it_went(bench: Bench) -> None:
    task = running(bench)
    assert passes_on(bench, task) == []
    passes_on(bench, task)  # it says so until it is freed

    effects = bench.done(task, worker=REMOTE, value=THERE)

    assert task.returns[0].value == (STORED, 1000, (THIRD_NODE,))
    assert freed(effects) == [(raylet_of(OTHER_NODE), task.returns[0].id)]
    check_owner(bench.owner, task.returns)


def test_a_copy_that_was_made_before_its_owner_hears_of_the_result_is_freed_with_it(bench: Bench) -> None:
    task = running(bench)
    bench.hear(words(task)[0], raylet_of(THIRD_NODE))
    bench.owner.drop(task.returns)

    effects = bench.done(task, worker=REMOTE, value=THERE)

    assert {to for to, _ in freed(effects)} == {raylet_of(OTHER_NODE), raylet_of(THIRD_NODE)}
    check_owner(bench.owner)


@pytest.mark.parametrize("turned", [False, True])
def test_a_result_that_was_passed_on_twice_before_its_owner_hears_of_it_is_where_it_went_last(
    bench: Bench, turned: bool
) -> None:
    task = running(bench)
    some, last = task.returns[0].id, NodeId(b"node-4th")
    said = [CopyMade(some, THIRD_NODE, OTHER_NODE), CopyMade(some, last, THIRD_NODE)]
    for word in said[::-1] if turned else said:
        bench.hear(word, raylet_of(word.node))

    assert freed(bench.done(task, worker=REMOTE, value=THERE)) == []
    bench.hear(ObjectMoved(some, THIRD_NODE, last), raylet_of(THIRD_NODE))
    bench.hear(ObjectMoved(some, OTHER_NODE, THIRD_NODE), raylet_of(OTHER_NODE))

    assert task.returns[0].value is not None
    assert last in place(task.returns[0].value)[1]
    check_owner(bench.owner, task.returns)


def test_a_result_that_was_passed_on_to_two_before_its_owner_hears_of_it_is_on_both(bench: Bench) -> None:
    task = running(bench)
    some, last = task.returns[0].id, NodeId(b"node-4th")
    for to in (THIRD_NODE, last):
        bench.hear(ObjectMoved(some, OTHER_NODE, to), raylet_of(OTHER_NODE))

    effects = bench.done(task, worker=REMOTE, value=THERE)

    assert task.returns[0].value == (STORED, 1000, (THIRD_NODE, last))
    assert {to for to, _ in freed(effects)} == {raylet_of(OTHER_NODE)}
    check_owner(bench.owner, task.returns)


def test_what_was_passed_on_and_is_not_the_result_in_the_end_goes(bench: Bench) -> None:
    task = running(bench)
    passes_on(bench, task)

    effects = bench.done(task, worker=REMOTE, value=b"small")

    assert {to for to, _ in freed(effects)} == {raylet_of(OTHER_NODE), raylet_of(THIRD_NODE)}
    check_owner(bench.owner, task.returns)


def test_what_was_passed_on_of_another_run_goes_be_it_said_early_or_late(bench: Bench) -> None:
    task = running(bench, retries=1)
    bench.hear(words(task)[0], raylet_of(THIRD_NODE))
    bench.hear(LeaseLost(lease_id(1), "killed by SIGKILL"), raylet_of(OTHER_NODE))
    bench.lease(2, WORKER)

    effects = bench.done(task, worker=WORKER, value=HERE)
    assert freed(effects) == [(raylet_of(THIRD_NODE), task.returns[0].id)]
    effects = bench.hear(words(task)[1], raylet_of(OTHER_NODE))

    assert freed(effects) == [(raylet_of(OTHER_NODE), task.returns[0].id)]
    assert task.returns[0].value == HERE
    check_owner(bench.owner, task.returns)
    effects = bench.owner.drop(task.returns)
    assert {to for to, _ in freed(effects)} == {raylet_of(NODE), raylet_of(THIRD_NODE)}  # as its record goes


def test_an_item_that_is_passed_on_early_is_where_it_went(bench: Bench) -> None:
    task, stream = streaming(bench, retries=0)
    items(bench, task, 0, b"small")
    early = object_id(task_id(ME, task.count), 2)
    bench.hear(ObjectMoved(early, OTHER_NODE, THIRD_NODE), raylet_of(OTHER_NODE))

    items(bench, task, 1, THERE)

    (item,) = stream.unread()
    assert item.id == early
    assert item.value == (STORED, 1000, (THIRD_NODE,))
    check_owner(bench.owner, [item])


def test_a_copy_of_an_item_that_was_let_go_of_goes_though_its_generator_runs_on(bench: Bench) -> None:
    task, stream = streaming(bench, retries=0)
    items(bench, task, 0, THERE)
    item, _ = bench.owner.take(stream)
    assert item is not None
    bench.owner.drop([item])

    effects = bench.hear(CopyMade(item.id, THIRD_NODE, OTHER_NODE), raylet_of(THIRD_NODE))

    assert freed(effects) == [(raylet_of(THIRD_NODE), item.id)]


def test_what_was_passed_on_of_an_item_that_nobody_reads_goes_as_it_comes(bench: Bench) -> None:
    task, stream = streaming(bench, retries=0)
    bench.owner.drop_stream(stream)
    some = object_id(task_id(ME, task.count), 1)
    bench.hear(CopyMade(some, THIRD_NODE, OTHER_NODE), raylet_of(THIRD_NODE))

    effects = items(bench, task, 0, THERE)

    assert {to for to, _ in freed(effects)} == {raylet_of(OTHER_NODE), raylet_of(THIRD_NODE)}


def test_what_a_dead_node_took_is_still_where_it_was(bench: Bench) -> None:
    task = running(bench)
    bench.done(task, worker=REMOTE, value=THERE)
    bench.hear(NodeGone(THIRD_NODE, "power cut"))

    assert passes_on(bench, task) == []
    assert task.returns[0].value == THERE


# ---------------------------------------------------------------------------------- stored late
def called(bench: Bench, retries: int) -> tuple[Actor, Task]:
    actor = make_actor(bench)
    bench.hear(alive(actor, REMOTE), HEAD)
    task = bench.task(actor=actor, retries=retries)
    bench.submit(task)
    return actor, task


def test_what_a_call_stored_that_had_been_given_up_goes_though_its_failure_is_held(bench: Bench) -> None:
    actor, task = called(bench, retries=0)
    some = bench.owner.refs.export(task.returns[0])
    bench.hear(restarting(actor), HEAD)
    bench.hear(AddBorrowers([(some, SECOND)]), SECOND)

    assert freed(bench.hear(TaskResults([(task.count, [THERE], None)], 0.1), REMOTE)) == [(raylet_of(OTHER_NODE), some)]
    value = task.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "ActorUnavailableError")


def test_what_an_actor_stored_after_the_word_of_its_end_goes_when_its_process_is_dead(bench: Bench) -> None:
    actor, task = called(bench, retries=0)
    there = (raylet_of(OTHER_NODE), task.returns[0].id)
    assert freed(bench.hear(restarting(actor), HEAD)) == [there]

    assert freed(bench.hear(ProcessGone(REMOTE, "killed by SIGKILL"), HEAD)) == [there]
    assert freed(bench.hear(ProcessGone(REMOTE, "killed by SIGKILL"), HEAD)) == []
    check_owner(bench.owner, task.returns)


@pytest.mark.parametrize("same_node", [False, True])
def test_what_an_actor_stored_after_the_word_of_its_end_goes_once_the_call_was_made_again(
    bench: Bench, same_node: bool
) -> None:
    actor, task = called(bench, retries=1)
    bench.hear(restarting(actor), HEAD)
    worker = ProcessId(OTHER_NODE + b"worker-4") if same_node else WORKER
    bench.hear(alive(actor, worker, 1), HEAD)
    assert freed(bench.hear(ProcessGone(REMOTE, "killed by SIGKILL"), HEAD)) == []  # it may be written there again

    value = THERE if same_node else HERE
    effects = bench.hear(TaskResults([(task.count, [value], None)], 0.1), worker)

    assert freed(effects) == ([] if same_node else [(raylet_of(OTHER_NODE), task.returns[0].id)])
    assert task.returns[0].value == value
    check_owner(bench.owner, task.returns)


def test_the_answer_of_a_former_life_is_freed_once_the_call_was_made_again(bench: Bench) -> None:
    actor, task = called(bench, retries=1)
    bench.hear(restarting(actor), HEAD)
    bench.hear(alive(actor, WORKER, 1), HEAD)
    assert freed(bench.hear(TaskResults([(task.count, [THERE], None)], 0.1), REMOTE)) == []

    effects = bench.hear(TaskResults([(task.count, [HERE], None)], 0.1), WORKER)

    assert freed(effects) == [(raylet_of(OTHER_NODE), task.returns[0].id)]


def test_what_was_left_to_a_dead_node_is_forgotten(bench: Bench) -> None:
    actor, _ = called(bench, retries=0)
    bench.hear(restarting(actor), HEAD)
    assert bench.owner.calls.left
    bench.hear(NodeGone(OTHER_NODE, "power cut"))
    assert not bench.owner.calls.left
