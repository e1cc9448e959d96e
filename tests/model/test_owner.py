"""The owner's model: what a driver or worker decides about its own tasks, leases, calls and objects."""

from __future__ import annotations

from typing import cast

import pytest

from sparkray_core.ids import HEAD, FunctionId, LeaseId, NodeId, ObjectId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import (
    AT_ONCE,
    FAILED,
    HOLDS,
    STORED,
    ActorChanged,
    AddBorrowers,
    AskObjects,
    CopyMade,
    CreateActor,
    DropBorrowers,
    EndActor,
    EndSession,
    FreeObjects,
    InheritObjects,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    NodeGone,
    ObjectReady,
    ProcessGone,
    PushCalls,
    PushTasks,
    ReclaimLeases,
    RequestLeases,
    RetireWorkers,
    ReturnLeases,
    StealTasks,
    TaskResults,
    TasksReturned,
    TaskTuple,
    Value,
    WatchActor,
)
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.legacy import HANDOVER_S
from sparkray_core.model.owner import Actor, Function, Owner, OwnerLimits, Task
from sparkray_core.model.references import ACTOR_INDEX

NODE = NodeId(b"node-one")
OTHER_NODE = NodeId(b"node-two")
ME = ProcessId(NODE + b"driver..")
WORKER = ProcessId(NODE + b"worker-1")
SECOND = ProcessId(NODE + b"worker-2")
REMOTE = ProcessId(OTHER_NODE + b"worker-3")
RAYLET = raylet_of(NODE)
F = Function(FunctionId(b"f" * 16), "f", b"pickle of f")
ONE_CPU = {"CPU": 1000}


def asks_for(*numbers: int, priority: int = 0) -> Send:
    """The owner's wish for leases for the function `f` of `Bench.task`."""
    leases = [lease_id(number) for number in numbers]
    return Send(RAYLET, RequestLeases(leases, ONE_CPU, [], priority=priority, name="f"))


class Bench:
    """An owner, a clock in the hand, and short words for what happens to it."""

    def __init__(self) -> None:
        self.owner = Owner(ME)
        self.now = 0.0
        self.count = 0

    def task(
        self,
        refs: list[Entry] | None = None,
        nested: list[Entry] | None = None,
        retries: int = 3,
        actor: Actor | None = None,
    ) -> Task:
        self.count += 1
        returns = [Entry(ME, self.count)]
        shape = None if actor else self.owner.leasing.shape(ONE_CPU, retries != 0)
        wired: list[tuple[int | str, Entry]] | None = list(enumerate(refs)) if refs else None
        return Task(self.count, F, b"args", wired, nested, returns, retries, shape, actor)

    def submit(self, *tasks: Task) -> list[Effect]:
        return self.owner.submit(tasks, self.now)

    def hear(self, message: object, sender: ProcessId = RAYLET) -> list[Effect]:
        return self.owner.handle(sender, message, self.now)

    def lease(self, number: int, worker: ProcessId = WORKER) -> list[Effect]:
        return self.hear(LeaseGranted(lease_id(number), worker))

    def done(
        self, *tasks: Task, worker: ProcessId = WORKER, value: Value = b"value", busy_s: float = 1e-5
    ) -> list[Effect]:
        return self.hear(TaskResults([(task.count, [value], None) for task in tasks], busy_s * len(tasks)), worker)

    def lends_on(self) -> tuple[Entry, Task]:
        """What came in an argument, is REMOTE's, and is in turn an argument of a task that is on WORKER now."""
        came = self.owner.refs.find(object_id(task_id(REMOTE, 5)))
        came.held = True
        nested = self.task(nested=[came])
        self.submit(nested)
        self.lease(1)
        return came, nested

    def running(self, retries: int = 3) -> Task:
        """A task that is on WORKER now, under lease 1."""
        task = self.task(retries=retries)
        self.submit(task)
        self.lease(1)
        return task


def pushed_by(effects: list[Effect]) -> list[int]:
    return [t[0] for e in effects if isinstance(e, Send) and isinstance(e.message, PushTasks) for t in e.message.tasks]


def lease_id(number: int) -> LeaseId:
    return LeaseId(task_id(ME, number))


def wire(task: Task) -> TaskTuple:
    return (task.count, F.id, 1, b"args", None)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_first_task_asks_for_a_lease_and_goes_to_its_worker(bench: Bench) -> None:
    task = bench.task()

    assert bench.submit(task) == [asks_for(1)]
    assert bench.lease(1) == [Send(WORKER, PushTasks([(F.id, "f", b"pickle of f")], [wire(task)]))]
    assert bench.done(task) == [WakeAt(bench.owner.leasing.limits.linger_s)]
    assert task.returns[0].value == b"value"
    assert not bench.owner.book.tasks


