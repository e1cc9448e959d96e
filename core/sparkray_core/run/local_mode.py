"""`init(local_mode=True)`: tasks and actors run in this process, one after the other, so that a debugger works.

The owner's model is the real one, and values travel pickled, so what a program sees is what it would see with workers:
snapshots, errors, the order of calls, references. Only what the owner wishes for is answered here, at once, by the
thread that submits or waits:

    submit, get, ... --> Owner --> effects --> the mail --> a lease granted | a task run | an actor made --> Owner

Coroutines of an async actor are on an event loop of that actor, which turns while somebody submits or waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from sparkray_core import errors
from sparkray_core.ids import HEAD, ActorId, FunctionId, GroupId, LeaseId, NodeId, ProcessId, new_process_id
from sparkray_core.messages import (
    FAILED,
    STREAM_GATHERED,
    ActorChanged,
    CreateActor,
    CreateGroup,
    DescribeGroups,
    EndActor,
    FindActor,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    Message,
    NameActor,
    PushCalls,
    PushTasks,
    RemoveGroup,
    RequestLeases,
    Resources,
    ResultTuple,
    SetGroup,
    StartActor,
    StealTasks,
    TaskResults,
    TasksReturned,
    TaskTuple,
    Value,
    WatchActor,
    WatchGroup,
)
from sparkray_core.model.actor_names import ActorNames
from sparkray_core.model.choosing import Held
from sparkray_core.model.entries import Entry
from sparkray_core.model.methods import decode
from sparkray_core.model.owner import Actor, Task
from sparkray_core.model.resources import larger
from sparkray_core.model.where import NO_GROUP, group_of, membership
from sparkray_core.run import checkpoints, current_task, execute, object_ref, run_stream
from sparkray_core.run.actor_host import ActorHost
from sparkray_core.run.config import by_name
from sparkray_core.run.core import Core
from sparkray_core.run.local_groups import LocalGroups
from sparkray_core.run.pump import Getter, now
from sparkray_core.settings import Settings
from sparkray_core.wire import values

LOOK_S = 0.001  # between two looks at loops and threads that may bring what somebody waits for
_CANCELLED: Value = (FAILED, "TaskCancelledError", "the task was interrupted")


@dataclass(slots=True)
class _LocalActor:
    message: CreateActor
    worker: ProcessId
    restarts_left: int
    incarnation: int = 0
    host: ActorHost | None = None
    start: StartActor | None = None
    loop: asyncio.AbstractEventLoop | None = None
    coroutines: set[asyncio.Task[None]] = field(default_factory=set)
    dead: ActorChanged | None = None
    saved: Value | None = None  # by its `__ray_save__`, after the last call
    inside: list[Any] = field(default_factory=list)  # the references in there


class _Busy:
    """`with busy:` around each thing that may bring a value: which of them are under way, and how many have ended."""

    def __init__(self) -> None:
        self.ended = 0
        self._lock = threading.Lock()
        self._running = 0  # nested ones, and those of all threads
        self._own = threading.local()

    @property
    def anybody(self) -> bool:
        return self._running > 0

    @property
    def others(self) -> bool:
        """Whether another thread is at one."""
        mine: int = getattr(self._own, "running", 0)
        return self._running > mine

    def __enter__(self) -> None:
        self._own.running = getattr(self._own, "running", 0) + 1
        with self._lock:
            self._running += 1

    def __exit__(self, *_: object) -> None:
        self._own.running -= 1
        with self._lock:
            self._running -= 1
            self.ended += 1


class LocalCore(Core):
    """A session in one process. It has the methods of `Core`, and no socket."""

    serial = True

    def __init__(self, node: NodeId, resources: Resources, store_bytes: int, settings: Settings) -> None:
        super().__init__(new_process_id(node), "", b"", "driver", settings)
        self.session = "local_mode"
        self.resources = {**resources, **by_name("127.0.0.1", is_head=True)}
        self.store_bytes = store_bytes  # only told: values are kept as they are
        self.handlers.clear()
        self._mail: deque[tuple[ProcessId, Message]] = deque()
        self._tasks: deque[tuple[ProcessId, TaskTuple]] = deque()  # pushed to a worker, or to an actor's
        self._functions: dict[FunctionId, tuple[str, Callable[..., Any]]] = {}
        self._leases: dict[ProcessId, LeaseId] = {}
        self._groups = LocalGroups(node, self.resources, store_bytes)
        self._waiting: list[RequestLeases | _LocalActor] = []  # for their placement groups
        self._group_of: dict[ProcessId, tuple[GroupId, bool]] = {}  # what each worker was told
        self._actors: dict[ActorId, _LocalActor] = {}
        self._by_worker: dict[ProcessId, _LocalActor] = {}
        self._names = ActorNames()
        self._loops: list[asyncio.AbstractEventLoop] = []
        self._workers = itertools.count(1)
        self._busy = _Busy()

    # ------------------------------------------------------------------ session
    def connect(self) -> None:
        self._become_current()

    def close(self, why: str = "sparkray.shutdown() was called") -> None:
        if self._closed:
            return
        for actor in list(self._actors.values()):
            self._end(actor, why)
        for loop in self._loops:
            if not loop.is_running():
                loop.close()
        with self.lock:
            self._closed = True
            self.owner.end(why, [])
        if object_ref.current is self:
            object_ref.current = None
        for descriptor in (self.pump.inner, self.pump.outer):
            descriptor.close()

    def end_session(self, why: str) -> None:
        self.close(why)

    # ------------------------------------------------------------------ what the process's code wants
    def submit(self, task: Task) -> None:
        self.pending.append(task)
        self.look()

    def look(self) -> None:
        self.kick()
        self._drain()

    def notify(self, entry: Entry, callback: Callable[[], object]) -> None:
        self.look()
        if entry.value is None and not self._busy.anybody:
            self._wait(Getter(0), [entry], 1, None)
        super().notify(entry, callback)

    def cancel(self, entry: Entry, force: bool, recursive: bool) -> None:
        super().cancel(entry, force, recursive)
        self.look()

    def kill_actor(self, actor: Actor, restart: bool) -> None:
        super().kill_actor(actor, restart)
        self.look()

    def _wait(self, getter: Getter, entries: list[Entry], wanted: int, deadline: float | None) -> None:
        """Turn everything that can go on, until `wanted` of the entries are there.

        Raises:
            RaySystemError: nothing can go on, so they will never be there.
        """
        with self.lock:
            self._kick()
            self._perform(self.owner.want(entries, now()))
        missing = [entry for entry in entries if entry.value is None]
        getter.missing = wanted - (len(entries) - len(missing))
        while True:
            ended = self._busy.ended
            moved = self._drain()
            there = [entry for entry in missing if entry.value is not None]
            if getter.fail_fast is not None:
                getter.failed = getter.failed or next(filter(getter.fail_fast, there), None)
            if getter.failed is not None or len(there) >= wanted - (len(entries) - len(missing)):
                getter.missing = 0
                return
            self._check_open()
            if deadline is not None and now() >= deadline:
                return
            if not moved:
                # What another thread took out of the mail is on its way, or came between our two looks.
                if not self._others_run() and ended == self._busy.ended:
                    if deadline is not None:
                        return
                    raise errors.RaySystemError(
                        "in local mode nothing is left that could make this value: what it waits for waits for it, or "
                        "is the very code that asks"
                    )
                time.sleep(LOOK_S)

    def _others_run(self) -> bool:
        """Whether a coroutine or a thread of the user's may still bring something."""
        return self._busy.others or any(actor.coroutines for actor in self._actors.values())

    def ask(self, to: ProcessId, what: str) -> Any:
        if what == "nodes":
            return [self._groups.info.as_dict()]
        if what == "available":
            return dict(self.resources)
        if what == "named actors":
            return self._names.keys()
        raise errors.RaySystemError(f"{what!r} cannot be asked in local mode: there is no raylet and no head")

    def request(self, to: ProcessId, message: Callable[[int], Message]) -> Any:
        asked = message(0)
        if isinstance(asked, NameActor):
            return self._names.claim(asked.key, asked.actor, asked.facts)
        if isinstance(asked, FindActor):
            return self._names.find(asked.key)
        if isinstance(asked, CreateGroup):
            free = self._groups.claim(asked)
            if free:
                self._send(to, asked)
                self.look()
            return free
        if isinstance(asked, DescribeGroups):
            self.look()
            return self._groups.describe(asked)
        raise errors.RaySystemError(f"{type(asked).__name__} has no answer in local mode")

    # ------------------------------------------------------------------ values
    def store(self, some_object: Any, serialized: values.Serialized) -> Value:
        return values.to_inline(serialized)

    # ------------------------------------------------------------------ the mail
    def _send(self, to: ProcessId, message: Message) -> None:
        self._mail.append((to, message))

    def _drain(self) -> bool:
        """Deal with what was wished for and run what is to be run. Whether there was anything."""
        moved = False
        while self._mail or self._tasks:
            with self._busy:  # from before it is taken: whoever finds nothing more must know that somebody is at it
                moved = self._step() or moved
        return self._turn_loops() or moved

    def _step(self) -> bool:
        """Deal with one message, or run one task, unless another thread was quicker."""
        try:
            to, message = self._mail.popleft()
        except IndexError:
            try:
                worker, task = self._tasks.popleft()
            except IndexError:
                return False
            self._run(worker, task)
        else:
            self._deliver(to, message)
        return True

    def _deliver(self, to: ProcessId, message: Message) -> None:
        match message:
            case RequestLeases():
                self._grant(message)
            case PushTasks(functions, tasks, _):
                for function, name, blob in functions:
                    self._functions[function] = (name, _Blob(blob))
                self._tasks.extend((to, task) for task in tasks)
            case PushCalls(_, calls):
                self._tasks.extend((to, call) for call in calls)
            case StealTasks():
                self._tell(to, TasksReturned([], blocked=False))
            case CreateActor():
                self._create(message)
            case CreateGroup() | RemoveGroup() | WatchGroup():
                self._group(message)
            case SetGroup(group, captures):
                self._group_of[to] = group, captures
            case EndActor(some, why, restart, _):
                actor = self._actors.get(some)
                if actor is not None:
                    self._end(actor, why, restart)
            case WatchActor(some):
                known = self._actors.get(some)
                if known is not None:
                    self._tell(HEAD, ActorChanged(some, "alive", known.incarnation, known.worker, "", None))
            case _ if to == self.me:
                self._tell(to, message)

    def _tell(self, sender: ProcessId, message: Message) -> None:
        with self.lock:
            self._perform(self.owner.handle(sender, message, now()))

    def _has_run(self, worker: ProcessId, answer: ResultTuple) -> None:
        with self.lock:
            execute.lend(self, self.me, answer[1])
        self._tell(worker, TaskResults([answer], 0.0))

    def _new_worker(self) -> ProcessId:
        return ProcessId(self.node + (1 << 56 | next(self._workers)).to_bytes(8, "big"))

    def _grant(self, message: RequestLeases) -> None:
        no = self._groups.why_not(message.resources, message.where)
        if isinstance(no, Held):
            self._waiting.append(message)
            return
        for lease in message.leases:
            if no is None:
                worker = self._new_worker()
                self._leases[worker] = lease
                self._tell(self.raylet_id, LeaseGranted(lease, worker))
            else:
                self._tell(self.raylet_id, LeaseRefused(lease, no.why, f"Task{no.kind}"))

    def _group(self, message: CreateGroup | RemoveGroup | WatchGroup) -> None:
        """As a head does; then what waits for a group is looked at again."""
        for told in self._groups.receive(self.me, message):
            self._tell(HEAD, told)
        removed, self._groups.removed = self._groups.removed, []
        for actor in [a for a in self._actors.values() if a.host is not None and group_of(a.message.where) in removed]:
            self._end(actor, "its placement group was removed")
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if isinstance(one, RequestLeases):
                self._grant(one)
            else:
                self._place(one)

    # ------------------------------------------------------------------ running
    def _run(self, worker: ProcessId, task: TaskTuple) -> None:
        actor = self._by_worker.get(worker)
        if actor is not None:
            self._run_call(actor, task)
            return
        name, function = self._functions[FunctionId(task[1])]
        try:
            if isinstance(function, _Blob):
                with self._user_code(None):
                    function = cloudpickle.loads(function.blob)
                self._functions[FunctionId(task[1])] = (name, function)
            answer = self._execute(None, function, name, task, self._group_of.get(worker, NO_GROUP))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
            self._tell(self.raylet_id, LeaseLost(self._leases.pop(worker), f"exit code {code}: it called sys.exit()"))
            return
        except KeyboardInterrupt:
            self._tell(worker, TaskResults([(task[0], [_CANCELLED] * execute.answers(task[2]), None)], 0.0))
            raise
        except Exception as error:  # noqa: BLE001 - user code: the modules that it names are imported here
            answer = execute.refuse(task, name, error)
        self._has_run(worker, answer)

    def _execute(
        self,
        actor: _LocalActor | None,
        function: Callable[..., Any],
        name: str,
        task: TaskTuple,
        group: tuple[GroupId, bool] = NO_GROUP,
    ) -> ResultTuple:
        with self._user_code(actor, group):
            context = contextvars.copy_context()
            if isinstance(task[2], int):
                return context.run(execute.run, self, self.me, function, name, task)
            return context.run(run_stream.run, self, self.me, function, name, task, _Items(self.me, task))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _user_code(self, actor: _LocalActor | None, group: tuple[GroupId, bool] = NO_GROUP) -> Iterator[None]:
        """Around user code: what it asks of its context is right, and an event loop that runs here is out of sight."""
        before, current_task.actor = current_task.actor, actor.start if actor is not None else None
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        before_group = self.group
        self.enter_group(group if actor is None else membership(actor.message.where))
        try:
            with self._busy:
                yield
        finally:
            asyncio._set_running_loop(loop)
            self.enter_group(before_group)
            current_task.actor = before

    # ------------------------------------------------------------------ actors
    def _create(self, message: CreateActor) -> None:
        actor = _LocalActor(message, self._new_worker(), message.max_restarts)
        self._actors[message.actor] = actor
        self._by_worker[actor.worker] = actor
        self._place(actor)

    def _place(self, actor: _LocalActor) -> None:
        spec = actor.message
        no = self._groups.why_not(larger(spec.placement, spec.resources), spec.where)
        if isinstance(no, Held):
            self._waiting.append(actor)
        elif no is None:
            self._construct(actor)
        else:
            error = (FAILED, f"Actor{no.kind}", f"{spec.name}: {no.why}") if spec.where else None
            self._dies(actor, no.why, error)

    def _construct(self, actor: _LocalActor) -> None:
        spec = actor.message
        actor.start = start = StartActor(
            spec.actor,
            actor.incarnation,
            spec.name,
            spec.function,
            spec.blob,
            spec.payload,
            spec.refs,
            spec.resources,
            spec.placement,
            spec.setup,
            saved=actor.saved,
            where=spec.where,
        )
        hook = "__init__"
        try:
            with self._user_code(actor):
                cls = cloudpickle.loads(spec.blob)
                args, kwargs = execute.arguments(self, spec.payload, spec.refs, [])
                instance = contextvars.copy_context().run(cls, *args, **kwargs)
                hook = "__ray_restore__"
                checkpoints.restore(self, start, instance)
        except (SystemExit, current_task.ExitActor):
            self._dies(actor, "its constructor exited")
        except Exception as error:  # noqa: BLE001 - the user's constructor
            text = execute.failure_text(f"{spec.name}.{hook}", error)
            why = f"The actor died because of an error raised in its creation task, {text}"
            self._dies(actor, "its constructor raised", (FAILED, "ActorDiedError", why, spec.actor.hex(), True))
        else:
            actor.host = ActorHost(_Shim(self, actor), start, instance)  # type: ignore[arg-type]
            self._tell(HEAD, ActorChanged(spec.actor, "alive", actor.incarnation, actor.worker, "", None))

    def _run_call(self, actor: _LocalActor, call: TaskTuple) -> None:
        host = actor.host
        if host is None:
            return  # dead: its callers have heard
        try:
            name, _, method = host.find(self.me, call)
        except (AttributeError, ValueError) as error:
            self._tell(actor.worker, TaskResults([execute.refuse(call, decode(call[1]).name, error)], 0.0))
            return
        if host.is_async and isinstance(call[2], int) and asyncio.iscoroutinefunction(method):
            self._begin(actor, name, method, call)
            return
        try:
            answer = self._execute(actor, method, name, call)
        except (current_task.ExitActor, SystemExit):
            self._dies(actor, "exit_actor() or sys.exit() was called in it")
            return
        except KeyboardInterrupt:
            answer = call[0], [_CANCELLED] * execute.answers(call[2]), None
            self._has_run(actor.worker, answer)
            raise
        self._answer(actor, answer)
        if host.exiting:
            self._end(actor, "its __ray_terminate__ was called")

    def _answer(self, actor: _LocalActor, answer: ResultTuple) -> None:
        """Once its state is saved, if it has the hooks for that and may be restarted."""
        host = actor.host
        if host is not None and actor.restarts_left and checkpoints.hooks_of(host.instance):
            try:
                with self._user_code(actor):
                    state = values.serialize(host.instance.__ray_save__())
            except Exception as error:  # noqa: BLE001 - the user's hook
                answer = checkpoints.failed(answer, host.start.name, error)
            else:
                actor.saved, actor.inside = values.to_inline(state), state.refs
        self._has_run(actor.worker, answer)

    def _end(self, actor: _LocalActor, why: str, restart: bool = False) -> None:
        hook = getattr(actor.host.instance, "__ray_shutdown__", None) if actor.host is not None else None
        if hook is not None and why != "killed by ray.kill()":
            with self._user_code(actor), contextlib.suppress(Exception):
                hook()
        if restart and actor.restarts_left:
            actor.restarts_left -= actor.restarts_left > 0
            actor.incarnation += 1
            some = actor.message.actor
            self._let_go(actor)
            self._tell(HEAD, ActorChanged(some, "restarting", actor.incarnation, None, why, None))
            self._construct(actor)
        else:
            self._dies(actor, why)

    def _dies(self, actor: _LocalActor, why: str, error: Value | None = None) -> None:
        some = actor.message.actor
        self._let_go(actor)
        self._actors.pop(some, None)
        self._by_worker.pop(actor.worker, None)
        self._names.release(some)
        self._tell(HEAD, ActorChanged(some, "dead", actor.incarnation, None, why, error))

    def _let_go(self, actor: _LocalActor) -> None:
        actor.host = None
        if actor.loop is None:
            return
        for task in actor.coroutines:
            task.cancel()
        if actor.loop.is_running():
            return  # a coroutine of it is what ends it; who turns the loop closes it
        with self._user_code(actor):
            self._close_loop(actor)

    def _close_loop(self, actor: _LocalActor) -> None:
        loop, actor.loop = actor.loop, None
        if loop is not None:
            if actor.coroutines:
                loop.run_until_complete(asyncio.gather(*actor.coroutines, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        actor.coroutines.clear()

    # ------------------------------------------------------------------ coroutines
    def _begin(self, actor: _LocalActor, name: str, method: Callable[..., Any], call: TaskTuple) -> None:
        if actor.loop is None:
            actor.loop = asyncio.SelectorEventLoop()
            self._loops = [loop for loop in self._loops if not loop.is_closed()] + [actor.loop]

        async def run() -> None:
            try:
                answer = await execute.run_async(self, self.me, method, name, call)
            except asyncio.CancelledError:
                answer = call[0], [_CANCELLED] * execute.answers(call[2]), None
            except (current_task.ExitActor, SystemExit):
                self._dies(actor, "exit_actor() or sys.exit() was called in it")
                return
            self._answer(actor, answer)

        task = actor.loop.create_task(run())
        actor.coroutines.add(task)
        task.add_done_callback(actor.coroutines.discard)

    def _turn_loops(self) -> bool:
        """Each actor's coroutines as far as they go without waiting. Whether one ended."""
        moved = False
        for actor in list(self._by_worker.values()):
            if actor.coroutines and actor.loop is not None and not actor.loop.is_running():
                before = len(actor.coroutines)
                self._turn_loop(actor)
                moved = moved or len(actor.coroutines) < before or bool(self._mail or self._tasks)
        return moved

    def _turn_loop(self, actor: _LocalActor) -> None:
        loop = actor.loop
        assert loop is not None
        with self._user_code(actor):
            loop.call_soon(loop.stop)
            loop.run_forever()
            if actor.host is None:  # one of them ended it
                self._close_loop(actor)


class _Blob:
    """A function that has come but was not called yet."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("loaded before it is called")


class _Shim:
    """What `ActorHost` wants of a worker."""

    def __init__(self, core: LocalCore, actor: _LocalActor) -> None:
        self.core = core
        self.actor = actor

    def end_actor(self, why: str) -> None:
        if self.actor.host is not None:
            self.actor.host.exiting = True


class _Items:
    """A stream's way to its owner, as `run_stream` wants it: all items go with the answer."""

    def __init__(self, caller: ProcessId, task: TaskTuple) -> None:
        assert not isinstance(task[2], int)
        self.caller, self.count = caller, task[0]
        self._delivered, _, ahead = task[2]
        self.ahead = ahead if ahead == STREAM_GATHERED else 0
        self.index = 0
        self.full = self.closed = False
        self._items: list[Value] = []

    def wants(self) -> bool:
        self.index += 1
        return self.index > self._delivered

    def put(self, value: Value) -> None:
        self._items.append(value)

    def answer(self, end: Value) -> list[Any]:
        return [end, self._delivered, *self._items]
