"""A worker of the simulator: what `run.worker_main` and `run.execute` do, on virtual time, for simulated user code."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from sparkray_core.ids import HEAD, GroupId, ObjectId, ProcessId, TaskId, object_id, task_id
from sparkray_core.messages import (
    ERROR,
    FAILED,
    HOLDS,
    STORED,
    ActorFailed,
    ActorReady,
    CancelTask,
    ExitWorker,
    Message,
    NameResults,
    NodeGone,
    OrderTaken,
    ProcessGone,
    PushCalls,
    PushTasks,
    ResultTuple,
    RunNested,
    SetGpus,
    SetGroup,
    SetThreads,
    SetUpWorker,
    StartActor,
    StealTasks,
    StopActor,
    StreamRead,
    TaskResults,
    TasksReturned,
    TaskTuple,
    Value,
    WorkerBlocked,
    WorkerSetUp,
    WorkerUnblocked,
)
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import Entry
from sparkray_core.model.tasks import Task
from sparkray_core.model.where import NODE, group_of
from sparkray_core.testing import sim_programs
from sparkray_core.testing.sim_core import Cancelled, Code, Got, Ledger, Memory, ProcessEffect, Ref, Signal, SimCore
from sparkray_core.testing.sim_programs import Program, mix
from sparkray_core.testing.sim_streams import SimOutlets

SET_UP_S = 0.02  # that taking on an environment takes
INTERRUPT_S = 0.0001  # an interrupt that has to wait looks again
FLUSH_S = 0.001  # as in run.worker_main


class SimWorker(SimCore):
    """Runs what it is pushed, one after the other, or is one actor."""

    role = "worker"

    def __init__(self, me: ProcessId, segment: Memory, ledger: Ledger) -> None:
        super().__init__(me, segment, ledger)
        self.queue: deque[tuple[ProcessId, TaskTuple | StartActor]] = deque()
        self.functions: set[bytes] = set()
        self.results: deque[tuple[ProcessId, ResultTuple]] = deque()
        self.actor: StartActor | None = None
        self.env: str | None = None  # None: it is fresh, and may take on any
        self.named: dict[tuple[ProcessId, int], TaskId] = {}  # tasks whose results have ids of another owner
        self.groups: dict[ProcessId, GroupId] = {}  # of each owner's tasks
        self.leaving = ""
        self.retiring = ""  # it may leave as soon as nobody needs it
        self.blocked = 0
        self._wait: tuple[int, Signal] | None = None  # what it could run itself, and which wait that is
        self._asked: RunNested | None = None
        self._waits = 0
        self.kept: list[Ref] = []
        self._idle: Signal | None = None
        self._flushed_at = 0.0
        self.levels: list[tuple[ProcessId, int]] = []  # what runs, the last on top of those before
        self.firsts: list[int] = []  # of each: its own tasks have numbers from here on
        self.doomed: set[tuple[ProcessId, int]] = set()  # of these: they end as soon as those on top have
        self._answered: dict[ProcessId, int] = {}  # an actor's callers: the last call of each
        self.outlets = SimOutlets(self)
        self.runnable.append(start := Signal(self))
        start.code = self.serving = self._serve()

    # ------------------------------------------------------------------ messages
    def on_message(self, sender: ProcessId, message: Message) -> bool:
        if isinstance(message, PushTasks):
            self.functions.update(function[0] for function in message.functions)
            if self.blocked:  # what it waits for may be among them
                self.send(sender, TasksReturned([task[0] for task in message.tasks], blocked=True))
            else:
                self.outlets.pushed(sender, message.tasks)
                self._extend(sender, message.tasks)
        elif isinstance(message, PushCalls):
            assert self.actor is not None, "a call came to a worker that is no actor"
            assert self.actor.actor == message.actor, "a call came to another actor"
            self.outlets.pushed(sender, message.calls)
            self._extend(sender, message.calls)
        elif isinstance(message, SetUpWorker):
            assert self.env is None, f"a worker of {self.env!r} was to take on {message.env!r}"
            self.env = message.env
            self.at(self.now + SET_UP_S, lambda: self.send(self.raylet, WorkerSetUp("")))
        elif isinstance(message, SetThreads | SetGpus):
            assert not self.queue, "the threads or GPUs of a worker that has work are changed"
            self.send(self.raylet, OrderTaken())
        elif isinstance(message, RunNested):
            if self._wait is not None and self._wait[0] == message.wait and self._wait[1].missing > 0:
                self._asked = message
                self._wait[1].pause()
        elif isinstance(message, NameResults):
            self.named.update(((sender, count), task) for count, task in message.names)
        elif isinstance(message, SetGroup):
            assert all(owner != sender for owner, _ in self.queue), "the group of tasks that are here is changed"
            self.groups[sender] = message.group
        elif isinstance(message, StartActor):
            self._extend(sender, [message])
        elif isinstance(message, StealTasks):
            self._give_back(sender, message.most)
        elif isinstance(message, CancelTask):
            self._cancel(sender, message)
        elif isinstance(message, StopActor):
            self.leaving = message.why
            self._extend(sender, [])
        elif isinstance(message, ExitWorker):
            self.retiring = message.why
        elif isinstance(message, StreamRead):
            self.outlets.on_read(sender, message)
        else:
            if isinstance(message, ProcessGone | NodeGone):
                self.outlets.reader_gone(message.process if isinstance(message, ProcessGone) else message.node)
            return False
        return True

    def _turn(self) -> list[ProcessEffect]:
        effects = super()._turn()
        if self.retiring and not (self.leaving or self.owner.needed or self.living):
            self.leaving = self.retiring
            self._extend(self.me, [])
            effects += super()._turn()
        return effects

    def _extend(self, sender: ProcessId, items: Sequence[TaskTuple | StartActor]) -> None:
        self.queue.extend((sender, item) for item in items)
        if self._idle is not None:
            self._idle.entry_ready(None)
            self._idle = None

    def _cancel(self, sender: ProcessId, message: CancelTask) -> None:
        """Drop it from the queue, or interrupt it, or this process."""
        key = (sender, message.count)
        for item in self.queue:
            if item[0] == sender and isinstance(item[1], tuple) and item[1][0] == message.count:
                self.queue.remove(item)
                self.results.append((sender, self._cancelled(sender, item[1], "before")))
                self._flush()
                return
        if key not in self.levels:
            return
        level = self.levels.index(key)
        if message.recursive:
            for count in [count for count in self.owner.book.tasks if count >= self.firsts[level]]:
                self.perform(self.owner.cancel(count, message.force, True, self.now))
        if message.force and self.actor is None and sender != self.me:
            self._flush()
            self.leave("exit code 1")
            return
        self.doomed.add(key)
        self.at(self.now, self._interrupt)

    def _interrupt(self) -> None:
        """Whatever is on top, if it is to end and can."""
        if self.levels and self.levels[-1] in self.doomed:
            if self.shields:
                self.at(self.now + INTERRUPT_S, self._interrupt)
                return
            self.doomed.discard(self.levels[-1])
            self.interrupt(self.serving)

    def _cancelled(self, sender: ProcessId, task: TaskTuple, when: str) -> ResultTuple:
        count, _, returns, _, _ = task
        value: Value = (FAILED, "TaskCancelledError", f"the task was cancelled {when} it ran")
        self.ledger.answered.add((sender, count))
        if isinstance(returns, int):
            return count, [value] * returns, None
        outlet = self.outlets.running.pop((sender, count), None)
        return count, [value] if outlet is None else outlet.answer(value), None

    def _give_back(self, sender: ProcessId, most: int) -> None:
        counts: list[int] = []
        kept: deque[tuple[ProcessId, TaskTuple | StartActor]] = deque()
        while self.queue and len(counts) < most:
            owner, task = self.queue.pop()
            if owner == sender and isinstance(task, tuple):
                counts.append(task[0])
            else:
                kept.appendleft((owner, task))
        self.queue.extend(kept)
        counts.reverse()
        self.send(sender, TasksReturned(counts, blocked=False))

    # ------------------------------------------------------------------ running
    def _serve(self) -> Code[None]:
        while True:
            if not self.queue:
                self._flush()
                if self.queue:
                    continue  # a worker that its own owner has on lease: the results made room for more
                if self.leaving:
                    self.leave(self.leaving)
                    return
                self._idle = Signal(self)
                yield self._idle
                self._flushed_at = self.now
                continue
            sender, item = self.queue.popleft()
            if isinstance(item, StartActor):
                yield from self._become(item)
                continue
            if self.results:
                self.at(self.now + FLUSH_S, self._flush)
            self.results.append((sender, (yield from self._run_level(sender, item))))
            if self.now - self._flushed_at > FLUSH_S:
                self._flush()

    def _flush(self) -> None:
        by_owner: dict[ProcessId, list[ResultTuple]] = {}
        while self.results:
            sender, result = self.results.popleft()
            self.lend(sender, result[1])
            by_owner.setdefault(sender, []).append(result)
        busy, self._flushed_at = self.now - self._flushed_at, self.now
        for owner, done in by_owner.items():
            self.send(owner, TaskResults(done, busy))

    def on_block(self, whole: Signal | None, entries: Sequence[Entry]) -> Callable[[], None]:
        self._flush()
        if self.actor is None:
            back: dict[ProcessId, list[int]] = {}
            while self.queue:
                owner, task = self.queue.popleft()
                assert isinstance(task, tuple)
                back.setdefault(owner, []).append(task[0])
            for owner, counts in back.items():
                self.send(owner, TasksReturned(counts, blocked=True))
        self.blocked += 1
        helps = self.actor is None and whole is not None and self.owner.own.could(self.env or "")
        self._waits += helps
        self._wait = (self._waits, whole) if helps and whole is not None else None
        self.send(self.raylet, WorkerBlocked(self._waits if helps else 0, helps))

        def unblock() -> None:
            self.blocked -= 1
            self._wait = None
            self.send(self.raylet, WorkerUnblocked())

        return unblock

    def on_pause(self, signal: Signal, entries: Sequence[Entry]) -> Code[None]:
        """Run what is waited for on top, as `run.nested` does."""
        asked, self._asked, self._wait = self._asked, None, None
        assert asked is not None
        wanted = {entry.count for entry in entries if entry.owner == self.me and entry.value is None}
        taken = self._take_own(wanted, asked) if signal.missing > 0 else None
        over = signal.missing <= 0
        self.send(self.raylet, WorkerUnblocked() if taken or over else WorkerBlocked())
        if not taken:
            return
        while taken:
            task, wire = taken
            self.functions.add(task.function.id)
            result = yield from self._run_level(self.me, wire)
            self.lend(self.me, result[1])
            self.perform(self.owner.ran_own(result, self.now))
            if self.levels[-1] in self.doomed:
                self.doomed.discard(self.levels[-1])
                raise Cancelled
            taken = self._take_own(wanted, asked) if signal.missing > 0 else None
        if signal.missing > 0:
            self.send(self.raylet, WorkerBlocked())

    def _take_own(self, wanted: set[int], asked: RunNested) -> tuple[Task, TaskTuple] | None:
        taken, effects = self.owner.take_own(wanted, asked.resources, self.env or "", asked.priority, self.now)
        self.perform(effects)
        return taken

    # ------------------------------------------------------------------ one task
    def _run_level(self, caller: ProcessId, task: TaskTuple) -> Code[ResultTuple]:
        key = (caller, task[0])
        self.levels.append(key)
        self.firsts.append(self.submitted + 1)
        program, named = sim_programs.unpack_call(task[3])
        found: list[Ref] = []
        try:
            values = yield from self._execute(caller, task, program, named, found)
        except Cancelled:
            values = self._cancelled(caller, task, "while")[1]
        finally:
            self.levels.pop()
            self.firsts.pop()
            self.doomed.discard(key)
        if program.keeps_s and found:
            self._keep(found, program.keeps_s)
        self.ledger.answered.add(key)
        return task[0], values, self._still_held(found)

    def _still_held(self, found: list[Ref]) -> list[ObjectId] | None:
        """Of what came in the arguments of a task that ends."""
        refs, effects = self.owner.refs, list[Effect]()
        entries = list(dict.fromkeys(ref.entry for ref in found))
        lent_on = refs.lent_on(entries)
        found.clear()
        still = refs.outlives(entries, lent_on, effects)
        self.perform(effects)
        return still

    def _execute(
        self, caller: ProcessId, task: TaskTuple, program: Program, named: list[ObjectId], found: list[Ref]
    ) -> Code[list[Value]]:
        count, function, returns, _, refs = task
        if self.actor is None:
            self._has(program.env)
            self._is_where(program, self.groups.get(caller, b""))
            assert function in self.functions, "a task came before its function"
        else:
            last = self._answered.get(caller, 0)
            again = (caller, count) in self.ledger.answered  # its result got lost
            in_turn = last < count or again or self.actor.setup["unordered"]
            assert in_turn, f"call {count} of {caller.hex()} came after {last}"
            self._answered[caller] = max(last, count)
        may_again = program.retries != 0 if self.actor is None else program.again != 0
        self.ledger.begin(caller, count, self.me, may_again)
        found += [self.ref_of(some) for some in named]
        outcomes: list[str] = []
        failure = ""
        for _, value, some in refs or ():
            got = yield from self._argument(value, some)
            failure = failure or ("" if got.good else got.outcome)
            found += got.refs
            outcomes.append(got.outcome)
            del got
        values: list[Value]
        if not isinstance(returns, int):
            outlet = self.outlets.open(caller, count, returns)
            result = object_id(task_id(caller, count))
            if failure:
                values = [sim_programs.pack("end", []), returns[0], sim_programs.error(failure)]  # type: ignore[list-item]
            else:
                values = yield from outlet.run(program, result, outcomes, found)
            del self.outlets.running[caller, count]
        elif failure:
            values = [sim_programs.error(failure)] * returns
        else:
            first = object_id(self.named.get((caller, count)) or task_id(caller, count))
            values = yield from self._run(program, first, outcomes, found)
        return values

    def _has(self, env: str) -> None:
        self.env = self.env or ""
        assert self.env == env, f"{self.me.hex()} has the environment {self.env!r}, and is to run what needs {env!r}"

    def _is_where(self, program: Program, group: bytes) -> None:
        wanted = group_of(program.where) or b""
        assert group == wanted, f"{self.me.hex()} works in group {group.hex()}, and is to run what is in {wanted.hex()}"
        if program.where and program.where[0] == NODE and not program.where[2]:
            assert self.node == program.where[1], f"what is for node {program.where[1].hex()} runs in {self.me.hex()}"

    def _argument(self, value: Value, some: ObjectId) -> Code[Got]:
        if isinstance(value, bytes):
            return self._got(*sim_programs.unpack(value))
        assert value[0] == STORED, f"an argument is {value}"
        held = self.ref_of(some)  # in case that it is not found, and its owner has to be asked
        return (yield from self.read(held.entry, value[2]))

    def _run(self, program: Program, result: ObjectId, outcomes: list[str], found: list[Ref]) -> Code[list[Value]]:
        """What the program says; see `sim_programs.expect`."""
        yield program.run_s
        opened = [ref for ref in found if ref.actor is None] if program.opens else []
        deep: list[Ref] = []
        failed = yield from self._see(opened, outcomes, deep)
        if not failed and program.asks is not None:
            calls = [self.call(ref, program.asks)[0] for ref in found if ref.actor is not None]
            failed = yield from self._see(calls, outcomes)
        if not failed:
            inner = found if program.shares else []
            children = [self.submit(child, inner=inner)[0] for child in program.children]
            failed = yield from self._see(children, outcomes)
        if failed:
            return [sim_programs.error(failed)] * program.returns
        if program.fails:
            return [sim_programs.error(f"error {mix(program.key, outcomes)}")] * program.returns
        inside = [*found, *deep] if program.hands_back else []
        if program.gives is not None:
            fed = self.submit(program.feeds)[:1] if program.feeds is not None else []
            inside.append(self.submit(program.gives, fed)[0])
            del fed
        if program.puts >= 0:
            inside.append((yield from self.put(f"value {mix(program.key, 'put')}", program.puts, [])))
        values = []
        for index in range(program.returns):
            some = object_id(result[:24], index)
            within = inside if index == 0 else []
            packed = sim_programs.pack(
                f"value {mix(program.key, outcomes, index)}", [self.export(ref) for ref in within]
            )
            value = yield from self.store(some, packed, program.size)
            values.append(holding(value, within))
        return values

    def _see(self, refs: Sequence[Ref], outcomes: list[str], inside: list[Ref] | None = None) -> Code[str]:
        """Get these, note what they are and what is in them, and return the first failure among them."""
        if not refs:
            return ""
        for got in (yield from self.get(refs)):
            if not got.good:
                return got.outcome
            outcomes.append(got.outcome)
            if inside is not None:
                inside += got.refs
        return ""

    def lend(self, to: ProcessId, values: list[Value]) -> None:
        """They leave next."""
        for index, value in enumerate(values):
            if isinstance(value, tuple) and value[0] == HOLDS:
                ids = tuple(ref.entry.id if isinstance(ref, Ref) else ref for ref in value[2])
                self.kick()
                effects: list[Effect] = []
                self.owner.refs.lend(ids, to, effects)
                self.perform(effects)
                values[index] = (HOLDS, value[1], ids)

    def _keep(self, refs: list[Ref], seconds: float) -> None:
        kept = refs[:]
        self.at(self.now + seconds, kept.clear)

    # ------------------------------------------------------------------ an actor
    def _become(self, start: StartActor) -> Code[None]:
        program, named = sim_programs.unpack_call(start.payload)
        found = [self.ref_of(some) for some in named]
        self.actor = start
        self._has(program.env)
        self._is_where(program, group_of(start.where) or b"")
        self.ledger.actors.add(self.me)
        yield program.run_s
        outcomes: list[str] = []
        failed = yield from self._see(found if program.opens else [], outcomes)
        if failed or program.fails:
            sentence = failed or f"error {program.key}"
            self.send(HEAD, ActorFailed(start.actor, start.incarnation, (FAILED, "ActorDiedError", sentence)))
            self.leaving = "its constructor raised"
        else:
            self.send(HEAD, ActorReady(start.actor, start.incarnation))


def holding(value: Value, inside: Sequence[Ref]) -> Value:
    """The references are themselves until `SimWorker.lend`."""
    if not inside or (isinstance(value, tuple) and value[0] in (ERROR, FAILED)):
        return value
    return (HOLDS, value, tuple(inside))
