"""What an owner tells those who look at it: its unanswered tasks, and where each is.

missing     waits for arguments
queued      waits for a worker on lease; a call: for its actor, or behind a call that waits for arguments
pushed      a worker has it, behind so many others of this owner
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sparkray_core.ids import ActorId, ProcessId
from sparkray_core.messages import FAILED, Resources
from sparkray_core.model.entries import Entry, bare, is_failure, is_stored, place
from sparkray_core.model.owner import Owner
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.tasks import Task


class Pending(NamedTuple):
    """An unanswered task. Primitives only: it travels."""

    number: int
    name: str
    actor: ActorId | None
    state: str  # "missing", "queued", "pushed"
    worker: ProcessId | None
    ahead: int  # of this owner's tasks, on the worker or in the queue
    retries: int
    resources: Resources


def pending(owner: Owner, most: int | None = None) -> list[Pending]:
    """Unanswered tasks, the first submitted first; of so many at most."""
    pushed: dict[int, tuple[ProcessId, int]] = {}
    for lease in owner.leasing.leases.values():
        for position, count in enumerate(lease.inflight):
            pushed[count] = lease.worker, position
    for actor in owner.calls.actors.values():
        if actor.worker is not None:
            for position, count in enumerate(actor.inflight):
                pushed[count] = actor.worker, position
    ahead = _positions(owner)
    found: list[Pending] = []
    for task in owner.book.tasks.values():
        if most is not None and len(found) >= most:
            break
        worker, position = pushed.get(task.count, (None, ahead.get(task.count, 0)))
        found.append(_row(task, worker, position))
    return found


def in_hand(owner: Owner) -> tuple[int, int]:
    """How many of its unanswered tasks wait for a worker or an actor, and how many a worker has. O(leases, actors)."""
    shapes = owner.leasing.shapes.values()
    queued = sum(len(queue.tasks) for shape in shapes for queue in shape.queues.values())
    pushed = sum(len(lease.inflight) for lease in owner.leasing.leases.values())
    actors = owner.calls.actors.values()
    return queued + sum(len(actor.queue) for actor in actors), pushed + sum(len(actor.inflight) for actor in actors)


def _row(task: Task, worker: ProcessId | None, ahead: int) -> Pending:
    actor = None if task.actor is None else task.actor.id
    state = "pushed" if worker is not None else "missing" if task.missing else "queued"
    resources = {} if task.shape is None else dict(task.shape.resources)
    return Pending(task.count, task.function.name, actor, state, worker, ahead, task.retries, resources)


def _positions(owner: Owner) -> dict[int, int]:
    """Of each queued task: how many stand before it."""
    found: dict[int, int] = {}
    for shape in owner.leasing.shapes.values():
        for queue in shape.queues.values():
            found.update({task.count: position for position, task in enumerate(queue.tasks)})
    for actor in owner.calls.actors.values():
        before = len(actor.inflight)
        found.update({task.count: before + position for position, task in enumerate(actor.queue)})
    return found


def object_row(owner: Owner, entry: Entry) -> tuple[Any, ...]:
    """An object, as this process sees it: (id, own, is an actor, task status, size, nodes, held, pins, borrowers,
    inside others). Size: bytes, or -1 when it is not known here."""
    value = entry.value
    size, nodes = -1, ()
    if value is None:
        status = "PENDING" if entry.owner == owner.me and entry.count in owner.book.tasks else "WAITING"
    elif is_failure(value):
        status = "FAILED"
    else:
        status = "FINISHED"
        if is_stored(value):
            size, nodes = place(value)  # type: ignore[assignment]
        elif type(value) is bytes:
            size = len(value)
        else:
            size = sum(len(part) for part in value if isinstance(part, bytes))
    return (
        entry.id,
        entry.owner == owner.me,
        entry.index == ACTOR_INDEX,
        status,
        size,
        tuple(nodes),
        entry.held,
        entry.pins,
        dict(entry.borrowers or {}),
        len(entry.contained or ()),
    )


def whereabouts(owner: Owner, what: Entry | int) -> dict[str, Any]:
    """Where a task stands, by what it makes or by its number.

    "state" is FINISHED, FAILED, UNKNOWN, MISSING (an argument), QUEUED, PUSHED, CALL_QUEUED or CALL_PUSHED.
    """
    if isinstance(what, Entry):
        if what.value is not None:
            return _ready(what)
        if what.owner != owner.me:
            return {"state": "BORROWED", "owner": what.owner}
        number = what.count
    else:
        number = what
    task = owner.book.tasks.get(number)
    if task is None:
        return {"state": "UNKNOWN"}
    found: dict[str, Any] = {
        "number": number,
        "name": task.function.name,
        "retries": task.retries,
        "resources": {} if task.shape is None else dict(task.shape.resources),
        "where": () if task.shape is None else task.shape.where,
        "args": [entry.id for _, entry in task.refs or ()],
    }
    for entry in (entry for _, entry in task.refs or ()):
        owner.refs.export(entry)  # it will be asked for by its id
    if task.missing:
        waited = [entry.id for _, entry in task.refs or () if entry.value is None]
        found |= {"state": "MISSING", "waits_for": waited}
    elif task.actor is not None:
        found |= _of_call(task)
    else:
        found |= _of_task(owner, task)
    return found


def _ready(entry: Entry) -> dict[str, Any]:
    value = bare(entry.value)  # type: ignore[arg-type]
    if is_failure(value):
        failed = value[0] == FAILED
        return {"state": "FAILED", "error": value[1] if failed else "", "sentence": value[2] if failed else ""}
    if is_stored(value):
        size, nodes = place(value)
        return {"state": "FINISHED", "size": size, "nodes": list(nodes)}
    return {"state": "FINISHED", "size": -1, "nodes": []}


def _of_call(task: Task) -> dict[str, Any]:
    actor = task.actor
    assert actor is not None
    facts = {"actor": actor.id, "actor_state": actor.state, "why": actor.why}
    if task.count in actor.inflight:
        return {
            "state": "CALL_PUSHED",
            "worker": actor.worker,
            "ahead": list(actor.inflight).index(task.count),
            **facts,
        }
    before = [other.count for other in actor.queue]
    position = before.index(task.count) if task.count in before else 0
    blocking = next((other for other in actor.queue if other.missing), None)
    held = [] if blocking is None or blocking is task else [e.id for _, e in blocking.refs or () if e.value is None]
    return {"state": "CALL_QUEUED", "ahead": position + len(actor.inflight), "held_up_by": held, **facts}


def _of_task(owner: Owner, task: Task) -> dict[str, Any]:
    assert task.shape is not None
    for queue in task.shape.queues.values():
        for lease in queue.leases:
            if task.count in lease.inflight:
                return {"state": "PUSHED", "worker": lease.worker, "ahead": list(lease.inflight).index(task.count)}
        for position, other in enumerate(queue.tasks):
            if other is task:
                return {
                    "state": "QUEUED",
                    "ahead": position,
                    "workers": [lease.worker for lease in queue.leases],
                    "requests": sorted(queue.requests),
                }
    return {"state": "QUEUED", "ahead": 0, "workers": [], "requests": []}
