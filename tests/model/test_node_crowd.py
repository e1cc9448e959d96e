"""Many tasks that wait: whose turn it is, and who runs what it waits for itself."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import ProcessId
from sparkray_core.messages import (
    LeaseGranted,
    Message,
    RegisterProcess,
    RequestLeases,
    ReturnLeases,
    RunNested,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model import node_claims
from sparkray_core.model.effects import Send, StartWorker
from sparkray_core.model.events import ClockTicked, Received
from sparkray_core.model.invariants import check
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node_crowd import NESTING_S, OWNER_S
from sparkray_core.model.resources import short_of
from sparkray_core.testing.builders import a_node, lease_id, node_id, process_id, register_workers

DRIVER = process_id(node_id("a"), "driver")
ONE = {"CPU": 1000}


class Bench:
    """A node of one CPU, where one task may wait. Workers that are started come up at once."""

    def __init__(self, waiting: int = 1) -> None:
        self.node = a_node("a", NodeLimits(waiting_workers=waiting), CPU=1)
        self.now = 0.0
        register_workers(self.node, self.node.start(0.0), 0.0)
        self.say(DRIVER, RegisterProcess("driver", 1))
        self.counts: dict[ProcessId, int] = {}

    def say(self, sender: ProcessId, message: Message) -> list[Any]:
        """Who was granted a worker (owner, worker), and who was asked (worker, message)."""
        return self._event(Received(sender, message))

    def _event(self, event: Any) -> list[Any]:
        effects = self.node.handle(event, self.now)
        check(self.node)
        told: list[Any] = []
        for effect in effects:
            match effect:
                case StartWorker(worker):
                    told += self.say(worker, RegisterProcess("worker", 2))
                case Send(owner, LeaseGranted(_, worker)):
                    told.append((owner, worker))
                case Send(worker, RunNested()):
                    told.append((worker, effect.message))
                case _:
                    pass
        return told

    def after(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self._event(ClockTicked())

    def ask(self, owner: ProcessId, **more: Any) -> list[Any]:
        self.counts[owner] = self.counts.get(owner, 0) + 1
        return self.say(owner, RequestLeases([lease_id(owner, self.counts[owner])], more.pop("needs", ONE), [], **more))

    def chain(self, levels: int, **more: Any) -> list[ProcessId]:
        """Workers of which each but the first works for the one before; all wait, and only the last can help itself."""
        chain = [DRIVER]
        for _ in range(levels):
            told = self.ask(chain[-1], **more)
            if len(chain) > 1:
                told += self.say(chain[-1], WorkerBlocked())
            ((_, worker),) = told
            chain.append(worker)
        return chain[1:]


def test_who_waits_is_asked_to_run_it_when_all_places_are_taken() -> None:
    bench = Bench()
    first, second = bench.chain(2)

    assert bench.ask(second) == []  # no CPU is free
    assert bench.say(second, WorkerBlocked(7, helps=True)) == [(second, RunNested(7, ONE, 0))]

    assert bench.node.claims.available == {}  # its CPU is its own again
    assert bench.say(second, WorkerUnblocked()) == []
    bench.say(second, ReturnLeases([lease_id(second, 1)]))
    assert bench.say(second, WorkerBlocked(8, helps=True)) == []  # nobody wants anything
    assert bench.ask(second) == [(second, RunNested(8, ONE, 0))]
    assert set(bench.node.claims.crowd.waiting) == {first}


def test_below_that_a_child_has_a_process_of_its_own() -> None:
    bench = Bench(waiting=2)
    _, second = bench.chain(2)

    bench.ask(second)
    ((owner, third),) = bench.say(second, WorkerBlocked(1, helps=True))

    assert owner == second
    assert third != second


def test_who_cannot_any_more_is_passed_over_and_at_last_a_process_is_started() -> None:
    bench = Bench()
    first, second = bench.chain(2)
    bench.say(first, WorkerUnblocked())
    bench.ask(first)
    bench.say(first, WorkerBlocked(3, helps=True))
    bench.ask(second)

    assert bench.say(second, WorkerBlocked(5, helps=True)) == [(second, RunNested(5, ONE, 0))]  # who waits less long
    assert bench.say(second, WorkerBlocked()) == [(first, RunNested(3, ONE, 0))]
    ((_, third),) = bench.say(first, WorkerBlocked())

    assert third not in (first, second)


def test_a_task_that_may_not_run_again_is_not_put_at_risk() -> None:
    bench = Bench()
    _, second = bench.chain(2, retriable=False)

    bench.ask(second)
    ((owner, _),) = bench.say(second, WorkerBlocked(1, helps=True))

    assert owner == second


def test_tasks_without_cpu_are_not_counted() -> None:
    bench = Bench(waiting=0)

    chain = bench.chain(6, needs={})

    assert len(set(chain)) == 6


def test_children_go_before_others_once_many_wait() -> None:
    bench = Bench(waiting=2)
    first, second = bench.chain(2)
    assert bench.ask(DRIVER) == []
    bench.ask(second)

    ((owner, third),) = bench.say(second, WorkerBlocked())

    assert owner == second
    assert third not in (first, second)


def test_before_that_it_goes_by_arrival() -> None:
    bench = Bench(waiting=3)
    _, second = bench.chain(2)
    assert bench.ask(DRIVER) == []
    bench.ask(second)

    ((owner, _),) = bench.say(second, WorkerBlocked())

    assert owner == DRIVER


def test_a_worker_that_has_just_asked_is_given_time_to_wait_for_it() -> None:
    bench = Bench()
    _, second = bench.chain(2)
    bench.say(second, WorkerBlocked())  # nothing is left to be done
    ((_, third),) = bench.ask(DRIVER, needs={})  # without a CPU; so one is free while it runs
    assert bench.ask(DRIVER, needs={"CPU": 500}) != []
    fourth = next(claim.worker for claim in bench.node.claims.all.values() if claim.needs == {"CPU": 500})
    assert fourth is not None

    half = {"CPU": 500}
    assert bench.ask(fourth, needs=half) == []
    assert bench.after(OWNER_S / 2) == []
    ((owner, fifth),) = bench.after(OWNER_S)

    assert owner == fourth
    assert len({second, third, fourth, fifth}) == 4


def test_while_some_run_their_own_a_process_is_added_only_now_and_then() -> None:
    bench = Bench()
    half = {"CPU": 500}
    first, second = bench.chain(2, needs=half)
    bench.ask(second, needs=half)
    assert bench.say(second, WorkerBlocked(1, helps=True)) == [(second, RunNested(1, half, 0))]
    bench.say(second, ReturnLeases([lease_id(second, 1)]))
    bench.say(second, WorkerUnblocked())

    assert bench.ask(DRIVER, needs=half) == []
    assert bench.after(NESTING_S / 2) == []
    ((owner, third),) = bench.after(NESTING_S)

    assert owner == DRIVER
    assert third not in (first, second)


def test_asking_leases_back_does_not_look_at_all_who_wait_for_each_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tasks that wait for tasks there can be many, and all of theirs wait for the same CPU."""
    looks = 0

    def counted(*amounts: Any) -> list[str]:
        nonlocal looks
        looks += 1
        return short_of(*amounts)

    bench = Bench(waiting=60)
    chain = bench.chain(50)
    for owner in chain[1:-1]:
        bench.ask(owner)
    monkeypatch.setattr(node_claims, "short_of", counted)

    bench.ask(chain[-1])

    assert bench.node.claims.waiting_count() > 40
    assert looks < 200  # by each of theirs it was 2,500
