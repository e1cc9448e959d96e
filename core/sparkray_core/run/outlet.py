"""A stream where it is made: what a running generator has yielded and its owner does not have yet.

Items that come quickly share a message; one that comes after a pause goes at once. With a limit on unread items the
generator is not resumed until enough of them were read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId, node_of
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    STORED,
    STREAM_CLOSED,
    STREAM_UNREAD,
    NodeGone,
    ProcessGone,
    ResultTuple,
    StreamItems,
    StreamRead,
    TaskTuple,
    Value,
)
from sparkray_core.model.bounded import Recent
from sparkray_core.run import current_task, execute
from sparkray_core.run.pump import Getter, now

if TYPE_CHECKING:
    from sparkray_core.run.core import Core
    from sparkray_core.run.worker_main import Worker

BEFORE_IT_RAN: Value = (FAILED, "TaskCancelledError", "the task was cancelled before it ran")
FLUSH_S = 0.001  # an item waits this long for company
FLUSH_ITEMS = 512  # or until there are so many
FLUSH_BYTES = 1 << 20  # or so many bytes
EARLY_READS = 10_000  # kept at most, of streams that do not run


def while_it_ran(name: str = "task") -> Value:
    """What a task returns that was cancelled while it ran. Its caller gets an instance of `RayTaskError`, too, as with
    Ray: programs catch either."""
    return FAILED, "TaskCancelledError", "the task was cancelled while it ran", name, os.getpid(), current_task.host


def _title(core: Core, function: bytes) -> str:
    start = current_task.actor
    if start is None:
        return core.name_of(function) if core.name_of is not None else ""
    return f"{start.name}.{function.decode(errors='replace').partition(chr(0))[0]}"


class Outlet:
    """Of one task. Used by the thread that runs it, except where it says otherwise."""

    __slots__ = (
        "_bytes",
        "_flushed_at",
        "_gate",
        "_items",
        "_left_out",
        "_sent",
        "_taken",
        "_worker",
        "ahead",
        "at_once",
        "caller",
        "cancelled",
        "closed",
        "count",
        "index",
        "resume",
        "soon",
        "unread",
    )

    def __init__(self, worker: Worker, caller: ProcessId, task: TaskTuple) -> None:
        assert not isinstance(task[2], int)
        delivered, taken, self.ahead = task[2]
        self._worker = worker
        self.caller = caller
        self.count = task[0]
        self.index = 0  # of the item that was yielded last, from 1
        self.closed = False  # nobody reads any more: the generator is to end
        self.cancelled = False  # closed for that; where a signal can interrupt the generator, it is not used
        self.unread = False  # nobody will read: items are not sent
        self.at_once = False  # send each item by itself: nobody would look after one that lies
        self.soon: Callable[[Callable[[], None]], object] | None = None  # have the event loop call it soon
        self.resume: Callable[[], object] | None = None  # called when more was read, by whatever thread hears of it
        self._left_out = delivered  # items at the beginning that the owner has from an earlier run
        self._sent = delivered
        self._taken = 0
        self._items: deque[Value] = deque()
        self._bytes = 0
        self._flushed_at = 0.0
        self._gate: Getter | None = None
        self.read(taken)

    # ------------------------------------------------------------------ items
    def wants(self) -> bool:
        """Count one more item; whether it is to be `put`."""
        self.index += 1
        return self.index > self._left_out and not self.unread

    def put(self, value: Value) -> None:
        self._items.append(value)
        moment = time.perf_counter()
        if isinstance(value, bytes):
            self._bytes += len(value)
        elif value[0] in (STORED, HOLDS):  # a crash from here on must leave at most one that the owner does not know
            self._bytes = FLUSH_BYTES
        else:
            self._bytes += sum(map(len, value[1:]))
        if (
            moment - self._flushed_at > FLUSH_S
            or len(self._items) >= FLUSH_ITEMS
            or self._bytes >= FLUSH_BYTES
            or self.at_once
        ):
            self.flush()
        elif self.soon is not None:
            if len(self._items) == 1:
                self.soon(self.flush)
        elif self._worker.core.pump.asleep:
            self._worker.core.pump.wake()  # it looks after items that lie while the generator is busy

    def flush(self) -> None:
        """Send what there is."""
        with self._worker.streams.shielded(), self._worker.core.lock:
            self._flush()

    def flush_late(self) -> bool:
        """From the side thread. Whether something lies still, because it came just now."""
        if not self._items:
            return False
        if time.perf_counter() - self._flushed_at <= FLUSH_S:
            return True
        with self._worker.core.lock:
            self._flush()
        return False

    def _flush(self) -> None:
        """With the core's lock held."""
        values = self._drain()
        if values:
            self._worker.send_output()
            execute.lend(self._worker.core, self.caller, values)
            self._worker.core._send(self.caller, StreamItems(self.count, self._sent, values))
            self._sent += len(values)

    def _drain(self) -> list[Value]:
        values: list[Value] = []
        items = self._items
        while items:  # item by item: the generator's thread may be adding more
            values.append(items.popleft())
        self._bytes = 0
        self._flushed_at = time.perf_counter()
        return values

    def answer(self, end: Value) -> list[Any]:
        """What the task's answer has in place of its values: its end, and the items that were not sent yet."""
        key = (self.caller, self.count)
        with self._worker.core.lock:
            if self._worker.running == key:
                self._worker.running = None  # a cancellation comes too late from here on
            self._worker.streams.running.pop(key, None)
            return [while_it_ran() if self.cancelled else end, self._sent, *self._drain()]

    # ------------------------------------------------------------------ pauses
    def read(self, taken: int) -> None:
        """The owner's word on how many were read. With the core's lock held, in any thread."""
        if taken == STREAM_CLOSED:
            self.closed = True
        elif taken == STREAM_UNREAD:
            self.unread = True
        else:
            self._taken = taken
        if self._gate is not None:
            self._gate.finish()
        if self.resume is not None:
            self.resume()

    @property
    def full(self) -> bool:
        """As many items are unread as may be."""
        return self.ahead > 0 and self.index - self._taken >= self.ahead and not (self.closed or self.unread)

    def wait_read(self) -> None:
        """Until an item may be made: as in `get`, others may have the CPU meanwhile."""
        worker = self._worker
        core = worker.core
        while self.full:
            gate = Getter(1)
            with worker.streams.shielded(), core.lock:
                self._flush()
                core._kick_if_any()
                if not self.full:  # the owner is this process
                    return
                if core.owner.ended is not None:
                    self.closed = True
                    return
                self._gate = gate
            unblock = core.on_block(None, None) if core.on_block is not None else None
            try:
                core.pump.lead(gate, None)
            finally:
                self._gate = None
                if unblock is not None:
                    unblock()
            if core.owner.ended is not None:
                self.closed = True


