"""A worker that gets a task for the one that it answered: the short way does what the long one would."""

from __future__ import annotations

from random import Random

import pytest

from sparkray_core.ids import FunctionId, LeaseId, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    STORED,
    LeaseGranted,
    LeaseLost,
    PushTasks,
    ReclaimLeases,
    RequestLeases,
    StealTasks,
    TaskResults,
    TasksReturned,
)
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.leasing import Leasing
from sparkray_core.model.owner import Function, Owner, Task
from tests.model.test_owner import ME, NODE, ONE_CPU, OTHER_NODE, RAYLET, Bench, F, pushed_by

G = Function(FunctionId(b"g" * 16), "g", b"pickle of g")


class _All:
    missing = 10_000

    def entry_ready(self, entry: Entry) -> None: ...


def pushes(*told: list[Effect]) -> list[PushTasks]:
    sent = [effect.message for effects in told for effect in effects if isinstance(effect, Send)]
    return [message for message in sent if isinstance(message, PushTasks)]


def session(seed: int, mean_s: float, steps: int = 250) -> list[list[Effect]]:
    """What an owner wishes for, through so many random events around some workers."""
    dice, owner, now, count = Random(seed), Owner(ME), 0.0, 0
    retries, waited_for = dice.choice((3, 3, 0)), dice.random() < 0.5
    lying = seed % 2 * 0.5  # the share of tasks whose argument lies on some node
    stored: list[Entry] = []
    for number, node in enumerate((NODE, OTHER_NODE, NodeId(b"thirdone")), 1_000_000):
        stored.append(Entry(ME, number))
        owner.put(stored[-1], (STORED, 1000, (node,)), [])
    asked: list[LeaseId] = []
    has: dict[ProcessId, list[int]] = {}
    seen: list[list[Effect]] = []

    def perform(effects: list[Effect]) -> None:
        seen.append(effects)
        if len(seen) % 10 == 0:
            check_owner(owner)
        for shape in owner.leasing.shapes.values():
            queues = shape.queues.values()
            coming = any(queue.leases.all or queue.requests for queue in queues)
            assert shape.hungry == (any(queue.leases.starving for queue in queues) or not coming)
        for effect in effects:
            if not isinstance(effect, Send):
                continue
            if isinstance(effect.message, RequestLeases):
                asked.extend(effect.message.leases)
            elif isinstance(effect.message, PushTasks):
                has[effect.to] += [task[0] for task in effect.message.tasks]
            elif isinstance(effect.message, StealTasks) and effect.to in has:
                kept = max(1, len(has[effect.to]) - effect.message.most)
                back, has[effect.to] = has[effect.to][kept:], has[effect.to][:kept]
                perform(owner.handle(effect.to, TasksReturned(back, blocked=False), now))

    for _ in range(steps):
        now += dice.expovariate(1 / mean_s)
        what, busy = dice.random(), [worker for worker, tasks in has.items() if tasks]
        if what < 0.15:
            shape, tasks = owner.leasing.shape(ONE_CPU, retries != 0), []
            for _ in range(dice.choice((1, 5, 60))):
                count += 1
                refs: list[tuple[int | str, Entry]] | None = (
                    [(0, dice.choice(stored))] if dice.random() < lying else None
                )
                task = Task(count, dice.choice((F, G)), b"args", refs, None, (Entry(ME, count),), retries, shape)
                task.returns[0].waiters = [_All()] if waited_for else None
                tasks.append(task)
            perform(owner.submit(tasks, now))
        elif what < 0.25 and asked and len(has) < 8:
            worker = ProcessId(dice.choice((NODE, OTHER_NODE)) + len(seen).to_bytes(8, "big"))
            has[worker] = []
            perform(owner.handle(RAYLET, LeaseGranted(asked.pop(0), worker), now))
        elif what < 0.85 and busy:
            worker = dice.choice(busy)
            ended = [has[worker].pop(0) for _ in range(dice.randint(1, len(has[worker])))]
            results = TaskResults([(number, [b"value"], None) for number in ended], len(ended) * mean_s)
            perform(owner.handle(worker, results, now))
        elif what < 0.88 and owner.leasing.leases:
            perform(owner.handle(RAYLET, ReclaimLeases([dice.choice(list(owner.leasing.leases))]), now))
        elif what < 0.9 and owner.leasing.leases:
            lease = dice.choice(list(owner.leasing.leases.values()))
            del has[lease.worker]
            perform(
                owner.handle(raylet_of(node_of(lease.worker)), LeaseLost(lease.id, "killed", "WorkerCrashedError"), now)
            )
        else:
            perform(owner.tick(now))
    return seen


@pytest.mark.parametrize("mean_s", [0.0001, 0.004, 0.03, 1.0])
def test_short_way_wishes_for_the_same_as_the_long_one(mean_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    short_ways = 0
    refill = Leasing._refill

    def counted(*args: object) -> bool:
        nonlocal short_ways
        done = refill(*args)  # type: ignore[arg-type]
        short_ways += done
        return done

    for seed in range(2):
        monkeypatch.setattr(Leasing, "_refill", counted)
        found = session(seed, mean_s)
        monkeypatch.setattr(Leasing, "_refill", lambda *args: False)
        assert found == session(seed, mean_s)
    assert short_ways


def test_answer_of_the_only_worker_with_room_changes_no_place_in_the_books() -> None:
    bench = Bench()
    tasks = [bench.task() for _ in range(8)]
    bench.submit(*tasks)
    workers = [ProcessId(NODE + b"worker-%d" % number) for number in range(4)]
    for number, worker in enumerate(workers, 1):
        bench.lease(number, worker)
    (queue,) = next(iter(bench.owner.leasing.shapes.values())).queues.values()
    before = list(queue.leases._loads[1])

    assert pushed_by(bench.done(tasks[0], worker=workers[0], busy_s=1.0)) == [tasks[4].count]

    assert list(queue.leases._loads[1]) == before
    assert not queue.leases.idle


def test_function_goes_to_a_worker_once_even_if_another_came_in_between() -> None:
    bench = Bench()
    tasks = [bench.task() for _ in range(3)]
    tasks[1].function = G
    bench.submit(*tasks)
    told = [bench.lease(1), bench.done(tasks[0], busy_s=1.0), bench.done(tasks[1], busy_s=1.0)]

    assert [[name for _, name, _ in push.functions] for push in pushes(*told)] == [["f"], ["g"], []]


def test_long_task_is_pushed_without_leave_to_hold_its_result() -> None:
    """Nothing is behind it that could be waited for, so nobody has to look at who waits."""
    bench = Bench()
    tasks = [bench.task() for _ in range(3)]
    bench.submit(*tasks)
    for task in tasks:
        task.returns[0].waiters = [_All()]
    bench.lease(1)

    first = PushTasks([], [(tasks[1].count, F.id, 1, b"args", None)], 0.0)
    assert pushes(bench.done(tasks[0], busy_s=1.0)) == [first]
