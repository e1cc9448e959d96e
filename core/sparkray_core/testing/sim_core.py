"""A process of the simulator: the real owner's model, and user code that runs on virtual time.

User code is a generator. It yields seconds to sleep, or a `Signal` to wait for. References are Python objects, as in
`run.object_ref`: the owner hears of it when the last one dies. What is done here is what `run.core` and
`run.local_process` do, without sockets and threads.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, Union

from sparkray_core.ids import ActorId, FunctionId, GroupId, NodeId, ObjectId, ProcessId, node_of, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    STORED,
    AllocateObject,
    CreateActor,
    CreateGroup,
    Message,
    ObjectAllocated,
    ObjectGone,
    ObjectPinned,
    ObjectRefused,
    PinObject,
    Registered,
    RegisterProcess,
    ReplicateObject,
    Resources,
    SealObjects,
    UnpinObjects,
    Value,
)
from sparkray_core.model.effects import Effect, MakeAgain, Send, WakeAt
from sparkray_core.model.entries import Entry, bare, is_stored, place, root
from sparkray_core.model.invariants import check_owner
from sparkray_core.model.owner import Actor, Function, Owner, Task
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.resources import from_floats
from sparkray_core.model.streams import Stream
from sparkray_core.testing import sim_programs
from sparkray_core.testing.sim_checks import Counts, owner_counts
from sparkray_core.testing.sim_programs import Program

T = TypeVar("T")

FUNCTIONS = [Function(FunctionId(bytes([65 + n]) * 16), f"f{n}", b"pickle") for n in range(3)]
HANDOVER_S = 8.0  # as in `legacy`; twice what a node may be silent for
READ_S = 0.05  # a value is looked at for so long after it was read


@dataclass(frozen=True, slots=True)
class Leave:
    """The process ends itself."""

    why: str


ProcessEffect = Union[Send, WakeAt, Leave]  # noqa: UP007 - as in messages.py


class SimProcess(Protocol):
    role: str

    @property
    def id(self) -> ProcessId: ...
    def start(self, now: float) -> list[ProcessEffect]: ...
    def handle(self, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]: ...
    def tick(self, now: float) -> list[ProcessEffect]: ...
    def check(self) -> None: ...
    def counts(self) -> Counts: ...


class Ledger:
    """What only somebody who sees all processes knows: how often each task was begun, and where."""

    def __init__(self) -> None:
        self.begun: dict[tuple[ProcessId, int], list[ProcessId]] = {}
        self.answered: set[tuple[ProcessId, int]] = set()  # once at least
        self.copies = 1  # that there are to be of what is put
        self.actors: set[ProcessId] = set()  # workers that became one: with them ends what they own

    def runs(self, owner: ProcessId, count: int) -> bool:
        """Whether it was begun and has not ended yet, be it that its worker died."""
        return (owner, count) in self.begun and (owner, count) not in self.answered

    def begin(self, owner: ProcessId, count: int, worker: ProcessId, may_again: bool) -> None:
        runs = self.begun.setdefault((owner, count), [])
        runs.append(worker)
        assert may_again or len(runs) == 1, f"task {count} of {owner.hex()} may run once, and ran on {runs}"


class Memory(bytearray):
    """A node's segment, and beside it its spilled objects: each file by its number."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.disk: dict[int, bytes] = {}


class Cancelled(Exception):
    """Raised in user code, where it waits, as the interrupt of a real worker is."""


class Signal:
    """What a piece of user code waits for: so many entries, or one answer."""

    __slots__ = ("_core", "code", "late", "missing", "paused")

    def __init__(self, core: SimCore, missing: int = 1) -> None:
        self._core = core
        self.missing = missing
        self.code: Code[None] | None = None
        self.paused = False  # the code goes on, though something is missing
        self.late = False  # so it does, for good: its time is over

    def entry_ready(self, entry: Entry | None) -> None:
        self.missing -= 1
        if self.missing == 0:
            self._core.runnable.append(self)

    def pause(self) -> None:
        self.paused = True
        self._core.runnable.append(self)

    def give_up(self) -> None:
        if self.missing > 0 and self.code is not None:
            self.late = True
            self._core.runnable.append(self)


NewStream = Union["Callable[[int], Stream]", None]  # makes the stream of the task with that number, if it is one
Code = Generator["float | Signal", None, T]


