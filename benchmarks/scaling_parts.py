"""What `scaling.py` measures beside sessions, for any number of nodes: idle workers of an owner, a shard of the GCS."""

from __future__ import annotations

from sparkray_core.ids import (
    HEAD,
    FunctionId,
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
    RecordObjects,
    TaskResults,
)
from sparkray_core.model.entries import Entry
from sparkray_core.model.events import Received
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.owner import Function, Owner, Task
from sparkray_core.model.resources import from_floats
from sparkray_core.model.shard import Shard
from sparkray_core.testing.measured import Measured, OwnShare

CPUS = 8  # of each node
RECORDED = 10  # objects of each worker
DRIVER = ProcessId(NodeId(bytes(7) + b"\1") + b"driver..")


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


def of_a_shard(nodes: int) -> float:
    """Microseconds that an object takes a shard: a worker on each CPU records some, and then frees them, all workers in
    turn."""
    shard, measured, share = Shard(0, "tcp://x:1"), Measured(), OwnShare()
    names = [NodeId((number + 1).to_bytes(8, "big")) for number in range(nodes)]
    infos = [NodeInfo(node, "tcp://x:1", "x", 1, {"CPU": CPUS * 1000}, {}, 1 << 30, "/x") for node in names]
    shard.handle(Received(HEAD, NodeTable([info.as_dict() for info in infos])), 0.0)
    owners = [ProcessId(node + number.to_bytes(8, "big")) for number in range(CPUS) for node in names]
    for number in range(RECORDED):
        for owner in owners:
            some = object_id(task_id(owner, number))
            recorded = Received(owner, RecordObjects(DRIVER, [], [], [(some, b"value", "")]))
            measured.step(shard.handle, recorded, 0.0)
    for number in range(RECORDED):
        for owner in owners:
            forgotten = Received(owner, ForgetRecords([object_id(task_id(owner, number))]))
            measured.step(shard.handle, forgotten, 0.0)
    assert not shard.strays
    assert not shard.records.count, f"{shard.records.count} records are left"
    return measured.seconds * share.so_far() / (len(owners) * RECORDED) * 1e6