def test_result_that_is_stored_after_it_was_freed_is_freed_again(bench: Bench) -> None:
    """Its actor was given up while the call was on its way there."""
    task = bench.running(retries=0)
    bench.hear(LeaseLost(lease_id(1), "killed", "WorkerCrashedError"))
    assert task.returns[0].value is not None
    bench.owner.drop(task.returns)
    some = object_id(task_id(ME, task.count), 0)

    late = TaskResults([(task.count, [(STORED, 1000, (OTHER_NODE,))], None)], 0.1)
    assert Send(raylet_of(OTHER_NODE), FreeObjects([some])) in bench.hear(late, WORKER)


def test_the_function_travels_once_to_each_worker(bench: Bench) -> None:
    first, second = bench.running(), bench.task()
    bench.done(first)

    assert bench.submit(second) == [Send(WORKER, PushTasks([], [wire(second)]))]


def test_an_idle_lease_goes_back_after_a_while_and_not_before(bench: Bench) -> None:
    bench.done(bench.running())

    bench.now = 0.2
    assert ReturnLeases not in [type(e.message) for e in bench.owner.tick(bench.now) if isinstance(e, Send)]
    bench.now = 0.3
    assert bench.owner.tick(bench.now) == [Send(RAYLET, ReturnLeases([lease_id(1)]))]


def test_short_tasks_are_pushed_deep_and_long_ones_one_by_one(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=2**-17)
    many = [bench.task() for _ in range(800)]
    (push,) = [e for e in bench.submit(*many) if isinstance(e, Send) and isinstance(e.message, PushTasks)]
    assert isinstance(push.message, PushTasks)
    assert len(push.message.tasks) == 655  # 5 ms of work at 7.6 us each

    slow = Bench()
    slow.done(slow.running(), busy_s=1.0)
    tasks = [slow.task() for _ in range(3)]
    (push,) = [e for e in slow.submit(*tasks) if isinstance(e, Send) and isinstance(e.message, PushTasks)]
    assert push.message == PushTasks([], [wire(tasks[0])])


def test_a_task_waits_for_its_arguments_and_then_carries_their_values(bench: Bench) -> None:
    maker = bench.running()
    user = bench.task(refs=[maker.returns[0]])
    assert bench.submit(user) == []

    effects = bench.done(maker)

    arg = (0, b"value", object_id(task_id(ME, maker.count)))
    assert effects == [Send(WORKER, PushTasks([], [(user.count, F.id, 1, b"args", [arg])]))]


def test_a_failed_argument_fails_the_tasks_that_depend_on_it(bench: Bench) -> None:
    maker = bench.running()
    user = bench.task(refs=[maker.returns[0]])
    last = bench.task(refs=[user.returns[0]])
    bench.submit(user, last)

    failure: Value = (FAILED, "WorkerCrashedError", "it died")
    bench.done(maker, value=failure)

    assert [user.returns[0].value, last.returns[0].value] == [failure, failure]
    assert not bench.owner.book.tasks


def test_a_lost_worker_s_task_is_retried_alone_and_fails_when_no_retry_is_left(bench: Bench) -> None:
    task = bench.running(retries=1)

    assert bench.hear(LeaseLost(lease_id(1), "killed by SIGKILL")) == [
        Send(RAYLET, FreeObjects([task.returns[0].id])),  # it may have stored the result before it died
        asks_for(2),
    ]
    assert bench.lease(2, SECOND) == [Send(SECOND, PushTasks([(F.id, "f", b"pickle of f")], [wire(task)], AT_ONCE))]
    bench.hear(LeaseLost(lease_id(2), "killed by SIGKILL"))

    value = task.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "WorkerCrashedError")
    assert "killed by SIGKILL" in value[2]


def test_tasks_behind_the_one_that_crashed_lose_no_retry(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-5)
    tasks = [bench.task(retries=1) for _ in range(3)]
    bench.submit(*tasks)

    bench.hear(LeaseLost(lease_id(1), "killed by SIGSEGV"))

    assert [task.retries for task in tasks] == [0, 1, 1]
    pushed = bench.lease(2, SECOND)
    assert pushed[0] == Send(SECOND, PushTasks([(F.id, "f", b"pickle of f")], [wire(tasks[0])], AT_ONCE))


def test_those_behind_one_that_crashed_run_together_and_the_next_crash_tells_which_it_was(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-5)
    tasks = [bench.task(retries=1) for _ in range(4)]
    bench.submit(*tasks)
    bench.hear(LeaseLost(lease_id(1), "killed by SIGSEGV"))
    bench.lease(2, SECOND)
    later = bench.task(retries=1)
    assert bench.submit(later) == []  # nobody goes behind the first one

    assert bench.done(tasks[0], worker=SECOND, busy_s=1e-5) == [
        Send(SECOND, PushTasks([], [wire(task) for task in (*tasks[1:], later)], AT_ONCE))
    ]
    bench.done(tasks[1], worker=SECOND, busy_s=1e-5)  # it has left before the next one began
    bench.hear(LeaseLost(lease_id(2), "killed by SIGSEGV"))

    assert [task.retries for task in (*tasks, later)] == [0, 1, 0, 1, 1]
    assert [task.solo for task in (*tasks[2:], later)] == [True, False, False]


