"""Streams in the simulator: what `run.outlet` and `run.ref_generator` do, for simulated user code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparkray_core.ids import ObjectId, ProcessId, object_id
from sparkray_core.messages import (
    ERROR,
    FAILED,
    HOLDS,
    STORED,
    STREAM_CLOSED,
    STREAM_UNREAD,
    StreamItems,
    StreamRead,
    TaskTuple,
    Value,
)
from sparkray_core.model.streams import Stream
from sparkray_core.testing import sim_programs
from sparkray_core.testing.sim_core import Code, Ref, Signal, SimCore
from sparkray_core.testing.sim_programs import Program, mix

if TYPE_CHECKING:
    from sparkray_core.testing.sim_worker import SimWorker

BATCH = 3  # items in a message; what is left of the last batch goes with the task's answer


class SimOutlet:
    """One running generator."""

    def __init__(self, worker: SimWorker, caller: ProcessId, count: int, returns: tuple[int, int, int]) -> None:
        self._worker = worker
        self.caller = caller
        self._count = count
        self._delivered, taken, self._ahead = returns
        self._sent = self._delivered
        self._items: list[Value] = []
        self._taken = 0
        self._closed = self._unread = False
        self._signal: Signal | None = None
        self.read(taken)

    def read(self, taken: int) -> None:
        if taken == STREAM_CLOSED:
            self._closed = True
        elif taken == STREAM_UNREAD:
            self._unread = True
        else:
            self._taken = taken
        if self._signal is not None:
            signal, self._signal = self._signal, None
            signal.entry_ready(None)

    def run(self, program: Program, result: ObjectId, outcomes: list[str], found: list[Ref]) -> Code[list[Value]]:
        """What the answer has in place of values; see `sim_programs.expect_items`."""
        worker = self._worker
        for index in range(1, program.items + 1 + program.fails):
            yield program.run_s / 4
            if index > self._delivered and not self._unread:
                yield from self._put(program, index, object_id(result[:24], index), outcomes, found)
            while self._ahead > 0 and index - self._taken >= self._ahead and not (self._closed or self._unread):
                self._flush()
                if self._closed or index - self._taken < self._ahead:
                    break  # the owner is this process, and has heard
                self._signal = Signal(worker)
                unblock = worker.on_block(None, ())
                try:
                    yield self._signal
                finally:
                    self._signal = None
                    unblock()
            if self._closed:
                break
        return self.answer(sim_programs.pack("end", []))

    def answer(self, end: Value) -> list[Value]:
        return [end, self._sent, *self._items]  # type: ignore[list-item]

    def _put(self, program: Program, index: int, some: ObjectId, outcomes: list[str], found: list[Ref]) -> Code[None]:
        worker = self._worker
        if index > program.items:
            value: Value = sim_programs.error(f"error {mix(program.key, outcomes)}")
        else:
            inside = found if program.hands_back else []
            packed = sim_programs.pack(
                f"value {mix(program.key, outcomes, index)}", [worker.export(ref) for ref in inside]
            )
            value = yield from worker.store(some, packed, program.size)
            if inside and not (isinstance(value, tuple) and value[0] in (ERROR, FAILED)):
                value = (HOLDS, value, tuple(inside))
        self._items.append(value)
        if len(self._items) >= BATCH or (isinstance(value, tuple) and value[0] in (STORED, HOLDS)):
            self._flush()

    def _flush(self) -> None:
        if self._items:
            items, self._items = self._items, []
            first, self._sent = self._sent, self._sent + len(items)
            self._worker.lend(self.caller, items)
            self._worker.send(self.caller, StreamItems(self._count, first, items))


class SimOutlets:
    """The streams that a worker makes."""

    def __init__(self, worker: SimWorker) -> None:
        self._worker = worker
        self.running: dict[tuple[ProcessId, int], SimOutlet] = {}
        self.early: dict[tuple[ProcessId, int], int] = {}

    def open(self, caller: ProcessId, count: int, returns: tuple[int, int, int]) -> SimOutlet:
        outlet = self.running[caller, count] = SimOutlet(self._worker, caller, count, returns)
        early = self.early.pop((caller, count), None)
        if early is not None:
            outlet.read(early)
        if self._worker.owner.refs.is_gone(caller):
            outlet.read(STREAM_CLOSED)
        return outlet

    def on_read(self, sender: ProcessId, message: StreamRead) -> None:
        outlet = self.running.get((sender, message.count))
        if outlet is not None:
            outlet.read(message.taken)
            return
        self.early[sender, message.count] = message.taken

    def pushed(self, sender: ProcessId, tasks: Sequence[TaskTuple]) -> None:
        for task in tasks:
            self.early.pop((sender, task[0]), None)

    def reader_gone(self, gone: bytes) -> None:
        """A process or node died."""
        for (caller, _), outlet in list(self.running.items()):
            if caller.startswith(gone):
                outlet.read(STREAM_CLOSED)


class SimGenerator:
    """An ObjectRefGenerator in user code."""

    def __init__(self, core: SimCore, stream: Stream) -> None:
        self._core = core
        self.stream = stream
        core.streams.add(self)

    def __del__(self) -> None:
        self._core.dropped_streams.append(self.stream)

    def next(self) -> Code[Ref | None]:
        """None at the end."""
        core, stream = self._core, self.stream
        while True:
            entry, effects = core.owner.take(stream)
            core.perform(effects)
            if entry is not None:
                return core.new_ref(entry)
            if stream.over or core.owner.ended is not None:
                return None
            yield from core.wait([stream], 1)  # type: ignore[list-item]


def call_generator(
    core: SimCore, program: Program, args: Sequence[Ref], inner: Sequence[Ref], ahead: int, handle: Ref | None = None
) -> SimGenerator:
    """Submit a program that yields; as a call to an actor, if there is one."""
    stream: list[Stream] = []

    def made(count: int) -> Stream:
        stream.append(Stream(core.me, count, ahead))
        return stream[0]

    if handle is None:
        core.submit(program, args, inner, made)
    else:
        core.call(handle, program, args, inner, made)
    return SimGenerator(core, stream[0])
