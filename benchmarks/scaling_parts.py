"""What `scaling.py` measures, for any number of nodes: an owner alone, and a shard of the GCS alone.

Each is a generator that yields between two steps, so that several can take turns in one process (`in_turns`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from sparkray_core.ids import (
    HEAD,
    FunctionId,
    LeaseId,
    NodeId,
    ProcessId,
    node_of,
    object_id,
    raylet_of,
    task_id,
)
from sparkray_core.messages import (
    ForgetRecords,
    LeaseGranted,
    NodeTable,
    PushTasks,
    RecordObjects,
    RequestLeases,
    TaskResults,
)
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.events import Received
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.owner import Function, Owner, Task
from sparkray_core.model.resources import from_floats
from sparkray_core.model.shard import Shard
from sparkray_core.testing.measured import Measured, OwnShare

CPUS = 4  # of each node
BATCH = 64  # tasks that are submitted together, as in run.local_process
SUBMIT_S = 8e-6  # between two of them
RECORDED = 10  # objects of each worker
DRIVER = ProcessId(NodeId(bytes(7) + b"\1") + b"driver..")
Steps = Iterator[None]


def in_turns(some: Iterable[Steps]) -> None:
    """All of them, a step of one and then of any other, so that each finds the processor's caches full of the others'
    data."""
    left, dice = list(some), Random(7)
    while left:
        number = int(dice.random() * len(left))
        try:
            next(left[number])
        except StopIteration:
            left[number] = left[-1]
            left.pop()


def owner_steps(nodes: int, per_cpu: int, seconds: float, measured: Measured) -> Steps:
    """An owner with a lease on each CPU, whose tasks are all submitted at once and answered as they end."""
    owner = Owner(DRIVER)
    shape = owner.leasing.shape(from_floats({"CPU": 1}), True)
    function, payload = Function(FunctionId(b"f" * 16), "f", b"pickle"), bytes(42)
    values: list[Any] = [b"\x80\x05N."]
    workers = [
        ProcessId((1 + number // CPUS).to_bytes(8, "big") + (1 + number).to_bytes(8, "big"))
        for number in range(nodes * CPUS)
    ]
    free = list(reversed(workers))
    busy_until = dict.fromkeys(workers, 0.0)
    asked: deque[LeaseId] = deque()
    ends: deque[tuple[float, ProcessId, int]] = deque()  # of tasks: all take as long, so they end as they began
    now, wake = 0.0, float("inf")

    def perform(effects: list[Effect]) -> None:
        nonlocal wake
        for effect in effects:
            if isinstance(effect, WakeAt):
                wake = min(wake, effect.at)
            elif isinstance(effect, Send) and isinstance(effect.message, RequestLeases):
                asked.extend(effect.message.leases)
            elif isinstance(effect, Send) and isinstance(effect.message, PushTasks):
                for task in effect.message.tasks:
                    busy_until[effect.to] = max(now, busy_until[effect.to]) + seconds
                    ends.append((busy_until[effect.to], effect.to, task[0]))

    def grant() -> Steps:
        while asked and free:
            worker = free.pop()
            granted = LeaseGranted(asked.popleft(), worker)
            perform(measured.step(owner.handle, raylet_of(node_of(worker)), granted, now))
            yield

    count = nodes * CPUS * per_cpu
    for first in range(1, count + 1, BATCH):
        numbers = range(first, min(first + BATCH, count + 1))
        tasks = [Task(n, function, payload, None, None, (Entry(DRIVER, n),), 3, shape) for n in numbers]
        perform(measured.step(owner.submit, tasks, now))
        now += len(tasks) * SUBMIT_S
        yield from grant()
    while ends:
        end, worker, number = ends.popleft()
        now = max(now, end)
        if wake <= now:
            wake = float("inf")
            perform(measured.step(owner.tick, now))
        perform(measured.step(owner.handle, worker, TaskResults([(number, values, None)], seconds), now))
        yield
        yield from grant()
    assert not owner.book.tasks, f"{len(owner.book.tasks)} tasks were not answered"


def one_by_one(nodes: int, most: int = 200) -> float:
    """Microseconds that a task takes its owner which is submitted by itself, while a worker on each CPU idles."""
    owner, measured, share = Owner(DRIVER), Measured(), OwnShare()
    shape, function = owner.leasing.shape(from_floats({"CPU": 1}), True), Function(FunctionId(b"f" * 16), "f", b"")
    workers = [ProcessId(n.to_bytes(8, "big") + n.to_bytes(8, "big")) for n in range(1, nodes * CPUS + 1)]

    def task(number: int) -> Task:
        return Task(number, function, b"", None, None, (Entry(DRIVER, number),), 3, shape)

    owner.submit([task(number) for number in range(1, 2 * len(workers) + 1)], 0.0)
    for worker in workers:
        owner.handle(raylet_of(node_of(worker)), LeaseGranted(next(iter(owner.leasing.requests)), worker), 0.0)
    while owner.book.tasks:
        for worker, lease in owner.leasing.by_worker.items():
            owner.handle(worker, TaskResults([(number, [b"value"], None) for number in lease.inflight], 2.5), 0.1)
    count = min(most, len(workers))
    for number in range(1, count + 1):
        measured.step(owner.submit, [task(2 * len(workers) + number)], 0.1)
    return measured.seconds * share.so_far() / count * 1e6


def shard_steps(nodes: int, measured: Measured) -> Steps:
    """A shard: a worker on each CPU records some objects, and then frees them, all workers in turn."""
    shard = Shard(0, "tcp://x:1")
    names = [NodeId((number + 1).to_bytes(8, "big")) for number in range(nodes)]
    infos = [NodeInfo(node, "tcp://x:1", "x", 1, {"CPU": CPUS * 1000}, {}, 1 << 30, "/x") for node in names]
    shard.handle(Received(HEAD, NodeTable([info.as_dict() for info in infos])), 0.0)
    owners = [ProcessId(node + number.to_bytes(8, "big")) for number in range(CPUS) for node in names]
    for number in range(RECORDED):
        for owner in owners:
            some = object_id(task_id(owner, number))
            recorded = Received(owner, RecordObjects(DRIVER, [], [], [(some, b"value", "")]))
            measured.step(shard.handle, recorded, 0.0)
            yield
    for number in range(RECORDED):
        for owner in owners:
            forgotten = Received(owner, ForgetRecords([object_id(task_id(owner, number))]))
            measured.step(shard.handle, forgotten, 0.0)
            yield
    assert not shard.strays
    assert not shard.records.count, f"{shard.records.count} records are left"