def test_care_ends_with_the_last_task_that_needs_it(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-5)
    tasks = [bench.task(retries=1) for _ in range(2)]
    bench.submit(*tasks)
    bench.hear(LeaseLost(lease_id(1), "killed by SIGSEGV"))
    bench.lease(2, SECOND)
    bench.done(tasks[0], worker=SECOND, busy_s=1e-5)

    behind, after = bench.task(), bench.task()
    assert bench.submit(behind) == [Send(SECOND, PushTasks([], [wire(behind)], AT_ONCE))]
    bench.done(tasks[1], worker=SECOND, busy_s=1e-5)
    assert bench.submit(after) == [Send(SECOND, PushTasks([], [wire(after)]))]


def test_tasks_that_may_not_run_twice_are_never_pushed_ahead(bench: Bench) -> None:
    bench.done(bench.running(retries=0), busy_s=1e-6)
    first, second = bench.task(retries=0), bench.task(retries=0)

    effects = bench.submit(first, second)

    assert Send(WORKER, PushTasks([], [wire(first)])) in effects
    assert second.count not in bench.owner.leasing.by_worker[WORKER].inflight


def test_a_blocked_worker_s_unbegun_tasks_go_elsewhere(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-5)
    first, second = bench.task(), bench.task()
    bench.submit(first, second)

    effects = bench.hear(TasksReturned([second.count], blocked=True), WORKER)

    assert effects == [asks_for(2)]
    assert bench.lease(2, SECOND) == [Send(SECOND, PushTasks([(F.id, "f", b"pickle of f")], [wire(second)]))]


def test_an_idle_worker_steals_half_from_a_loaded_one(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-3)  # 5 ahead
    tasks = [bench.task() for _ in range(8)]
    bench.submit(*tasks)
    bench.lease(2, SECOND)
    while rest := list(bench.owner.leasing.by_worker[SECOND].inflight.values()):
        bench.done(*rest, worker=SECOND, busy_s=1e-3)

    bench.now += 0.01
    effects = bench.owner.tick(bench.now)

    assert Send(WORKER, StealTasks(2)) in effects


def test_a_slow_task_does_not_hold_up_those_pushed_behind_it(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-3)  # 5 ahead
    slow, first, second = bench.task(), bench.task(), bench.task()
    bench.submit(slow, first, second)

    bench.now += 0.03
    assert Send(WORKER, StealTasks(2)) in bench.owner.tick(bench.now)
    effects = bench.hear(TasksReturned([first.count, second.count], blocked=False), WORKER)

    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, PushTasks)]
    assert [type(e.message) for e in effects if isinstance(e, Send)] == [RequestLeases]
    bench.lease(2, SECOND)
    assert list(bench.owner.leasing.by_worker[SECOND].inflight) == [first.count, second.count]


def worn_task(bench: Bench, most: int) -> Task:
    task = bench.task()
    task.shape = bench.owner.leasing.shape(ONE_CPU, True, worn_by=(F.id, most))
    return task


def test_a_worker_that_has_had_its_calls_is_retired_and_the_next_task_gets_another(bench: Bench) -> None:
    first, second, third = (worn_task(bench, 2) for _ in range(3))
    bench.submit(first)
    bench.lease(1)
    bench.done(first)
    request = asks_for(2)
    assert [e for e in bench.submit(second, third) if e == request] == [request]

    assert bench.done(second) == [Send(RAYLET, RetireWorkers([lease_id(1)]))]
    assert pushed_by(bench.lease(2, SECOND)) == [third.count]


def test_calls_that_a_worker_had_are_remembered_when_it_is_given_back_and_comes_again(bench: Bench) -> None:
    first, second = worn_task(bench, 2), worn_task(bench, 2)
    bench.submit(first)
    bench.lease(1)
    bench.done(first)
    bench.now = 1.0
    assert bench.owner.tick(bench.now) == [Send(RAYLET, ReturnLeases([lease_id(1)]))]
    bench.submit(second)
    bench.lease(2)

    assert bench.done(second) == [Send(RAYLET, RetireWorkers([lease_id(2)]))]
    assert not bench.owner.leasing.worn


def test_a_call_that_came_back_unbegun_is_not_one_of_the_worker_s(bench: Bench) -> None:
    bench.done(bench.running(), busy_s=1e-5)
    first, second = worn_task(bench, 2), worn_task(bench, 2)
    shape = first.shape
    assert shape is not None
    shape.mean_s = 1e-5
    bench.submit(first, second)
    bench.lease(2, SECOND)
    (lease,) = [lease for lease in bench.owner.leasing.leases.values() if lease.worker == SECOND]
    assert lease.left == 0
    bench.hear(TasksReturned([second.count], blocked=True), SECOND)
    assert lease.left == 1


def test_tasks_of_another_priority_ask_for_workers_of_their_own(bench: Bench) -> None:
    urgent = bench.task()
    urgent.shape = bench.owner.leasing.shape(ONE_CPU, True, priority=5)

    assert bench.submit(urgent) == [asks_for(1, priority=5)]


