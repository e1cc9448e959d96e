"""Models and facts for tests, with everything that a test does not care about filled in."""

from __future__ import annotations

from sparkray_core.ids import LeaseId, NodeId, ObjectId, ProcessId, object_id, raylet_of, task_id
from sparkray_core.messages import Registered, RegisterProcess
from sparkray_core.model.effects import Effect, StartWorker
from sparkray_core.model.events import Received
from sparkray_core.model.limits import NodeLimits
from sparkray_core.model.node import Node
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.resources import from_floats
from sparkray_core.store.allocator import Allocator

STORE_BYTES = 1 << 20


def node_id(letter: str) -> NodeId:
    """The same for the same name: up to 8 letters."""
    return NodeId(letter.encode().rjust(8, b"."))


def process_id(node: NodeId, name: str) -> ProcessId:
    """Of a driver or guest. Workers' ids are counted by their node."""
    return ProcessId(node + name.encode().rjust(8, b"."))


def lease_id(owner: ProcessId, count: int) -> LeaseId:
    return LeaseId(task_id(owner, count))


def an_object(owner: ProcessId, count: int, index: int = 0) -> ObjectId:
    return object_id(task_id(owner, count), index)


def node_info(letter: str, *, store_bytes: int = STORE_BYTES, **resources: float) -> NodeInfo:
    return NodeInfo(
        node=node_id(letter),
        address=f"tcp://{letter}:1",
        host=letter,
        pid=1,
        resources=from_floats(resources or {"CPU": 2}),
        labels={},
        store_bytes=store_bytes,
        folder=f"/{letter}",
    )


def a_node(
    letter: str = "a", limits: NodeLimits | None = None, *, store_bytes: int = STORE_BYTES, **resources: float
) -> Node:
    """Of two CPUs unless others are given; not started."""
    info = node_info(letter, store_bytes=store_bytes, **resources)
    return Node(info, "test", Allocator(store_bytes), limits)


def register_workers(node: Node, effects: list[Effect], now: float) -> list[ProcessId]:
    """As if each worker that the effects start came up at once. Returns their ids."""
    started = [effect.worker for effect in effects if isinstance(effect, StartWorker)]
    for worker in started:
        answer = node.handle(Received(worker, RegisterProcess("worker", 100)), now)
        assert any(isinstance(getattr(effect, "message", None), Registered) for effect in answer)
    return started


def raylet(letter: str) -> ProcessId:
    return raylet_of(node_id(letter))
