"""What one process knows of objects: its own and those that it borrows.

An object is freed when nothing holds it any more. What holds it:

    ref        the process's one `ObjectRef` for it (the shell tells when it died)
    pins       tasks under way that have it as an argument, and values that contain it
    borrowers  other processes, each with a count of how often it was counted in (own objects only)

A borrower that gets an object inside a task's arguments is covered by the caller's pin until the task ends; what it
still holds then it reports, and the caller counts it in. A borrower that gets an object inside a value is counted in
by the sender before the value leaves (`HOLDS`). Either way nobody is ever between two chairs.
"""

from __future__ import annotations

from typing import Any, Protocol

from sparkray_core.ids import NodeId, ObjectId, ProcessId, object_id, task_id
from sparkray_core.messages import DEPENDENT, ERROR, FAILED, HOLDS, STORED, Value

MOST_NAMES = 8  # of a chain of tasks that failed for an argument's sake: the first and the last ones
ACTOR_INDEX = 0xFFFFFFFF  # an actor's handles are counted as references to this "return" of its creation
NOT_GIVEN = -1  # as an entry's `registered`: its keeper is to own it, and has not heard of it


class Waiter(Protocol):
    """Somebody in this process who waits for entries: a `get`, a `wait`, or a task with arguments to come."""

    missing: int  # entries to come until the wait is over; 1 for who takes them one by one

    def entry_ready(self, entry: Entry) -> None: ...


class Entry:
    """One object, as this process sees it. Made once per task on the hot path: slots, no id until it is asked for."""

    __slots__ = (
        "_id",
        "asked",
        "borrowers",
        "contained",
        "count",
        "held",
        "index",
        "owner",
        "pins",
        "registered",
        "seen",
        "value",
        "waiters",
        "weak",
    )

    def __init__(self, owner: ProcessId, count: int, index: int = 0) -> None:
        self.owner = owner
        self.count = count
        self.index = index
        self.value: Value | None = None  # None: not there yet
        self.held = True  # an ObjectRef of this process refers to it
        self.pins = 0
        self.borrowers: dict[ProcessId, int] | None = None
        self.waiters: list[Waiter] | None = None
        self.asked: list[ProcessId] | None = None  # own: borrowers to be told. borrowed: [] once we asked the owner
        self.contained: list[Entry] | None = None  # pinned for as long as this one lives
        self.registered = 0  # borrowed: how often the owner has counted us in. It must hear when we let go of all
        self.seen: bool  # somebody looked at its failure. Never set where there is none: it costs a success nothing
        self.weak: Any = None  # weak reference to the ObjectRef, once the id has been seen outside
        self._id: ObjectId | None = None

    @property
    def id(self) -> ObjectId:
        if self._id is None:
            self._id = object_id(task_id(self.owner, self.count), self.index)
        return self._id

    def __repr__(self) -> str:
        return f"Entry({self.count}.{self.index} {'ready' if self.value is not None else 'pending'})"


def bare(value: Value) -> Value:
    """The value without the wrapper that lists its references."""
    if type(value) is tuple and value[0] == HOLDS:
        return value[1]  # type: ignore[no-any-return]
    return value


def place(value: Value) -> tuple[int, tuple[NodeId, ...]]:
    """Of a stored value: its bytes, and the nodes that have it."""
    stored = bare(value)
    assert stored[0] == STORED, stored
    return stored[1], stored[2]  # type: ignore[return-value]


def is_failure(value: Value) -> bool:
    return type(value) is tuple and bare(value)[0] in (ERROR, FAILED, DEPENDENT)


def dependent(failure: Value, name: str) -> Value:
    """What becomes of a task when an argument's failure is this. The system's failures speak for themselves."""
    if failure[0] == ERROR:
        return (DEPENDENT, failure, (name,))
    if failure[0] == DEPENDENT:
        names = (name, *failure[2])  # type: ignore[misc]
        return (DEPENDENT, failure[1], names if len(names) <= MOST_NAMES else (*names[: MOST_NAMES - 2], *names[-2:]))
    return failure


def root(failure: Value) -> Value:
    """The failure itself, of whatever task's argument it was."""
    return failure[1] if failure[0] == DEPENDENT else failure  # type: ignore[return-value]


def is_stored(value: Value) -> bool:
    return type(value) is tuple and bare(value)[0] == STORED