def test_a_reclaimed_lease_goes_back_as_soon_as_it_is_idle(bench: Bench) -> None:
    task = bench.running()
    assert bench.hear(ReclaimLeases([lease_id(1)])) == []
    more = bench.task()
    assert bench.submit(more) == [asks_for(2)]

    assert Send(RAYLET, ReturnLeases([lease_id(1)])) in bench.done(task)


def test_leases_that_nothing_is_left_for_are_taken_back(bench: Bench) -> None:
    first, second = bench.task(), bench.task()
    bench.submit(first, second)
    bench.lease(1)
    bench.done(first)  # and the second goes to the same worker

    effects = bench.done(second)

    assert Send(RAYLET, ReturnLeases([lease_id(2)])) in effects
    assert not bench.owner.leasing.requests
    assert Send(RAYLET, ReturnLeases([lease_id(2)])) in bench.lease(2, SECOND)  # the grant had been on its way


def test_a_refused_lease_fails_its_tasks_with_the_reason(bench: Bench) -> None:
    task = bench.task()
    bench.submit(task)

    bench.hear(LeaseRefused(lease_id(1), "no node has 1000 GPUs"))

    assert task.returns[0].value == (FAILED, "TaskUnschedulableError", "no node has 1000 GPUs")


def test_a_grant_that_nobody_waits_for_goes_back(bench: Bench) -> None:
    assert bench.lease(9) == [Send(RAYLET, ReturnLeases([lease_id(9)]))]


def test_a_stored_object_is_freed_on_every_node_that_has_it_once_nobody_holds_it(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    bench.hear(CopyMade(entry.id, OTHER_NODE, NODE), raylet_of(OTHER_NODE))

    assert bench.owner.drop([entry]) == [
        Send(RAYLET, FreeObjects([entry.id])),
        Send(raylet_of(OTHER_NODE), FreeObjects([entry.id])),
    ]
    assert not bench.owner.refs.stored


def test_an_argument_lives_until_its_task_is_done_even_if_its_ref_dies(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    task = bench.task(refs=[entry])
    bench.submit(task)
    bench.lease(1)

    assert bench.owner.drop([entry]) == []
    assert Send(RAYLET, FreeObjects([entry.id])) in bench.done(task)


def test_what_a_worker_still_holds_keeps_an_object_until_it_lets_go(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    task = bench.task(nested=[entry])
    bench.submit(task)
    bench.lease(1)
    bench.hear(TaskResults([(task.count, [b"value"], [entry.id])], 1e-5), WORKER)

    assert bench.owner.drop([entry]) == []
    assert bench.hear(DropBorrowers([(entry.id, WORKER)]), WORKER) == [Send(RAYLET, FreeObjects([entry.id]))]


def test_a_dead_borrower_holds_nothing(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(entry.id, REMOTE)]))
    assert bench.owner.drop([entry]) == []

    assert bench.hear(ProcessGone(REMOTE, "killed")) == [Send(RAYLET, FreeObjects([entry.id]))]


def test_what_a_dead_borrower_had_is_held_until_its_heir_has_said_that_it_inherited_it(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(entry.id, REMOTE)]))
    bench.owner.drop([entry])

    assert bench.hear(ProcessGone(REMOTE, "killed", SECOND)) == [WakeAt(0.0), WakeAt(bench.now + HANDOVER_S)]
    bench.hear(AddBorrowers([(entry.id, SECOND)]), SECOND)
    assert bench.owner.tick(bench.now + HANDOVER_S) == []
    assert bench.hear(DropBorrowers([(entry.id, SECOND)]), SECOND) == [Send(RAYLET, FreeObjects([entry.id]))]