class Outlets:
    """The streams that a worker makes at present, and their part in its messages and interrupts."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._main_thread = threading.get_ident()
        self.running: dict[tuple[ProcessId, int], Outlet] = {}
        self.early: Recent[tuple[ProcessId, int], int] = Recent(EARLY_READS)  # words on those that do not run yet
        self.shields = 0  # above zero: an interrupt has to wait
        self.interrupted = False  # it does

    def open(self, sender: ProcessId, task: TaskTuple) -> Outlet:
        """For a generator that is about to run."""
        worker = self._worker
        outlet = Outlet(worker, sender, task)
        outlet.at_once = worker.host is not None and worker.host.is_threaded
        key = (sender, task[0])
        with worker.core.lock:
            self.running[key] = outlet
            early = self.early.get(key)
            if early is not None:
                self.early.forget(key)
                outlet.read(early)
            if worker.core.owner.refs.is_gone(sender):
                outlet.read(STREAM_CLOSED)
        return outlet

    def run(self, sender: ProcessId, function: Callable[..., Any], name: str, task: TaskTuple) -> ResultTuple:
        from sparkray_core.run import run_stream

        return run_stream.run(self._worker.core, sender, function, name, task, self.open(sender, task))

    def cancelled(
        self, sender: ProcessId, task: TaskTuple, ran: bool = True, found: list[Any] | None = None
    ) -> ResultTuple:
        """The answer to a task, a stream or not, that was cancelled while it ran, or before that.

        Args:
            found: the references that came in its arguments; some may live on.
        """
        value = while_it_ran(_title(self._worker.core, task[1])) if ran else BEFORE_IT_RAN
        outlet = self.running.get((sender, task[0]))
        values = [value] * execute.answers(task[2]) if outlet is None else outlet.answer(value)
        return task[0], values, execute.still_held(self._worker.core, found) if found else None

    def cancel(self, sender: ProcessId, count: int) -> None:
        """One that runs in a thread, which no signal reaches, ends at its next item."""
        outlet = self.running.get((sender, count))
        if outlet is not None:
            outlet.cancelled = True
            outlet.read(STREAM_CLOSED)

    def on_read(self, sender: ProcessId, message: StreamRead) -> None:
        outlet = self.running.get((sender, message.count))
        if outlet is not None:
            outlet.read(message.taken)
        else:  # it waits in the queue, or in a thread's, or its function is being loaded; or it is over
            self.early.remember((sender, message.count), message.taken)

    def pushed(self, sender: ProcessId, tasks: Sequence[TaskTuple]) -> None:
        """They say themselves what was read: what was heard before was of an earlier run."""
        for task in tasks if len(self.early) else ():
            self.early.forget((sender, task[0]))

    def on_gone(self, sender: ProcessId, message: ProcessGone | NodeGone) -> None:
        """Streams of those that died have no reader any more."""
        for (caller, _), outlet in list(self.running.items()):
            if caller == message.process if isinstance(message, ProcessGone) else node_of(caller) == message.node:
                outlet.read(STREAM_CLOSED)
        core = self._worker.core
        core._perform(core.owner.handle(sender, message, now()))

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """What sends must not be interrupted in the middle of it: here an interrupt waits for the end."""
        if threading.get_ident() != self._main_thread:
            yield
            return
        self.shields += 1
        try:
            yield
        finally:
            self.shields -= 1
        if self.interrupted and not self.shields:
            self.interrupted = False
            self._worker.interrupt(0, None)
