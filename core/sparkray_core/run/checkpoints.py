"""Saving an actor's state with its `__ray_save__`, and giving it to the next life's `__ray_restore__`.

When, and what waits for it: `model/checkpoints.py`. Here the hooks run, and the state becomes bytes or an object.
"""

from __future__ import annotations

import copy
import sys
import threading
from typing import TYPE_CHECKING, Any

from sparkray_core.errors import RaySystemError
from sparkray_core.ids import HEAD, ObjectId, ProcessId
from sparkray_core.messages import ActorSaved, AddBorrowers, ResultTuple, SaveActor, StartActor, Value
from sparkray_core.model.checkpoints import Checkpoints, Save
from sparkray_core.run import execute
from sparkray_core.run.object_ref import ObjectRef
from sparkray_core.run.pump import now
from sparkray_core.wire import values

if TYPE_CHECKING:
    from sparkray_core.run.core import Core
    from sparkray_core.run.worker_main import Worker

State = tuple[Value | ObjectRef[Any], int]  # a value as it travels, or the object that it is; its bytes


class Saver:
    """Of an actor that has the hooks and may be restarted. It takes the place of the worker's list of answers."""

    def __init__(self, worker: Worker, start: StartActor, instance: Any, batches: bool) -> None:
        """
        Args:
            batches: who appends answers calls `save_if_due` himself.
        """
        core = worker.core
        every_s = start.setup.get("save_every_s")
        self.policy = Checkpoints(core.settings.checkpoint_interval_s if every_s is None else every_s)
        self._worker = worker
        self._core = core
        self._start = start
        self._hook = instance.__ray_save__
        self._batches = batches
        self._last: Value | None = None  # that was taken; an equal one need not be sent
        self._taking = threading.Lock()  # of a threaded actor, one thread
        core.handlers[ActorSaved] = self._on_saved

    def append(self, done: tuple[ProcessId, Any]) -> None:
        """The answer to a call that ended. From the thread that ran it."""
        with self._core.lock:
            before = self.policy.due_at
            self.policy.ended(done)
            if before is None and self.policy.every_s:
                self._worker._extend(())  # the main thread may wait without a limit
        if not self._batches:
            self.save_if_due()

    def save_if_due(self) -> None:
        with self._taking:
            with self._core.lock:
                if not self.policy.due(now()):
                    self._let_go()
                    return
                covered = self.policy.take(now())
            state: State | None = None
            try:
                state = self._take()
            except BaseException as error:  # noqa: BLE001 - the user's hook, and the pickling of what it returned
                self._failed(covered, error)
                return
            with self._core.lock:
                self._send(self.policy.taken(covered, state))
                self._let_go()

    def stop(self) -> None:
        """This life was the last one."""
        with self._core.lock:
            self.policy.stop()
            self._let_go()

    def _take(self) -> State | None:
        """The state; None if it is what was taken the last time."""
        serialized = values.serialize(self._hook())
        if serialized.refs or serialized.size > self._core.settings.checkpoint_head_bytes:
            self._last = None
            ref = self._core.put_serialized(serialized)
            if ref._entry.owner == self._core.me:
                raise RaySystemError("this worker has made too many objects for its node to keep the actor's state")
            self._core.export(ref)
            return ref, serialized.size
        state = values.to_inline(serialized)
        if state == self._last:
            return None
        self._last = state
        return state, serialized.size

    def _failed(self, covered: list[Any], error: BaseException) -> None:
        """Callers are told, for what they would be told else might be lost. Without callers that wait: stderr."""
        name = self._start.name
        self._last = None
        if not covered:
            text = execute.failure_text(f"{name}.__ray_save__", error)
            sys.stderr.write(f"{text}\nThe state of {name} was not saved.\n")
        told = [(sender, failed(answer, name, error)) for sender, answer in covered]
        with self._core.lock:
            self.policy.failed(told)
            self._let_go()

    # ------------------------------------------------------------------ the core's lock is held
    def _on_saved(self, sender: ProcessId, message: ActorSaved) -> None:
        self._send(self.policy.saved(message.number))
        self._let_go()

    def _let_go(self) -> None:
        answers = self.policy.leaving()
        if answers:
            self._worker.results.extend(answers)
            self._worker._flush()

    def _send(self, save: Save | None) -> None:
        if save is None:
            return
        state, size = save.state
        some: ObjectId | None = None
        if isinstance(state, ObjectRef):
            entry = state._entry
            self._core._send(entry.owner, AddBorrowers([(entry.id, HEAD)]))
            state, some = None, entry.id
        start = self._start
        self._core._send(HEAD, SaveActor(start.actor, start.incarnation, save.number, state, some, size))


def hooks_of(instance: Any) -> bool:
    return hasattr(type(instance), "__ray_save__") and hasattr(type(instance), "__ray_restore__")


def restore(core: Core, start: StartActor, instance: Any) -> None:
    """Give the state that a former life has saved to the instance: a copy of its own, with arrays that it may change.

    Raises:
        RayError: the state is lost, with its node.
        Exception: whatever `__ray_restore__` raises, or unpickling the state.
    """
    if start.saved_object:
        ref = core.ref_of(start.saved_object)
        with core.lock:
            ref._entry.registered += 1
            core._send(ref._entry.owner, AddBorrowers([(start.saved_object, core.me)]))
        state = core.get_one(ref._entry, None)
    elif start.saved is not None:
        state = values.from_inline(start.saved)
    else:
        return
    instance.__ray_restore__(copy.deepcopy(state))


def failed(answer: ResultTuple, name: str, error: BaseException) -> ResultTuple:
    """The answer to a call that ran, of an actor whose state could not be saved after it."""
    count, results, held = answer
    return count, [execute.failure(f"{name}.__ray_save__", error)] * len(results), held
