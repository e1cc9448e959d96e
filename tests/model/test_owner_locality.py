"""Which worker of an owner's runs a task whose arguments lie in the store of some node."""

from __future__ import annotations

import pytest

from sparkray_core.ids import NodeId, ProcessId
from sparkray_core.messages import STORED, PushTasks, RequestLeases
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Task
from tests.model.test_owner import ME, NODE, OTHER_NODE, REMOTE, WORKER, Bench

MB = 1_000_000
MEAN_S = 0.004
FIRST_OBJECT = 10_000  # no number of a task


@pytest.fixture
def bench() -> Bench:
    return Bench()


def over(bench: Bench, node: NodeId, size: int) -> Task:
    """A task over an object of that size on that node."""
    entry = Entry(ME, FIRST_OBJECT + bench.count)
    entry.value = (STORED, size, (node,))
    return bench.task(refs=[entry])


def given(effects: list[Effect], worker: ProcessId) -> list[int]:
    pushes = [e.message for e in effects if isinstance(e, Send) and e.to == worker]
    return [task[0] for push in pushes if isinstance(push, PushTasks) for task in push.tasks]


@pytest.mark.parametrize("workers", [(WORKER, REMOTE), (REMOTE, WORKER)])
def test_whatever_a_worker_was_asked_for_it_runs_what_lies_on_its_node(
    bench: Bench, workers: tuple[ProcessId, ProcessId]
) -> None:
    near, far = over(bench, NODE, MB), over(bench, OTHER_NODE, MB)
    bench.submit(near, far)

    effects = [*bench.lease(1, workers[0]), *bench.lease(2, workers[1])]

    assert (given(effects, WORKER), given(effects, REMOTE)) == ([near.count], [far.count])


@pytest.mark.parametrize(("size", "fetches"), [(10 * MB, True), (100 * MB, False)])
def test_idle_worker_fetches_arguments_only_where_that_is_sooner_than_to_wait(
    bench: Bench, size: int, fetches: bool
) -> None:
    near, far = over(bench, NODE, size), over(bench, OTHER_NODE, size)
    bench.submit(near, far)
    bench.lease(1, REMOTE)
    bench.lease(2, WORKER)
    bench.done(near, busy_s=MEAN_S)
    bench.submit(*[over(bench, NODE, size) for _ in range(30)])  # 120 ms for the one worker there

    effects = bench.done(far, worker=REMOTE, busy_s=MEAN_S)

    assert bool(given(effects, REMOTE)) == fetches


def test_a_request_says_how_many_bytes_lie_where(bench: Bench) -> None:
    entries = [Entry(ME, FIRST_OBJECT + number) for number in range(3)]
    for entry, size, nodes in zip(entries, (2 * MB, 3 * MB, 4 * MB), ((NODE,), (OTHER_NODE,), (NODE,)), strict=True):
        entry.value = (STORED, size, nodes)
    task = bench.task(refs=entries)

    (sent,) = bench.submit(task)

    assert isinstance(sent, Send)
    assert isinstance(sent.message, RequestLeases)
    assert (sent.message.prefer, sent.message.lying) == ([NODE, OTHER_NODE], [6 * MB, 3 * MB])


def test_a_request_without_large_arguments_names_no_node(bench: Bench) -> None:
    (sent,) = bench.submit(bench.task())

    assert isinstance(sent, Send)
    assert isinstance(sent.message, RequestLeases)
    assert (sent.message.prefer, list(sent.message.lying)) == ([], [])


def test_an_idle_worker_leaves_a_task_to_the_one_that_was_asked_for_where_its_arguments_lie(bench: Bench) -> None:
    near, far = over(bench, NODE, 40 * MB), over(bench, OTHER_NODE, MB)
    bench.submit(near, far)
    bench.lease(2, REMOTE)

    assert given(bench.done(far, worker=REMOTE, busy_s=MEAN_S), REMOTE) == []
    bench.now += 0.1
    assert given(bench.owner.tick(bench.now), REMOTE) == []
    bench.now += 0.1  # 40 MB at 0.2 GB/s
    assert given(bench.owner.tick(bench.now), REMOTE) == [near.count]
