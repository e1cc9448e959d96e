"""Processes of the simulator: a worker that runs tasks for virtual seconds, and the interface that both kinds share.

They speak the real messages, so that the real owner's model can take `sim_owner.SimOwner`'s place.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass
from typing import Protocol, Union

from sparkray_core.ids import HEAD, NodeId, ObjectId, ProcessId, node_of, object_id, owner_of, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    STORED,
    ActorFailed,
    ActorReady,
    AllocateObject,
    EndSession,
    ExitWorker,
    Message,
    ObjectAllocated,
    ObjectRefused,
    PushTasks,
    RegisterProcess,
    SealObjects,
    StartActor,
    StopActor,
    TaskResults,
    Value,
    WorkerBlocked,
    WorkerUnblocked,
)
from sparkray_core.model.effects import Send, WakeAt

_WORK = struct.Struct("!ddI")


@dataclass(frozen=True, slots=True)
class Leave:
    """The process ends itself."""

    why: str


ProcessEffect = Union[Send, WakeAt, Leave]  # noqa: UP007 - as in messages.py


class SimProcess(Protocol):
    @property
    def id(self) -> ProcessId: ...
    def start(self, now: float) -> list[ProcessEffect]: ...
    def handle(self, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]: ...
    def tick(self, now: float) -> list[ProcessEffect]: ...


@dataclass(frozen=True, slots=True)
class Work:
    """What a simulated task, or actor's constructor, does. It travels as the payload."""

    run_s: float
    blocked_s: float = 0.0  # in `get`, before it runs on. Of a constructor: below zero, it raises
    size: int = 0  # bytes of the result in the store; 0: a small one, inline

    def pack(self) -> bytes:
        return _WORK.pack(self.run_s, self.blocked_s, self.size)

    @classmethod
    def unpack(cls, payload: Value) -> Work:
        assert isinstance(payload, bytes)
        return cls(*_WORK.unpack(payload))


def pattern(some: ObjectId, size: int) -> bytes:
    """What the object's bytes are."""
    return (some * (size // len(some) + 1))[:size]


class SimWorker:
    """Runs what it is pushed, one after the other."""

    def __init__(self, me: ProcessId, segment: bytearray) -> None:
        self._id = me
        self.raylet = raylet_of(node_of(me))
        self.segment = segment
        self.queue: deque[tuple[ProcessId, int, Work]] = deque()
        self.current: tuple[ProcessId, int, Work] | None = None
        self.due: float | None = None  # when the next step of the current one is
        self.blocked = False
        self.actor: StartActor | None = None
        self.leaving = ""

    @property
    def id(self) -> ProcessId:
        return self._id

    @property
    def node(self) -> NodeId:
        return node_of(self._id)

    def start(self, now: float) -> list[ProcessEffect]:
        return [Send(self.raylet, RegisterProcess("worker", 1000))]

    def handle(self, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]:
        effects: list[ProcessEffect] = []
        if isinstance(message, PushTasks):
            self.queue.extend((sender, task[0], Work.unpack(task[3])) for task in message.tasks)
        elif isinstance(message, StartActor):
            self.actor = message
            self.due = now + Work.unpack(message.payload).run_s
            effects.append(WakeAt(self.due))
        elif isinstance(message, ObjectAllocated):
            self._write(message, effects)
        elif isinstance(message, ObjectRefused):
            self._answer((FAILED, "ObjectStoreFullError", message.why), effects)
        elif isinstance(message, (ExitWorker, StopActor, EndSession)):
            self.leaving = self.leaving or "exit code 0"
        self._go_on(now, effects)
        return effects

    def tick(self, now: float) -> list[ProcessEffect]:
        effects: list[ProcessEffect] = []
        if self.due is not None and now >= self.due:
            self.due = None
            if self.current is not None:
                self._step(self.current, now, effects)
            elif self.actor is not None:
                self._constructed(self.actor, effects)
        self._go_on(now, effects)
        return effects

    def _go_on(self, now: float, effects: list[ProcessEffect]) -> None:
        if self.current is not None or self.due is not None:
            return
        if self.queue:
            self.current = self.queue.popleft()
            work = self.current[2]
            self.blocked = work.blocked_s > 0
            if self.blocked:
                effects.append(Send(self.raylet, WorkerBlocked()))
            self.due = now + (work.blocked_s if self.blocked else work.run_s)
            effects.append(WakeAt(self.due))
        elif self.leaving:
            effects.append(Leave(self.leaving))

    def _step(self, current: tuple[ProcessId, int, Work], now: float, effects: list[ProcessEffect]) -> None:
        owner, count, work = current
        if self.blocked:
            self.blocked = False
            effects.append(Send(self.raylet, WorkerUnblocked()))
            self.due = now + work.run_s
            effects.append(WakeAt(self.due))
        elif work.size:
            effects.append(Send(self.raylet, AllocateObject(object_id(task_id(owner, count)), work.size)))
        else:
            self._answer(b"done", effects)

    def _write(self, message: ObjectAllocated, effects: list[ProcessEffect]) -> None:
        assert self.current is not None
        size = self.current[2].size
        self.segment[message.offset : message.offset + size] = pattern(message.object, size)
        effects.append(Send(self.raylet, SealObjects([message.object])))
        self._answer((STORED, size, (self.node,)), effects)

    def _answer(self, value: Value, effects: list[ProcessEffect]) -> None:
        if self.current is None:
            return
        owner, count, work = self.current
        self.current = None
        effects.append(Send(owner, TaskResults([(count, [value], None)], work.run_s)))

    def _constructed(self, actor: StartActor, effects: list[ProcessEffect]) -> None:
        if Work.unpack(actor.payload).blocked_s < 0:
            error = (FAILED, "RaySystemError", f"constructor of {owner_of(actor.actor).hex()} raised")
            effects.append(Send(HEAD, ActorFailed(actor.actor, actor.incarnation, error)))
            self.leaving = "exit code 1"
        else:
            effects.append(Send(HEAD, ActorReady(actor.actor, actor.incarnation)))
