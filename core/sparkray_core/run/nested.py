"""A worker runs what its task waits for itself, on top of it, in the same thread (`model/node_crowd.py` says when).

    serve -> task -> get -> [RunNested] -> its task -> get -> [RunNested] -> its task's task ...

Only the one on top can go on, so it must be that nothing but its end ends the wait of the one below: a wait without a
limit for all of its references, all of them tasks. What is not so is refused when the wait begins (`offers`).
"""

from __future__ import annotations

import contextvars
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId
from sparkray_core.messages import CancelTask, ResultTuple, RunNested, TaskTuple, WorkerBlocked, WorkerUnblocked
from sparkray_core.model.entries import Entry
from sparkray_core.model.tasks import Task
from sparkray_core.run import execute, gpus
from sparkray_core.run.current_task import ExitActor
from sparkray_core.run.pump import Getter, now
from sparkray_core.run.records import clock

if TYPE_CHECKING:
    from sparkray_core.run.worker_main import Worker

MOST_LEVELS = 100  # on one stack: a crash of the top one takes all of them along
# Python frames below the top one. CPython 3.10 needs half a kilobyte of the stack for each, and there are 8 MB.
MOST_FRAMES = 4000


@dataclass(slots=True)
class Level:
    """A task that waits, with another one on top of it."""

    task: tuple[ProcessId, int] | None
    function: bytes
    began: float
    working_on: str
    first: int  # what it submits is numbered from here on
    cancelled: bool = False


@dataclass(slots=True)
class Wait:
    """Of the task on top."""

    number: int
    getter: Getter
    entries: list[Entry]


class Nested:
    """What lies on the main thread's stack."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.below: list[Level] = []
        self.first = 0  # what the task on top submits is numbered from here on
        self._lower = 0  # frames of others below the task on top
        self.wait: Wait | None = None  # of the task on top, if it could run what it waits for
        self._asked: RunNested | None = None
        self._number = 0

    # ------------------------------------------------------------------ a wait (the core's lock is held)
    def begins(self, getter: Getter | None, entries: list[Entry] | None) -> WorkerBlocked:
        """What the raylet is to hear of it.

        Args:
            getter, entries: if nothing but all of these ends the wait.
        """
        if getter is None or entries is None or not self._could():
            return WorkerBlocked()
        self._number += 1
        self.wait = Wait(self._number, getter, entries)
        return WorkerBlocked(self._number, helps=True)

    def ends(self, getter: Getter | None) -> None:
        if self.wait is not None and self.wait.getter is getter:
            self.wait = None

    def _could(self) -> bool:
        worker = self.worker
        if threading.get_ident() != worker._main_thread or worker.running is None or worker.host is not None:
            return False
        if gpus.given or len(self.below) >= MOST_LEVELS or _loop_runs():
            return False
        return worker.core.owner.own.could(worker.core.env) and _frames() <= MOST_FRAMES

    def on_run(self, sender: ProcessId, message: RunNested) -> None:
        """End the wait for now, if it is still the one that was meant."""
        wait = self.wait
        if wait is not None and wait.number == message.wait and wait.getter.missing > 0:
            self._asked = message
            wait.getter.pause()

    def cancel(self, sender: ProcessId, message: CancelTask) -> bool:
        """Whether this task waits below another. It goes on with the interrupt when that one has ended."""
        for level in self.below:
            if level.task == (sender, message.count):
                level.cancelled = True
                if message.recursive:
                    self.worker.cancel_children(level.first, message.force)
                return True
        return False

    # ------------------------------------------------------------------ in the main thread
    def run(self) -> None:
        """The wait was paused: run what is waited for, the youngest first, until it is over or nothing is left."""
        core, wait, asked = self.worker.core, self.wait, self._asked
        assert wait is not None
        assert asked is not None
        self.wait = self._asked = None
        getter = wait.getter
        wanted = {entry.count for entry in wait.entries if entry.owner == core.me and entry.value is None}
        with core.lock:
            getter.resume()
            taken = self._take(wanted, asked) if getter.missing > 0 else None
            core._send(core.raylet_id, WorkerBlocked() if taken is None and getter.missing > 0 else WorkerUnblocked())
        if taken is None:
            return
        while taken is not None:
            self._run(*taken)
            with core.lock:
                taken = self._take(wanted, asked) if getter.missing > 0 else None
        if getter.missing > 0:
            core.send(core.raylet_id, WorkerBlocked())

    def _take(self, wanted: set[int], asked: RunNested) -> tuple[Task, TaskTuple] | None:
        core = self.worker.core
        taken, effects = core.owner.take_own(wanted, asked.resources, core.env, asked.priority, now())
        core._perform(effects)
        return taken

    def _run(self, task: Task, wire: TaskTuple) -> None:
        """One task, from its begin to its answer. Whatever it does to its process, the one below finds as it was."""
        worker, core = self.worker, self.worker.core
        level = Level(worker.running, worker.function, worker.began, worker.working_on, self.first)
        limit, lower, below = sys.getrecursionlimit(), self._lower, _frames()
        with core.lock:
            worker.send_output()  # under the name of the one below
            worker.teach(task.function)
            self.below.append(level)
        self.first, worker.began = next(core.counter), clock()
        sys.setrecursionlimit(limit - lower + below)  # a recursion of its own may go as deep as elsewhere
        self._lower = below
        result: ResultTuple | None = None
        why = ""
        try:
            result = contextvars.Context().run(worker._run, core.me, wire)
        except (SystemExit, ExitActor):
            why = "its task called sys.exit()"
        finally:
            sys.setrecursionlimit(limit)
            self._lower = lower
            with core.lock:
                core.records.ran.append((core.me, wire[0], wire[1], worker.began, clock()))
                core.records.finished += 1
                worker.send_output()
                self.below.pop()
                self.first = level.first
                worker.running, worker.function = level.task, level.function
                worker.began, worker.working_on = level.began, level.working_on
                if result is not None:
                    execute.lend(core, core.me, result[1])
                end = core.owner.lost_own(wire[0], why, now()) if result is None else core.owner.ran_own(result, now())
                core._perform(end)
        if level.cancelled:
            raise KeyboardInterrupt


def _frames() -> int:
    """How many are on the stack of this thread."""
    frame: Any = sys._getframe(1)
    count = 0
    while frame is not None:
        count += 1
        frame = frame.f_back
    return count


def _loop_runs() -> bool:
    """Whether an event loop runs in this thread: then a coroutine has called us, and another loop cannot run on top."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