def test_a_drop_that_overtakes_its_add_does_not_leave_the_object_held_for_ever(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    bench.owner.refs.export(entry)
    bench.hear(DropBorrowers([(entry.id, REMOTE)]))
    bench.hear(AddBorrowers([(entry.id, REMOTE)]))

    assert bench.owner.drop([entry]) == [Send(RAYLET, FreeObjects([entry.id]))]


def test_a_result_with_a_reference_inside_lets_the_owner_know_when_it_is_dropped(bench: Bench) -> None:
    theirs = object_id(task_id(WORKER, 5))
    task = bench.running()
    bench.done(task, value=(HOLDS, b"value", (theirs,)))
    assert theirs in bench.owner.refs.exported

    assert bench.owner.drop(task.returns) == [Send(WORKER, DropBorrowers([(theirs, ME)]))]


@pytest.mark.parametrize("overtaken", [True, False], ids=["its owner's end came before", "it was let go of before"])
def test_a_value_that_comes_too_late_is_declined_with_the_references_inside(bench: Bench, overtaken: bool) -> None:
    outer, inner = object_id(task_id(REMOTE, 5)), object_id(task_id(SECOND, 6))
    entry = bench.owner.refs.find(outer)
    entry.registered, entry.held = 1, True
    bench.owner.want([entry], 0.0)
    if overtaken:
        bench.hear(ProcessGone(REMOTE, "killed"))
    else:
        bench.owner.drop([entry])

    assert bench.hear(ObjectReady(outer, (HOLDS, b"value", (inner,))), REMOTE) == [
        Send(SECOND, DropBorrowers([(inner, ME)]))
    ]


def test_an_answer_that_nobody_waits_for_is_counted_as_any(bench: Bench) -> None:
    """Its actor was killed, and the answer was on its way: we are counted in for what is inside, and the worker says
    what it keeps of the arguments."""
    kept = Entry(ME, 99)
    bench.owner.put(kept, b"kept", [])
    actor = make_actor(bench)
    bench.hear(alive(actor))
    call = bench.task(actor=actor, nested=[kept])
    bench.submit(call)
    bench.owner.kill(actor, False, bench.now)
    inner = object_id(task_id(SECOND, 6))

    answer = TaskResults([(call.count, [(HOLDS, b"value", (inner,))], [kept.id])], 0.001)
    assert bench.hear(answer, WORKER) == [Send(SECOND, DropBorrowers([(inner, ME)]))]
    assert kept.borrowers == {WORKER: 1}


def test_what_only_the_caller_holds_is_lent_on_for_longer_than_the_caller_holds_it(bench: Bench) -> None:
    """Its word that it lets go may come to the owner before ours that another has it: so it says first that we do."""
    came, nested = bench.lends_on()
    told = bench.hear(TaskResults([(nested.count, [b"value"], [came.id])], 0.001), WORKER)
    effects: list[Effect] = []

    assert Send(REMOTE, AddBorrowers([(came.id, WORKER)])) in told
    lent_on = bench.owner.refs.lent_on([came])
    assert bench.owner.refs.outlives([came], lent_on, effects) == [came.id]
    assert effects == [Send(REMOTE, DropBorrowers([(came.id, ME)]))], "behind what it has been told of the worker"
    assert bench.owner.refs.lent_on([came]) == []
    assert bench.owner.refs.outlives([came], [], effects) is None


def test_what_came_back_from_one_whom_it_was_lent_to_is_counted_by_the_caller_too(bench: Bench) -> None:
    """Who sent it back has counted us in, and has no more than what we had from our caller: that word may come late."""
    came, nested = bench.lends_on()
    bench.hear(TaskResults([(nested.count, [(HOLDS, b"value", (came.id,))], None)], 0.001), WORKER)
    effects: list[Effect] = []

    assert bench.owner.refs.outlives([came], bench.owner.refs.lent_on([came]), effects) == [came.id]
    assert effects == []
    assert bench.owner.drop([came]) == []
    twice = [(came.id, ME), (came.id, ME)]
    assert Send(REMOTE, DropBorrowers(twice)) in bench.owner.drop(nested.returns)


def test_a_borrowed_object_is_asked_for_once_and_answers_all_who_wait(bench: Bench) -> None:
    theirs = object_id(task_id(REMOTE, 5))
    entry = bench.owner.refs.find(theirs)
    first, second = bench.task(refs=[entry]), bench.task(refs=[entry])

    assert bench.submit(first, second) == [Send(REMOTE, AskObjects([theirs]))]
    assert bench.hear(ObjectReady(theirs, b"value"), REMOTE) == [asks_for(1, 2)]


def test_an_object_whose_owner_died_fails_instead_of_waiting_for_ever(bench: Bench) -> None:
    entry = bench.owner.refs.find(object_id(task_id(REMOTE, 5)))
    task = bench.task(refs=[entry])
    bench.submit(task)

    bench.hear(NodeGone(OTHER_NODE, "silent for 3 s"))

    value = task.returns[0].value
    assert isinstance(value, tuple)
    assert value[:2] == (FAILED, "OwnerDiedError")


def test_the_heir_does_not_wait_for_what_was_not_recorded_and_is_lost(bench: Bench) -> None:
    """Its owner's node was cut off from the GCS; so it knew where the object was, and that is all that there is."""
    some = object_id(task_id(REMOTE, 5))
    entry = bench.owner.refs.find(some)
    entry.held = True
    bench.owner.want([entry], bench.now)
    bench.hear(ObjectReady(some, (STORED, 1000, (OTHER_NODE,))), REMOTE)
    bench.hear(InheritObjects(REMOTE, "its node is gone: silent", [], [], []), HEAD)
    bench.hear(ProcessGone(REMOTE, "its node is gone: silent", ME))
    bench.hear(NodeGone(OTHER_NODE, "silent"))

    failure, effects = bench.owner.missed(entry, [OTHER_NODE], bench.now)

    assert isinstance(failure, tuple)
    assert failure[:2] == (FAILED, "OwnerDiedError")
    assert effects == []
    assert bench.owner.drop([entry]) == []
    assert not bench.owner.refs.exported


def test_the_heir_owns_a_value_that_was_not_recorded_and_that_it_had_been_told(bench: Bench) -> None:
    """Its owner's node was cut off from the GCS, as above; who else has it says so here."""
    told, stored = object_id(task_id(REMOTE, 5)), object_id(task_id(REMOTE, 6))
    entries = [bench.owner.refs.find(told), bench.owner.refs.find(stored)]
    for entry in entries:
        entry.held = True
    bench.hear(ObjectReady(told, b"value"), REMOTE)
    bench.hear(ObjectReady(stored, (STORED, 1000, (OTHER_NODE,))), REMOTE)
    bench.hear(AddBorrowers([(told, SECOND), (stored, SECOND)]), SECOND)  # which heard of the death before us
    bench.hear(InheritObjects(REMOTE, "its node is gone: silent", [], [], []), HEAD)
    bench.now += HANDOVER_S + 1.0
    bench.owner.tick(bench.now)
    bench.owner.drop(entries)
    check_owner(bench.owner)

    assert list(bench.owner.refs.exported) == [told], "what lay in a store is gone with its owner"
    assert bench.hear(AskObjects([told]), SECOND) == [Send(SECOND, ObjectReady(told, b"value"))]
    bench.hear(DropBorrowers([(told, SECOND)]), SECOND)
    assert not bench.owner.refs.exported


def test_an_object_is_lost_with_its_only_node_and_lives_on_with_a_copy(bench: Bench) -> None:
    alone, copied = Entry(ME, 1), Entry(ME, 2)
    bench.owner.put(alone, (STORED, 10, (OTHER_NODE,)), [])
    bench.owner.put(copied, (STORED, 10, (OTHER_NODE, NODE)), [])

    bench.hear(NodeGone(OTHER_NODE, "silent"))

    assert isinstance(alone.value, tuple)
    assert alone.value[:2] == (FAILED, "ObjectLostError")
    assert copied.value == (STORED, 10, (NODE,))


def test_a_borrower_is_told_when_the_value_comes(bench: Bench) -> None:
    task = bench.running()
    asked = object_id(task_id(ME, task.count))
    bench.owner.refs.export(task.returns[0])
    assert bench.hear(AskObjects([asked]), REMOTE) == []

    assert Send(REMOTE, ObjectReady(asked, b"value")) in bench.done(task)


# ---------------------------------------------------------------------------------- actors
def test_who_asked_and_died_is_told_nothing_and_counted_in_nowhere(bench: Bench) -> None:
    """An owner of what is inside may be too young to have heard of that death, and would count on for ever."""
    task = bench.task()
    bench.submit(task)
    bench.hear(AskObjects([bench.owner.refs.export(task.returns[0])]), REMOTE)
    bench.hear(ProcessGone(REMOTE, "killed"))
    bench.hear(LeaseGranted(lease_id(1), WORKER))
    theirs = object_id(task_id(SECOND, 7))

    told = bench.hear(TaskResults([(1, [(HOLDS, b"value", (theirs,))], None)], 0.001), WORKER)

    assert not [effect for effect in told if isinstance(effect, Send) and isinstance(effect.message, AddBorrowers)]
    assert not [effect for effect in told if isinstance(effect, Send) and effect.to == REMOTE]


def make_actor(bench: Bench) -> Actor:
    bench.count += 1

    def message(actor_id: object) -> CreateActor:
        return CreateActor(actor_id, "A", F.id, b"blob", b"", None, {}, ONE_CPU, 0)  # type: ignore[arg-type]

    actor, effects = bench.owner.calls.create(bench.count, message)
    assert [type(e.message) for e in effects if isinstance(e, Send)] == [CreateActor]
    return actor


def alive(actor: Actor, worker: ProcessId = WORKER, incarnation: int = 0) -> ActorChanged:
    return ActorChanged(actor.id, "alive", incarnation, worker, "", None)


def call(task: Task) -> TaskTuple:
    return (task.count, F.id, 1, b"args", None)


def test_calls_wait_for_the_actor_and_then_go_in_one_message_in_order(bench: Bench) -> None:
    actor = make_actor(bench)
    calls = [bench.task(actor=actor) for _ in range(3)]
    assert bench.submit(*calls) == []

    assert bench.hear(alive(actor), HEAD) == [Send(WORKER, PushCalls(actor.id, [call(task) for task in calls]))]


def test_a_call_whose_argument_is_not_there_holds_up_the_calls_behind_it(bench: Bench) -> None:
    maker = bench.running()
    actor = make_actor(bench)
    bench.hear(alive(actor, SECOND), HEAD)
    first = bench.task(refs=[maker.returns[0]], actor=actor)
    second = bench.task(actor=actor)
    assert bench.submit(first, second) == []

    pushed = [e for e in bench.done(maker) if isinstance(e, Send) and isinstance(e.message, PushCalls)]

    assert isinstance(pushed[0].message, PushCalls)
    assert [c[0] for c in pushed[0].message.calls] == [first.count, second.count]


def test_every_call_to_a_dead_actor_fails_with_the_reason(bench: Bench) -> None:
    actor = make_actor(bench)
    early, late = bench.task(actor=actor), bench.task(actor=actor)
    bench.submit(early)

    bench.hear(ActorChanged(actor.id, "dead", 0, None, "killed by ray.kill()", None), HEAD)
    bench.submit(late)

    for task in (early, late):
        value = task.returns[0].value
        assert isinstance(value, tuple)
        assert value[:2] == (FAILED, "ActorDiedError")
        assert "killed by ray.kill()" in value[2]


def test_an_actor_ends_when_its_last_handle_goes(bench: Bench) -> None:
    actor = make_actor(bench)

    (effect,) = bench.owner.drop([actor.entry])

    assert effect == Send(HEAD, EndActor(actor.id, "all its handles went out of scope", restart=False, gently=True))


def test_an_actor_lives_on_while_another_process_has_a_handle(bench: Bench) -> None:
    actor = make_actor(bench)
    bench.hear(AddBorrowers([(actor.entry.id, REMOTE)]))

    assert bench.owner.drop([actor.entry]) == []
    (effect,) = bench.hear(DropBorrowers([(actor.entry.id, REMOTE)]), REMOTE)
    assert isinstance(effect, Send)
    assert isinstance(effect.message, EndActor)


# ---------------------------------------------------------------------------------- the end
def test_whatever_waits_fails_when_the_session_ends_and_so_does_what_comes_later(bench: Bench) -> None:
    actor = make_actor(bench)
    task, called, borrowed = bench.task(), bench.task(actor=actor), bench.owner.refs.find(ObjectId(REMOTE + bytes(12)))
    bench.submit(task, called)
    bench.owner.want([borrowed], bench.now)

    bench.hear(EndSession("the driver left"), RAYLET)
    later = bench.task()
    bench.submit(later)

    values = [task.returns[0].value, called.returns[0].value, borrowed.value, later.returns[0].value]
    assert [value[1] for value in values if isinstance(value, tuple)] == ["RaySystemError"] * 4


# ---------------------------------------------------------------------------------- found by the simulator
def test_a_borrowed_object_is_forgotten_when_it_is_let_go(bench: Bench) -> None:
    entry = bench.owner.refs.find(object_id(task_id(REMOTE, 5)))
    entry.held = True

    bench.owner.drop([entry])

    assert not bench.owner.refs.exported


def test_an_object_that_came_in_two_results_is_let_go_of_twice_and_only_at_the_end(bench: Bench) -> None:
    theirs = object_id(task_id(REMOTE, 5))
    bench.done(first := bench.running(), value=(HOLDS, b"value", (theirs,)))
    bench.submit(second := bench.task())

    effects = bench.done(second, value=(HOLDS, b"value", (theirs,)))

    assert DropBorrowers not in [type(e.message) for e in effects if isinstance(e, Send)]
    assert bench.owner.drop(first.returns) == []
    assert bench.owner.drop(second.returns) == [Send(REMOTE, DropBorrowers([(theirs, ME), (theirs, ME)]))]


def test_an_object_that_its_owner_freed_is_said_to_be_lost_and_leaves_no_trace(bench: Bench) -> None:
    freed = object_id(task_id(ME, 5))

    (answer,) = bench.hear(AskObjects([freed]), REMOTE)

    assert isinstance(answer, Send)
    assert isinstance(answer.message, ObjectReady)
    assert answer.message.value[1] == "ObjectLostError"
    assert not bench.owner.refs.exported


def test_who_asks_for_a_put_object_with_references_inside_is_counted_in_for_them(bench: Bench) -> None:
    inner, outer = Entry(ME, 1), Entry(ME, 2)
    bench.owner.put(inner, b"inner", [])
    bench.owner.put(outer, b"outer", [inner])
    bench.owner.refs.export(outer)

    value = (HOLDS, b"outer", (inner.id,))
    assert bench.hear(AskObjects([outer.id]), REMOTE) == [Send(REMOTE, ObjectReady(outer.id, value))]
    assert inner.borrowers == {REMOTE: 1}


def test_a_dead_process_cannot_be_counted_in_by_word_that_was_on_its_way(bench: Bench) -> None:
    entry = Entry(ME, 77)
    bench.owner.put(entry, (STORED, 1000, (NODE,)), [])
    bench.owner.refs.export(entry)
    bench.hear(ProcessGone(REMOTE, "killed"))
    bench.hear(AddBorrowers([(entry.id, REMOTE)]))

    assert bench.owner.drop([entry]) == [Send(RAYLET, FreeObjects([entry.id]))]


def test_what_waits_for_a_call_fails_with_it_and_not_with_the_next_event(bench: Bench) -> None:
    actor = make_actor(bench)
    called = bench.task(actor=actor)
    user = bench.task(refs=[called.returns[0]])
    bench.submit(called, user)

    bench.hear(ActorChanged(actor.id, "dead", 0, None, "killed", None), HEAD)

    assert user.returns[0].value == called.returns[0].value
    assert not bench.owner.book.tasks


def test_a_call_that_fails_with_its_argument_lets_those_behind_it_go(bench: Bench) -> None:
    maker = bench.running()
    actor = make_actor(bench)
    bench.hear(alive(actor, SECOND), HEAD)
    first, second = bench.task(refs=[maker.returns[0]], actor=actor), bench.task(actor=actor)
    bench.submit(first, second)

    effects = bench.done(maker, value=(FAILED, "WorkerCrashedError", "it died"))

    assert Send(SECOND, PushCalls(actor.id, [call(second)])) in effects


def test_a_handle_that_comes_back_is_counted_as_the_first_one_was(bench: Bench) -> None:
    handle = object_id(task_id(REMOTE, 5), ACTOR_INDEX)
    for _ in range(2):
        entry = bench.owner.refs.find(handle)
        entry.held, entry.registered = True, 1
        actor, effects = bench.owner.calls.known(entry)

        assert actor.entry is entry
        assert effects == [Send(HEAD, WatchActor(actor.id))]
        assert bench.owner.drop([entry]) == [Send(REMOTE, DropBorrowers([(handle, ME)]))]
    assert not bench.owner.calls.actors


def test_an_alarm_that_rings_in_time_is_not_asked_for_again_at_the_same_time(bench: Bench) -> None:
    bench.now = 7.931339  # plus 0.005 and minus itself it is less than 0.005
    bench.done(bench.running(), busy_s=1e-3)
    bench.submit(*[bench.task() for _ in range(8)])
    bench.lease(2, SECOND)
    bench.done(*list(bench.owner.leasing.by_worker[SECOND].inflight.values()), worker=SECOND, busy_s=1e-3)
    linger_s = bench.owner.leasing.limits.linger_s
    for moment in (0.005, linger_s):
        bench.now = 7.931339 + moment
        assert WakeAt(bench.now) not in bench.owner.tick(bench.now)


def test_a_process_is_needed_while_it_has_tasks_leases_or_what_others_borrow(bench: Bench) -> None:
    assert not bench.owner.needed
    bench.submit(task := bench.task())
    assert bench.owner.needed
    bench.lease(1)
    bench.done(task)
    assert bench.owner.needed
    bench.now += 1.0
    bench.owner.tick(bench.now)
    assert not bench.owner.needed
    bench.owner.put(entry := Entry(ME, 77), b"value", [])
    bench.owner.refs.export(entry)
    bench.hear(AddBorrowers([(entry.id, REMOTE)]))
    assert bench.owner.needed


def test_a_queued_task_fails_when_its_argument_is_lost_before_it_is_pushed(bench: Bench) -> None:
    maker, alone = bench.running(), Entry(ME, 77)
    bench.owner.put(alone, (STORED, 10, (OTHER_NODE,)), [])
    actor = make_actor(bench)
    task, called = bench.task(refs=[alone]), bench.task(refs=[alone], actor=actor)
    bench.submit(task, called)

    bench.hear(NodeGone(OTHER_NODE, "silent"))
    effects = [*bench.lease(2, SECOND), *bench.done(maker), *bench.hear(alive(actor, SECOND), HEAD)]

    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, (PushTasks, PushCalls))]
    assert task.returns[0].value == called.returns[0].value == alone.value


