"""What a node tells those who look at it: its processes, its claims, its store; and what ended workers left behind."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId, node_of

if TYPE_CHECKING:
    from sparkray_core.model.node import Node

KEPT_TASKS = 10_000  # records of tasks of ended workers, in all


class Former:
    """The records of workers that ended, the youngest ones; and the sums of their metrics, which must not shrink."""

    def __init__(self) -> None:
        self.left: deque[tuple[ProcessId, dict[str, Any]]] = deque()
        self.counters: dict[Any, Any] = {}  # of the user's metrics: key -> number, or numbers to be added one by one
        self.counted: deque[ProcessId] = deque(maxlen=KEPT_TASKS)  # whose they are
        self._tasks = 0

    def leave(self, worker: ProcessId, records: dict[str, Any]) -> None:
        """Keep what a worker tells in leaving."""
        counted = records.pop("counters", {})
        for key, value in counted.items():
            self.counters[key] = added(self.counters.get(key), value)
        if counted:
            self.counted.append(worker)
        if not records.get("ran"):
            return
        self.left.append((worker, records))
        self._tasks += len(records["ran"])
        while self._tasks > KEPT_TASKS and len(self.left) > 1:
            self._tasks -= len(self.left.popleft()[1]["ran"])


def added(one: Any, other: Any) -> Any:
    """The sum of two values of one metric: numbers, or lists of numbers (a histogram)."""
    if one is None:
        return other
    if isinstance(other, list):
        return [a + b for a, b in zip(one, other, strict=True)]
    return one + other


def describe(node: Node, sender: ProcessId, what: str, now: float) -> Any:
    """The answer to `Ask`; None to a question that is not known."""
    if what == "processes":
        return [(process, role) for process, role in node.processes.items()]
    if what == "workers":
        return _workers(node, now)
    if what == "claims":
        return _claims(node, now)
    if what == "objects":
        return _objects(node)
    if what == "former":
        return list(node.former.left)
    if what == "counters":
        return node.former.counters, list(node.former.counted)
    if what == "assigned":
        worker = node.workers.all.get(sender)
        claim = node.claims.of_worker(worker) if worker is not None else None
        return {} if claim is None else dict(claim.assigned)
    return None


def _workers(node: Node, now: float) -> dict[str, Any]:
    alive = []
    for worker in node.workers.all.values():
        claim = node.claims.of_worker(worker)
        actor = claim.actor.actor if claim is not None and claim.actor is not None else None
        alive.append(
            {
                "worker": worker.id,
                "pid": worker.pid,
                "state": worker.state.value,
                "for_s": now - worker.since,
                "actor": actor,
                "env": worker.env,
                "killed": worker.killed,
            }
        )
    dead = [(process, why) for process, why in node.gone.items() if node_of(process) == node.info.node]
    return {"alive": alive, "dead": dead}


def _claims(node: Node, now: float) -> dict[str, Any]:
    """Who has, or waits for, which part of the node."""
    listed = [
        {
            "lease": claim.lease,
            "actor": None if claim.actor is None else claim.actor.actor,
            "owner": claim.owner,
            "needs": claim.needs,
            "state": claim.state.value,
            "for_s": now - claim.since,
            "worker": claim.worker,
            "arrival": claim.arrival,
        }
        for claim in node.claims.all.values()
    ]
    return {
        "node": node.info.node,
        "host": node.info.host,
        "resources": dict(node.info.resources),
        "available": dict(node.claims.available),
        "claims": listed,
        "starting": node.workers.starting,
    }


def _objects(node: Node) -> dict[str, Any]:
    """What lies in the store, who reads it, and what is on its way in."""
    readers: dict[bytes, list[ProcessId]] = {}
    for process, held in node.store.pins.items():
        for some in held:
            readers.setdefault(some, []).append(process)
    return {
        "stored": [
            (stored.object, stored.size, stored.copy, stored.pins, readers.get(stored.object, []))
            for stored in node.store.stored.values()
        ],
        "unsealed": [(block.object, block.size, block.writer) for block in node.store.unsealed.values()],
        "pulls": [
            (pull.object, pull.source, pull.size, node.pulls.got(pull), pull.waits)
            for pull in node.pulls.pulls.values()
        ],
        "capacity": node.store.allocator.capacity,
        "used": node.store.allocator.used,
    }
