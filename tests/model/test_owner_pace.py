"""How much work an owner gives its workers ahead, and how long their answers may lie, by who waits for them."""

from __future__ import annotations

import pytest

from sparkray_core.ids import ProcessId
from sparkray_core.messages import LeaseGranted, PushTasks, StealTasks
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Task
from tests.model.test_owner import NODE, REMOTE, SECOND, WORKER, Bench

MEAN_S = 0.004
LIMITS = Bench().owner.leasing.limits


class Waiting:
    """A wait for so many more."""

    def __init__(self, missing: int) -> None:
        self.missing = missing

    def entry_ready(self, entry: Entry) -> None:
        self.missing -= 1


@pytest.fixture
def bench() -> Bench:
    """Two workers that have each shown how long a task takes, and 1,000 tasks more: nobody waits for these yet."""
    bench = Bench()
    first, second = bench.task(), bench.task()
    bench.submit(first, second)
    bench.lease(1)
    bench.lease(2, SECOND)
    bench.submit(*[bench.task() for _ in range(1000)])
    bench.done(first, busy_s=MEAN_S)
    bench.done(second, worker=SECOND, busy_s=MEAN_S)
    return bench


def finish_all(bench: Bench) -> list[Effect]:
    """All that WORKER has; what it is given for it."""
    return bench.done(*bench.owner.leasing.by_worker[WORKER].inflight.values(), busy_s=MEAN_S)


def everything_is_awaited(bench: Bench, missing: int) -> None:
    waiting = Waiting(missing)
    for task in bench.owner.book.tasks.values():
        task.returns[0].waiters = [waiting]


def push(effects: list[Effect]) -> PushTasks:
    """What is pushed to WORKER."""
    (found,) = [e.message for e in effects if isinstance(e, Send) and e.to == WORKER]
    assert isinstance(found, PushTasks)
    return found


def queued(bench: Bench) -> list[Task]:
    (shape,) = bench.owner.leasing.shapes.values()
    return list(shape.queues[None].tasks)


def test_one_task_waits_behind_the_running_one_so_that_no_worker_idles_for_a_round_trip(bench: Bench) -> None:
    assert len(bench.owner.leasing.by_worker[WORKER].inflight) == 2


def test_results_that_only_a_wait_for_all_needs_may_lie_and_more_work_goes_ahead(bench: Bench) -> None:
    everything_is_awaited(bench, missing=1000)

    pushed = push(finish_all(bench))

    assert len(pushed.tasks) == LIMITS.patient_ahead_s / MEAN_S
    assert pushed.hold_s == LIMITS.hold_s


def test_nothing_lies_for_who_waits_for_a_few_or_may_come_to_wait(bench: Bench) -> None:
    assert push(finish_all(bench)).hold_s == 0  # nobody waits yet

    everything_is_awaited(bench, missing=1)
    pushed = push(finish_all(bench))

    assert pushed.hold_s == 0
    assert len(pushed.tasks) == 2


def test_one_impatient_wait_among_the_tasks_pushed_together_is_enough(bench: Bench) -> None:
    everything_is_awaited(bench, missing=1000)
    queued(bench)[5].returns[0].waiters = [Waiting(1)]

    assert push(finish_all(bench)).hold_s == 0


def test_a_borrower_that_asks_for_a_result_waits_for_just_that(bench: Bench) -> None:
    everything_is_awaited(bench, missing=1000)
    queued(bench)[0].returns[0].asked = [REMOTE]

    assert push(finish_all(bench)).hold_s == 0


def test_the_last_tasks_are_dealt_out_in_ever_smaller_hands(bench: Bench) -> None:
    everything_is_awaited(bench, missing=1000)
    hands = []
    while queued(bench):
        hands.append(len(push(finish_all(bench)).tasks))
        bench.done(*bench.owner.leasing.by_worker[SECOND].inflight.values(), worker=SECOND, busy_s=MEAN_S)

    assert hands == sorted(hands, reverse=True)
    assert hands[-1] <= 2


def test_answers_may_lie_while_every_worker_has_work_ahead_and_only_then(bench: Bench) -> None:
    everything_is_awaited(bench, missing=1000)
    finish_all(bench)
    bench.done(*bench.owner.leasing.by_worker[SECOND].inflight.values(), worker=SECOND, busy_s=MEAN_S)
    leasing = bench.owner.leasing

    seconds, under_way = leasing.lull()

    assert seconds == LIMITS.lull_s
    assert under_way == len(leasing.by_worker[WORKER].inflight) + len(leasing.by_worker[SECOND].inflight)

    last = queued(bench)[-1]
    bench.submit(bench.task(refs=[last.returns[0]]))  # which begins as soon as that is there
    assert leasing.lull() == (0.0, 0)


def test_answers_are_taken_as_they_come_once_nothing_is_queued(bench: Bench) -> None:
    while queued(bench):
        finish_all(bench)
        bench.done(*bench.owner.leasing.by_worker[SECOND].inflight.values(), worker=SECOND, busy_s=MEAN_S)

    assert bench.owner.leasing.lull() == (0.0, 0)


def test_only_as_many_leases_are_asked_for_as_those_that_are_there_promise(bench: Bench) -> None:
    (shape,) = bench.owner.leasing.shapes.values()
    queue = shape.queues[None]
    assert len(queue.requests) == LIMITS.first_requests  # beside two leases

    for lease in list(queue.requests)[:6]:
        bench.hear(LeaseGranted(lease, ProcessId(NODE + lease[-8:])))

    assert len(queue.leases) == 8
    assert len(queue.requests) == 16


def test_behind_a_long_task_nothing_is_taken_back_soon_where_only_a_wait_for_all_needs_it(bench: Bench) -> None:
    def taken_back(after_s: float) -> bool:
        bench.now += after_s
        effects = bench.owner.tick(bench.now)
        return any(isinstance(e, Send) and isinstance(e.message, StealTasks) for e in effects)

    everything_is_awaited(bench, missing=1000)
    finish_all(bench)
    bench.done(*bench.owner.leasing.by_worker[SECOND].inflight.values(), worker=SECOND, busy_s=MEAN_S)

    assert not taken_back(2 * LIMITS.stuck_after_s)
    assert taken_back(LIMITS.patient_ahead_s + LIMITS.hold_s)
