"""What an owner tells those who look at it: its unanswered tasks, and where each is.

missing     waits for arguments
queued      waits for a worker on lease; a call: for its actor, or behind a call that waits for arguments
pushed      a worker has it, behind so many others of this owner
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sparkray_core.ids import ActorId, ProcessId
from sparkray_core.messages import Resources
from sparkray_core.model.entries import Entry, is_failure, is_stored, place
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