# ---------------------------------------------------------------------------------- memory
def _out_of_memory(bench: Bench, number: int) -> list[Effect]:
    return bench.hear(LeaseLost(lease_id(number), "2 GiB of 2 GiB", "OutOfMemoryError"))


def test_a_task_ended_for_memory_runs_again_so_often_and_then_fails_with_the_reason(bench: Bench) -> None:
    task = bench.running(retries=1)  # its retries are for crashes
    for number in range(1, OwnerLimits().oom_retries + 1):
        asked = asks_for(number + 1)
        assert asked in _out_of_memory(bench, number)
        bench.lease(number + 1)
        assert task.returns[0].value is None
    assert task.retries == 1
    _out_of_memory(bench, OwnerLimits().oom_retries + 1)
    kind, name, sentence = cast("tuple[int, str, str]", task.returns[0].value)
    assert (kind, name) == (FAILED, "OutOfMemoryError")
    for words in ("f()", "4 times", "task_oom_retries", "2 GiB of 2 GiB"):
        assert words in sentence


def test_a_task_without_retries_that_was_ended_for_memory_fails_at_once(bench: Bench) -> None:
    task = bench.running(retries=0)
    _out_of_memory(bench, 1)
    assert cast("tuple[int, str, str]", task.returns[0].value)[:2] == (FAILED, "OutOfMemoryError")


def test_who_was_pushed_behind_a_task_that_is_ended_for_memory_loses_nothing(bench: Bench) -> None:
    first, second = bench.task(retries=1), bench.task(retries=1)
    bench.submit(first)
    bench.lease(1)
    bench.done(first)
    third, fourth = bench.task(retries=1), bench.task(retries=1)
    bench.submit(second, third, fourth)
    _out_of_memory(bench, 1)
    assert [task.retries for task in (second, third, fourth)] == [1, 1, 1]
    assert all(task.returns[0].value is None for task in (second, third, fourth))