class Ref:
    """A reference, or an actor's handle, in user code."""

    __slots__ = ("__weakref__", "actor", "core", "entry")

    def __init__(self, core: SimCore, entry: Entry, actor: Actor | None = None) -> None:
        self.core = core
        self.entry = entry
        self.actor = actor
        core.living[id(self)] = entry

    def __del__(self) -> None:
        del self.core.living[id(self)]
        self.core.dropped.append(self.entry)


@dataclass(slots=True)
class Got:
    """What a reference turned out to refer to."""

    outcome: str  # "value 7", "error 7", or "system ..."
    refs: list[Ref] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.outcome.startswith("value")


class SimCore:
    """What drivers and workers have in common."""

    role = ""

    def __init__(self, me: ProcessId, segment: Memory, ledger: Ledger) -> None:
        self.me = me
        self.node = node_of(me)
        self.raylet = raylet_of(self.node)
        self.segment = segment
        self.ledger = ledger
        self.owner = Owner(me, keeper=self.raylet if self.role == "worker" else None)
        self.owner.refs.legacy.handover_s = HANDOVER_S
        self.now = 0.0
        self.counter = itertools.count(1)
        self.pending: list[Task] = []
        self.living: dict[int, Entry] = {}  # what each `Ref` that lives refers to, by the reference's `id`
        self.dropped: deque[Entry] = deque()
        self.streams: weakref.WeakSet[Any] = weakref.WeakSet()  # `sim_streams.SimGenerator`s in user code
        self.dropped_streams: deque[Stream] = deque()
        self.runnable: deque[Signal] = deque()
        self.copies = ledger.copies
        self.crashed: BaseException | None = None
        self._replies: dict[tuple[bool, ObjectId], list[tuple[Signal, list[Any]]]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()
        self._wake: float | None = None
        self._waits_for: weakref.WeakKeyDictionary[Code[None], object] = weakref.WeakKeyDictionary()
        self.shields = 0  # above zero: an interrupt has to wait
        self.submitted = 0  # the number of the last task
        self._out: list[ProcessEffect] = []

    @property
    def id(self) -> ProcessId:
        return self.me

    def counts(self) -> Counts:
        return (*owner_counts(self.owner), len(self.living))

    def check(self) -> None:
        held = [*self.living.values()]
        if self.streams or self.dropped_streams:
            held += [entry for generator in self.streams for entry in generator.stream.unread()]
            held += [entry for stream in self.dropped_streams for entry in stream.unread()]
        check_owner(self.owner, held)

    # ------------------------------------------------------------------ as a process
    def start(self, now: float) -> list[ProcessEffect]:
        self.now = now
        self.send(self.raylet, RegisterProcess(self.role, 1))
        return self._turn()

    def handle(self, sender: ProcessId, message: Message, now: float) -> list[ProcessEffect]:
        self.now = now
        self.kick()
        if isinstance(message, (ObjectAllocated, ObjectRefused, ObjectPinned, ObjectGone)):
            self._on_reply(message)
        elif not isinstance(message, Registered):
            self._receive(sender, message)
        return self._turn()

    def _receive(self, sender: ProcessId, message: Message) -> None:
        if not self.on_message(sender, message):
            self.perform(self.owner.handle(sender, message, self.now))

    def tick(self, now: float) -> list[ProcessEffect]:
        self.now = now
        self.kick()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self._wake is not None and now >= self._wake:
            self._wake = None
            self.perform(self.owner.tick(now))
        return self._turn()

    def on_message(self, sender: ProcessId, message: Message) -> bool:
        """What is not the owner's. Whether it was."""
        return False

    def _turn(self) -> list[ProcessEffect]:
        while self.runnable:
            code = self.runnable.popleft().code
            if code is not None:
                self.advance(code)
        if self.dropped or self.dropped_streams:
            self.kick()
        effects = self._out[:]
        self._out.clear()
        return effects

    # ------------------------------------------------------------------ user code
    def advance(self, code: Code[None]) -> None:
        """Run it up to its next wait."""
        self._go_on(code, lambda: next(code))

    def interrupt(self, code: Code[None]) -> None:
        """Raise `Cancelled` where it waits."""
        former = self._waits_for.pop(code, None)
        if isinstance(former, Signal):
            former.code = None
        self._go_on(code, lambda: code.throw(Cancelled()))

    def _go_on(self, code: Code[None], step: Callable[[], float | Signal]) -> None:
        try:
            wish = step()
        except StopIteration:
            return
        if isinstance(wish, Signal):
            self._waits_for[code] = wish
            wish.code = code
            if wish.missing <= 0:
                self.runnable.append(wish)
        else:
            token = self._waits_for[code] = object()
            self.at(self.now + wish, lambda: self._slept(code, token))

    def _slept(self, code: Code[None], token: object) -> None:
        if self._waits_for.get(code) is token:
            self.advance(code)

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._ties), do))
        self._out.append(WakeAt(when))

    def send(self, to: ProcessId, message: Message) -> None:
        if to == self.me:  # a worker that its own owner has on lease, for one
            self._receive(to, message)
        else:
            self._out.append(Send(to, message))

    def leave(self, why: str) -> None:
        self._out.append(Leave(why))

    def perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WakeAt):
                if self._wake is None or effect.at < self._wake:
                    self._wake = effect.at
                self._out.append(effect)
            elif isinstance(effect, Send):
                self.send(effect.to, effect.message)
            elif isinstance(effect, MakeAgain):
                effect.maker(effect.delivery)  # type: ignore[operator] # `sim_spark.deliver`'s
            else:
                raise TypeError(f"an owner does not wish for {effect}")

    def kick(self) -> None:
        count = len(self.dropped)
        if self.pending:
            tasks, self.pending = self.pending, []
            self.perform(self.owner.submit(tasks, self.now))
        if count:
            self.perform(self.owner.drop([self.dropped.popleft() for _ in range(count)]))
        while self.dropped_streams:
            self.perform(self.owner.drop_stream(self.dropped_streams.popleft()))

    # ------------------------------------------------------------------ references
    def new_ref(self, entry: Entry) -> Ref:
        return Ref(self, entry)

    def export(self, ref: Ref) -> ObjectId:
        some = self.owner.refs.export(ref.entry)
        effects: list[Effect] = []
        self.owner.refs.flush(effects)
        self.perform(effects)
        self._remember(ref)
        return some

    def ref_of(self, some: ObjectId) -> Ref:
        """The one reference of this process for an id that came in."""
        entry = self.owner.refs.find(some)
        known = entry.weak() if entry.weak is not None else None
        if known is not None:
            assert isinstance(known, Ref)
            return known
        entry.held = True
        actor = None
        if entry.index == ACTOR_INDEX:
            actor, effects = self.owner.calls.known(entry)
            self.perform(effects)
        ref = Ref(self, entry, actor)
        self._remember(ref)
        return ref

    @staticmethod
    def _remember(ref: Ref) -> None:
        if ref.entry.weak is None or ref.entry.weak() is None:
            ref.entry.weak = weakref.ref(ref)

    # ------------------------------------------------------------------ submitting
    def submit(
        self, program: Program, args: Sequence[Ref] = (), inner: Sequence[Ref] = (), stream: NewStream = None
    ) -> list[Ref]:
        function = FUNCTIONS[program.key % 3]
        worn_by = (function.id, program.max_calls) if program.max_calls else None
        resources = from_floats({"CPU": program.cpus})
        shape = self.owner.leasing.shape(
            resources, program.retries != 0, program.env, program.priority, worn_by, program.where
        )
        return self._submit(program, function, args, inner, None, shape, stream)

    def call(
        self,
        handle: Ref,
        program: Program,
        args: Sequence[Ref] = (),
        inner: Sequence[Ref] = (),
        stream: NewStream = None,
    ) -> list[Ref]:
        assert handle.actor is not None
        function = Function(FunctionId(b"method"), "method", b"")
        return self._submit(program, function, args, inner, handle.actor, None, stream)

    def _submit(
        self,
        program: Program,
        function: Function,
        args: Sequence[Ref],
        inner: Sequence[Ref],
        actor: Actor | None,
        shape: Any,
        new_stream: NewStream = None,
    ) -> list[Ref]:
        count = self.submitted = next(self.counter)
        payload = sim_programs.pack_call(program, [self.export(ref) for ref in inner])
        refs: list[tuple[int | str, Entry]] | None = [(n, ref.entry) for n, ref in enumerate(args)] or None
        nested = [ref.entry for ref in inner] or None
        stream = new_stream(count) if new_stream is not None else None
        entries = [Entry(self.me, count, index) for index in range(program.returns)] if stream is None else [stream.end]
        made = [Ref(self, entry) for entry in entries] if stream is None else []
        retries = program.again if actor is not None else program.retries
        task = Task(count, function, payload, refs, nested, entries, retries, shape, actor)
        task.stream = stream
        self.pending.append(task)
        if (task.actor or task.shape).hungry:  # type: ignore[union-attr]
            self.kick()
        return made

    def create(self, program: Program, inner: Sequence[Ref], restarts: int, unordered: bool = False) -> Ref:
        """An actor that holds no CPU: those that do, and wait for tasks that then find none, would wait for ever."""
        count = next(self.counter)
        payload = sim_programs.pack_call(program, [self.export(ref) for ref in inner])
        kept = [ref.entry for ref in inner]

        def message(actor: ActorId) -> CreateActor:
            placed, setup = from_floats({"CPU": 1}), {"unordered": unordered}
            return CreateActor(
                actor,
                "Sim",
                FUNCTIONS[0].id,
                b"",
                payload,
                None,
                {},
                placed,
                restarts,
                setup,
                env=program.env,
                where=program.where,
            )

        for entry in kept:
            entry.pins += 1
        actor, effects = self.owner.calls.create(count, message)
        actor.entry.contained = kept or None
        actor.ordered = not unordered
        handle = Ref(self, actor.entry, actor)
        self._remember(handle)
        self.perform(effects)
        return handle

    # ------------------------------------------------------------------ placement groups
    def create_group(self, bundles: Sequence[Resources], strategy: str) -> GroupId:
        group = GroupId(task_id(self.me, next(self.counter)))
        message = CreateGroup(0, group, "", list(bundles), strategy, (), False, "")
        self.perform(self.owner.groups.create(message, group))
        return group

    def group_ready(self, group: GroupId) -> Ref:
        entry = Entry(self.me, next(self.counter))
        self.perform(self.owner.group_ready(group, entry, sim_programs.pack("value ready", []), self.now))
        return Ref(self, entry)

    def remove_group(self, group: GroupId) -> None:
        self.kick()
        self.perform(self.owner.remove_group(group, self.now))

    def cancel(self, count: int, force: bool, recursive: bool) -> None:
        self.kick()
        self.perform(self.owner.cancel(count, force, recursive, self.now))

    def kill(self, handle: Ref, restart: bool) -> None:
        assert handle.actor is not None
        self.kick()
        self.perform(self.owner.kill(handle.actor, restart, self.now))

    # ------------------------------------------------------------------ waiting
    def get(self, refs: Sequence[Ref]) -> Code[list[Got]]:
        entries = [ref.entry for ref in refs]
        yield from self.wait(entries, len(set(entries)))
        got = []
        for entry in entries:
            got.append((yield from self.load(entry)))  # noqa: PERF401 - a comprehension cannot yield
        return got

    def wait(self, entries: Sequence[Entry], wanted: int, limit_s: float | None = None) -> Code[None]:
        """Until so many of them are there, or the session ended, or the time is over."""
        self.kick()
        distinct = list(dict.fromkeys(entries))
        waiting = [entry for entry in distinct if entry.value is None]
        missing = wanted - (len(distinct) - len(waiting))
        if missing <= 0 or self.owner.ended is not None:
            return
        signal = Signal(self, missing)
        for entry in waiting:
            entry.waiters = [*(entry.waiters or ()), signal]
        self.perform(self.owner.want(waiting, self.now))
        if signal.missing > 0:  # else some were lost for good, and that was told at once
            whole = missing == len(waiting) and limit_s is None
            unblock = self.on_block(signal if whole else None, waiting)
            if limit_s is not None:
                self.at(self.now + limit_s, signal.give_up)
            try:
                yield signal
                while signal.paused:
                    signal.paused, signal.code = False, None
                    yield from self.on_pause(signal, waiting)
                    if signal.missing > 0:
                        yield signal
            finally:
                unblock()
                self._wait_no_more(signal, waiting)
        else:
            self._wait_no_more(signal, waiting)

    @staticmethod
    def _wait_no_more(signal: Signal, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.waiters and signal in entry.waiters:  # not if it came, and got lost again
                entry.waiters.remove(signal)

    def on_block(self, whole: Signal | None, entries: Sequence[Entry]) -> Callable[[], None]:
        """User code waits. Returns what is to be done when it goes on.

        Args:
            whole: what is waited for, if nothing but all of these ends the wait.
        """
        return lambda: None

    def on_pause(self, signal: Signal, entries: Sequence[Entry]) -> Code[None]:
        """The wait was paused."""
        yield from ()

    # ------------------------------------------------------------------ values
    def load(self, entry: Entry) -> Code[Got]:
        while entry.value is None and self.owner.ended is None:
            yield from self.wait([entry], 1)  # it was there, and got lost since
        if entry.value is None:
            return Got("system: the session ended")
        value = bare(entry.value)
        if isinstance(value, tuple) and value[0] == STORED:
            return (yield from self.read(entry, place(value)[1]))
        return self._read_inline(value)

    def _read_inline(self, value: Value) -> Got:
        if isinstance(value, bytes):
            return self._got(*sim_programs.unpack(value))
        if value[0] == FAILED:
            return Got(f"system {value[1]}: {value[2]}")
        return self._got(*sim_programs.unpack(root(value)[1]))  # type: ignore[arg-type]

    def _got(self, outcome: str, inside: Iterable[ObjectId]) -> Got:
        return Got(outcome, [self.ref_of(some) for some in inside])

    def read(self, entry: Entry, nodes: Sequence[NodeId]) -> Code[Got]:
        some = entry.id
        while True:
            answer = yield from self._ask(True, some, PinObject(some, list(nodes)))
            if not isinstance(answer, ObjectGone):
                break
            if answer.error != "ObjectLostError":
                return Got(f"system {answer.error}: {answer.why}")
            failure, effects = self.owner.missed(entry, nodes, self.now)
            self.perform(effects)
            if failure is not None:
                return self._read_inline(failure)
            while entry.value is None and self.owner.ended is None:
                yield from self.wait([entry], 1)
            if entry.value is None:
                return Got("system: the session ended")
            value = bare(entry.value)
            if not is_stored(value):
                return self._read_inline(value)
            nodes = place(value)[1]
        assert isinstance(answer, ObjectPinned)
        where = slice(answer.offset, answer.offset + answer.size)
        memory = self.segment.disk[answer.file] if answer.file else self.segment
        data = bytes(memory[where])

        def done() -> None:
            assert bytes(memory[where]) == data, f"object {some.hex()} changed under its reader {self.me.hex()}"
            self.send(self.raylet, UnpinObjects([some]))

        self.at(self.now + READ_S, done)
        return self._got(*sim_programs.from_stored(data))

    def store(self, some: ObjectId, packed: bytes, size: int) -> Code[Value]:
        """The value as it travels: inline if it is small. A failure if the store is full."""
        if not size:
            return packed
        data = sim_programs.stored_bytes(packed, size)
        answer = yield from self._ask(False, some, AllocateObject(some, len(data)))
        if isinstance(answer, ObjectRefused):
            return (FAILED, "ObjectStoreFullError", answer.why)
        assert isinstance(answer, ObjectAllocated)
        self.segment[answer.offset : answer.offset + len(data)] = data
        self.send(self.raylet, SealObjects([some]))
        return (STORED, len(data), (self.node,))

    def put(self, outcome: str, size: int, inner: Sequence[Ref]) -> Code[Ref]:
        entry = self.owner.put_entry(next(self.counter))
        if self.copies > 1:
            size = max(size, 1)  # in the store
        value = yield from self.store(entry.id, sim_programs.pack(outcome, [self.export(ref) for ref in inner]), size)
        self.perform(self.owner.put(entry, value, [ref.entry for ref in inner]))
        if self.copies > 1:
            self.send(self.raylet, ReplicateObject(entry.id, self.copies))
        return Ref(self, entry)

    def _ask(self, pin: bool, some: ObjectId, message: Message) -> Code[Any]:
        signal = Signal(self)
        answer: list[Any] = []
        self._replies.setdefault((pin, some), []).append((signal, answer))
        self.send(self.raylet, message)
        self.shields += 1  # else nobody would take what the raylet gives
        yield signal
        self.shields -= 1
        return answer[0]

    def _on_reply(self, message: ObjectAllocated | ObjectRefused | ObjectPinned | ObjectGone) -> None:
        key = isinstance(message, (ObjectPinned, ObjectGone)), message.object
        signal, answer = self._replies[key].pop(0)
        if not self._replies[key]:
            del self._replies[key]
        answer.append(message)
        signal.entry_ready(None)
