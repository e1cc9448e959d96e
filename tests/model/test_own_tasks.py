"""A worker's own tasks, that it runs itself instead of handing them out."""

from __future__ import annotations

from typing import Any

import pytest

from sparkray_core.ids import FunctionId, LeaseId, raylet_of, task_id
from sparkray_core.messages import FAILED, CancelTask, LeaseGranted, RequestLeases, ReturnLeases
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.owner import Function, Owner, Task
from sparkray_core.testing.builders import node_id, process_id

ME = process_id(node_id("a"), "me")
WORKER = process_id(node_id("a"), "w")
RAYLET = raylet_of(node_id("a"))
F = Function(FunctionId(b"f"), "f", b"pickle of f")
ONE = {"CPU": 1000}


class Bench:
    def __init__(self) -> None:
        self.owner = Owner(ME)
        self.count = 0

    def submit(self, resources: dict[str, int] = ONE, retries: int = 3, **more: Any) -> Task:
        self.count += 1
        shape = self.owner.leasing.shape(resources, retries != 0, **more)
        task = Task(self.count, F, b"args", None, None, [Entry(ME, self.count)], retries, shape)
        self.owner.submit([task], 0.0)
        check_owner(self.owner)
        return task

    def take(self, *tasks: Task) -> tuple[Task | None, list[Effect]]:
        taken, effects = self.owner.take_own({task.count for task in tasks}, ONE, "", 0, 0.0)
        check_owner(self.owner)
        return (None if taken is None else taken[0]), effects


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_youngest_is_taken_and_leases_that_nobody_needs_any_more_go_back(bench: Bench) -> None:
    first, second, third = (bench.submit() for _ in range(3))
    asked = [LeaseId(task_id(ME, number)) for number in (1, 2, 3)]

    assert bench.take(first, second) == (second, [])
    assert bench.take(first, second) == (first, [])
    assert bench.take(first, second) == (None, [])
    assert bench.take(third) == (third, [Send(RAYLET, ReturnLeases(asked))])
    assert bench.owner.own.could("") is False


def test_what_a_worker_has_already_is_left_to_it(bench: Bench) -> None:
    first, second = bench.submit(), bench.submit()

    bench.owner.handle(RAYLET, LeaseGranted(LeaseId(task_id(ME, 1)), WORKER), 0.0)

    assert bench.take(first) == (None, [])
    assert bench.take(second)[0] is second


@pytest.mark.parametrize(
    "kind",
    [
        {"retries": 0},
        {"resources": {"CPU": 500}},
        {"resources": {"CPU": 1000, "GPU": 1000}},
        {"env": "other"},
        {"priority": 1},
        {"worn_by": (F.id, 5)},
    ],
)
def test_what_is_of_another_kind_is_not_taken(bench: Bench, kind: dict[str, Any]) -> None:
    task = bench.submit(**kind)

    assert bench.take(task)[0] is None


def test_its_results_settle_it(bench: Bench) -> None:
    task = bench.submit()
    bench.take(task)

    assert bench.owner.ran_own((task.count, [b"value"], None), 1.0) == []

    assert task.returns[0].value == b"value"
    assert not bench.owner.book.tasks
    check_owner(bench.owner)


def test_one_that_would_have_ended_its_process_is_run_again_elsewhere(bench: Bench) -> None:
    task = bench.submit(retries=1)
    bench.take(task)

    effects = bench.owner.lost_own(task.count, "it exits", 1.0)

    assert [type(effect.message) for effect in effects if isinstance(effect, Send)] == [RequestLeases]
    assert task.retries == 0
    assert bench.take(task)[0] is None  # not here again
    check_owner(bench.owner)


def test_and_fails_when_no_retry_is_left(bench: Bench) -> None:
    task = bench.submit(retries=1)
    bench.take(task)
    task.retries = 0

    bench.owner.lost_own(task.count, "it exits", 1.0)

    value: Any = task.returns[0].value
    assert value[:2] == (FAILED, "WorkerCrashedError")
    assert "it exits" in value[2]


def test_cancelling_one_is_this_process_s_own_affair(bench: Bench) -> None:
    task = bench.submit()
    bench.take(task)

    assert bench.owner.cancel(task.count, False, True, 1.0) == [Send(ME, CancelTask(task.count, False, True))]
