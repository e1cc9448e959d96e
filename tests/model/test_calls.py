"""What an owner does with calls to an actor that dies, restarts, or does not keep their order."""

from __future__ import annotations

import pytest

from sparkray_core.ids import HEAD, FunctionId
from sparkray_core.messages import FAILED, ActorChanged, CallRetried, FreeObjects, PushCalls, TaskResults, TaskTuple
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.methods import ANY_EXCEPTION, Method, decode, encode
from sparkray_core.model.owner import Actor, Function, Task
from tests.model.test_owner import RAYLET, SECOND, WORKER, Bench, alive, call, make_actor


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def actor(bench: Bench) -> Actor:
    actor = make_actor(bench)
    bench.hear(alive(actor), HEAD)
    return actor


def restarting(actor: Actor) -> ActorChanged:
    return ActorChanged(actor.id, "restarting", 1, None, "killed by SIGKILL", None)


def outcome(task: Task) -> object:
    value = task.returns[0].value
    return value[1] if isinstance(value, tuple) and value[0] == FAILED else value


def pushed(effects: list[Effect]) -> list[TaskTuple]:
    return [c for e in effects if isinstance(e, Send) and isinstance(e.message, PushCalls) for c in e.message.calls]


def test_calls_in_flight_without_a_retry_fail_when_the_actor_restarts(bench: Bench, actor: Actor) -> None:
    running = bench.task(actor=actor, retries=0)
    bench.submit(running)

    freed = bench.hear(restarting(actor), HEAD)

    assert freed == [Send(RAYLET, FreeObjects([entry.id for entry in running.returns]))]
    assert outcome(running) == "ActorUnavailableError"
    assert bench.hear(alive(actor, SECOND, 1), HEAD) == []


def test_calls_in_flight_with_a_retry_go_to_the_next_life_in_their_order_and_before_later_ones(
    bench: Bench, actor: Actor
) -> None:
    first, lost, third = (bench.task(actor=actor, retries=retries) for retries in (1, 0, -1))
    later = bench.task(actor=actor, retries=1)
    bench.submit(first, lost, third)
    bench.hear(restarting(actor), HEAD)
    bench.submit(later)

    effects = bench.hear(alive(actor, SECOND, 1), HEAD)

    assert effects == [Send(SECOND, PushCalls(actor.id, [call(first), call(third), call(later)]))]
    assert outcome(lost) == "ActorUnavailableError"
    assert [task.retries for task in (first, third, later)] == [0, -1, 0]


def test_a_call_made_while_it_restarts_fails_without_a_retry(bench: Bench, actor: Actor) -> None:
    bench.hear(restarting(actor), HEAD)
    call_now = bench.task(actor=actor, retries=0)
    bench.submit(call_now)

    assert outcome(call_now) == "ActorUnavailableError"
    assert not actor.queue
    assert not bench.owner.book.tasks


def test_a_call_that_waited_for_its_arguments_has_not_run_and_loses_nothing(bench: Bench) -> None:
    maker = bench.running()
    actor = make_actor(bench)
    bench.hear(alive(actor, SECOND), HEAD)
    waiting = bench.task(refs=[maker.returns[0]], actor=actor, retries=0)
    bench.submit(waiting)
    bench.hear(restarting(actor), HEAD)
    bench.hear(alive(actor, SECOND, 1), HEAD)

    assert [c[0] for c in pushed(bench.done(maker))] == [waiting.count]


def test_a_late_answer_of_a_former_life_does_not_count(bench: Bench, actor: Actor) -> None:
    task = bench.task(actor=actor, retries=1)
    bench.submit(task)
    bench.hear(restarting(actor), HEAD)
    bench.hear(alive(actor, SECOND, 1), HEAD)

    bench.hear(TaskResults([(task.count, [b"old"], None)], 0.1), WORKER)
    assert outcome(task) is None
    bench.hear(TaskResults([(task.count, [b"new"], None)], 0.1), SECOND)
    assert outcome(task) == b"new"


def test_a_cancelled_call_is_not_made_again(bench: Bench, actor: Actor) -> None:
    task = bench.task(actor=actor, retries=-1)
    bench.submit(task)
    bench.owner.cancel(task.count, False, True, bench.now)
    bench.hear(restarting(actor), HEAD)

    assert outcome(task) == "TaskCancelledError"


def test_retries_left_fail_with_the_actor_when_it_is_dead(bench: Bench, actor: Actor) -> None:
    running, queued = bench.task(actor=actor, retries=-1), bench.task(actor=actor, retries=-1)
    bench.submit(running)
    bench.hear(restarting(actor), HEAD)
    bench.submit(queued)
    bench.hear(ActorChanged(actor.id, "dead", 1, None, "no restart is left", None), HEAD)

    assert [outcome(task) for task in (running, queued)] == ["ActorDiedError"] * 2


def test_retries_used_within_a_life_are_not_there_after_its_death(bench: Bench, actor: Actor) -> None:
    method = Method("m", "", 3, ANY_EXCEPTION)
    task = bench.task(actor=actor, retries=3)
    task.function = Function(FunctionId(encode(method)), "A.m", b"")
    bench.submit(task)
    bench.hear(CallRetried(task.count), WORKER)
    bench.hear(restarting(actor), HEAD)

    (again,) = pushed(bench.hear(alive(actor, SECOND, 1), HEAD))

    assert task.retries == 1
    assert decode(again[1]) == method._replace(retries=1)


def test_an_actor_without_order_gets_what_is_ready(bench: Bench) -> None:
    maker = bench.running()
    actor = make_actor(bench)
    actor.ordered = False
    bench.hear(alive(actor, SECOND), HEAD)
    waiting, ready = bench.task(refs=[maker.returns[0]], actor=actor), bench.task(actor=actor)

    assert bench.submit(waiting, ready) == [Send(SECOND, PushCalls(actor.id, [call(ready)]))]
    assert [c[0] for c in pushed(bench.done(maker))] == [waiting.count]


def test_a_call_that_waits_out_of_order_can_be_cancelled_and_fails_with_its_actor(bench: Bench) -> None:
    maker = bench.running()
    actor = make_actor(bench)
    actor.ordered = False
    first, second = (bench.task(refs=[maker.returns[0]], actor=actor) for _ in range(2))
    bench.submit(first, second)

    bench.owner.cancel(first.count, False, True, bench.now)
    assert outcome(first) == "TaskCancelledError"
    bench.hear(ActorChanged(actor.id, "dead", 0, None, "killed", None), HEAD)
    assert outcome(second) == "ActorDiedError"
    bench.done(maker)
    assert not actor.queue
    assert not actor.waiting


@pytest.mark.parametrize(
    "method",
    [Method("m"), Method("m", "io"), Method("m", "", 2, ANY_EXCEPTION), Method("m", "io", -1, b"pickle\0with\0nulls")],
)
def test_a_method_arrives_as_it_was_called(method: Method) -> None:
    assert decode(encode(method)) == method
