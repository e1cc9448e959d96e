"""A worker: runs the tasks that owners push to it, or is one actor.

The main thread runs user code and, when it has none, leads the pump: a task that arrives is read and run by the same
thread. While user code runs, the side thread answers steals and questions and sends off results that lie too long.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from sparkray_core.ids import HEAD, FunctionId, GroupId, ProcessId, count_of, node_of, owner_of
from sparkray_core.messages import (
    AT_ONCE,
    FAILED,
    ActorFailed,
    ActorReady,
    CancelTask,
    EndActor,
    ExitWorker,
    LeaveRecords,
    LogLines,
    NameResults,
    NodeGone,
    OrderTaken,
    ProcessGone,
    PushCalls,
    PushTasks,
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
    WorkerSetUp,
    WorkerUnblocked,
)
from sparkray_core.model.entries import Entry
from sparkray_core.model.tasks import Function
from sparkray_core.model.where import NO_GROUP, membership
from sparkray_core.run import (
    checkpoints,
    current_task,
    environment,
    execute,
    gpus,
    modules,
    processes,
    records,
    stacks,
    threads,
)
from sparkray_core.run.actor_host import ActorHost, is_async
from sparkray_core.run.core import Core
from sparkray_core.run.current_task import ExitActor
from sparkray_core.run.nested import Nested
from sparkray_core.run.outlet import Outlets
from sparkray_core.run.output import LOOK_S, Tail, keep_streams
from sparkray_core.run.pump import Getter, now
from sparkray_core.run.records import CREATION, MOST_HANDED_OVER, clock

if TYPE_CHECKING:
    from sparkray_core.run.checkpoints import Saver
    from sparkray_core.run.config import NodeConfig

log = logging.getLogger(__name__)

RETIRE_LOOK_S = 1.0
# Interrupts a task that is cancelled. Not SIGINT: libraries and users' own code replace its handler, or ignore it.
CANCEL = int(getattr(signal, "SIGRTMAX", signal.SIGURG)) - (3 if hasattr(signal, "SIGRTMAX") else 0)
FLUSH_S = 0.001  # results of short tasks wait this long for company, or longer if their owner says so
GLANCE_S = 0.005  # between two tasks the sockets are looked at so often, or as often as results leave
FLUSH_RESULTS = 256  # or until there are so many
LAST_S = 0.002  # or so long, if one task is left: its owner has the time that this one takes to push more


def main(config: NodeConfig, process: ProcessId, be_wanted: Callable[[], None]) -> None:
    """Serve until told to end. Never raises: the zygote's child has nobody to catch it.

    Args:
        be_wanted: returns when this worker is. What comes before it may be done ahead of need.
    """
    core = Core(process, config.folder, config.token, "worker", config.settings)
    be_wanted()
    core.namespace = config.namespace
    core.actor_lifetime = config.job.get("actor_lifetime")
    current_task.host = config.host
    name = f"worker-{process[8:].hex()}"
    log_path = config.log_path(name)
    tail = Tail(config.new_log(name, ".out"), log_path)
    keep_streams()
    gpus.begin()
    faulthandler.enable()  # a crash in native code says where, on stderr
    stacks.arm(log_path)
    worker = Worker(core, tail)
    core.listen()
    core.connect()
    if "logging" in config.job:
        from sparkray_core.run import logs

        logs.configure(config.job["logging"])
    worker.serve()


class Worker:
    """The queue of what was pushed here, and its execution."""

    def __init__(self, core: Core, tail: Tail) -> None:
        self.core = core
        self.tail = tail
        self.work_giver: ProcessId | None = None  # who gets our output
        self.working_on = ""  # function or class
        self.queue: deque[tuple[ProcessId, TaskTuple]] = deque()
        self.functions: dict[FunctionId, tuple[str, Callable[..., Any]]] = {}
        self.groups: dict[ProcessId, tuple[GroupId, bool]] = {}  # the placement groups that owners' tasks work in
        self.results: deque[tuple[ProcessId, Any]] = deque()  # that may leave
        self.done: deque[tuple[ProcessId, Any]] | Saver = self.results  # of what ran; a saver lets them leave later
        self.host: ActorHost | None = None  # when this is an actor
        self.start: StartActor | None = None
        self.leaving: str | None = None  # why this worker ends once its queue is empty
        self.running: tuple[ProcessId, int] | None = None  # whose task the main thread runs, and its number
        self.function = b""  # the id of what the main thread runs
        self.began = time.perf_counter()  # when it began to, or the one before it ended
        self.interrupted: tuple[ProcessId, int] | None = None  # a signal for it is on the way
        self.streams = Outlets(self)
        self._main_thread = threading.get_ident()
        self.retiring: str | None = None  # why this worker ends once nobody needs it
        self._idle: Getter | None = None
        self._titled = ""  # what this process's title says it works on
        self._flushed_at = 0.0
        self._glanced_at = 0.0
        self._hold_s = FLUSH_S  # results wait this long for company
        self._exits = False  # the actor has said that it wants to end
        self._blocked = 0  # so many of the running tasks and their threads wait in `get` or `wait`
        self.nested = Nested(self)
        self._running = False
        self._looked_at = 0.0
        core.handlers |= {
            PushTasks: self._on_tasks,
            PushCalls: self._on_calls,
            StealTasks: self._on_steal,
            CancelTask: self._on_cancel,
            StartActor: self._on_order,
            SetUpWorker: self._on_order,
            SetThreads: self._on_order,
            SetGpus: self._on_order,
            SetGroup: self._on_group,
            StopActor: self._on_leave,
            ExitWorker: self._on_exit,
            LogLines: self._on_output,
            StreamRead: self.streams.on_read,
            RunNested: self.nested.on_run,
            NameResults: self._on_names,
            ProcessGone: self._on_gone,
            NodeGone: self._on_gone,
        }
        core.on_block, core.on_pause = self._block, self.nested.run
        core.on_quiet = self._flush_late
        core.runs, core.name_of, core.function_name = self._runs, self._name_of, self._function_name

    # ------------------------------------------------------------------ messages (the core's lock is held)
    def _on_tasks(self, sender: ProcessId, message: PushTasks) -> None:
        for function_id, name, blob in message.functions:
            self.functions[function_id] = (name, _Unloaded(blob))
        if self._blocked and self.host is None:  # the running task waits, perhaps for just these
            self.core._send(sender, TasksReturned([task[0] for task in message.tasks], blocked=True))
            return
        self._hold_s = max(FLUSH_S, message.hold_s) if message.hold_s >= 0 else AT_ONCE
        if message.hold_s > 0:
            self.core.pump.will_glance(message.hold_s)
        self.streams.pushed(sender, message.tasks)
        self._extend([(sender, task) for task in message.tasks])

    def _on_calls(self, sender: ProcessId, message: PushCalls) -> None:
        self.streams.pushed(sender, message.calls)
        self._extend([(sender, call) for call in message.calls])

    def _on_names(self, sender: ProcessId, message: NameResults) -> None:
        """Of tasks that come behind it."""
        self.core.named.update(((sender, count), task) for count, task in message.names)

    def _on_group(self, sender: ProcessId, message: SetGroup) -> None:
        """Of what this owner pushes after it; nothing that it pushed before is left."""
        self.groups[sender] = message.group, message.captures

    def _on_order(self, sender: ProcessId, message: StartActor | SetUpWorker | SetThreads | SetGpus) -> None:
        """For the main thread, before what is pushed after it."""
        self._extend([(sender, message)])
        if isinstance(message, SetThreads | SetGpus):
            self.core._send(self.core.raylet_id, OrderTaken())

    def _on_gone(self, sender: ProcessId, message: ProcessGone | NodeGone) -> None:
        self.streams.on_gone(sender, message)
        driver = self.core.driver
        if driver is None or self.host is not None or self.start is not None:
            return
        if driver == message.process if isinstance(message, ProcessGone) else node_of(driver) == message.node:
            # No other driver gets this process; it ends even if a detached actor of its driver could still use it.
            self.retiring = f"the driver that it worked for is gone: {message.why}"
            self._extend(())

    def _on_output(self, sender: ProcessId, message: LogLines) -> None:
        """Of a worker that works for us: on to whom we work for."""
        if self.work_giver is not None:
            self.core._send(self.work_giver, message)

    def _on_leave(self, sender: ProcessId, message: StopActor) -> None:
        self.leaving = message.why
        self._extend(())

    def _on_exit(self, sender: ProcessId, message: ExitWorker) -> None:
        """One idle worker too many. It goes when nobody would miss it."""
        self.retiring = message.why
        self._extend(())

    def _extend(self, items: Any) -> None:
        self.queue.extend(items)
        if self._idle is not None:
            self._idle.finish()

    def _on_steal(self, sender: ProcessId, message: StealTasks) -> None:
        """Give back from the end, so that what runs next is still here."""
        counts: list[int] = []
        kept: deque[tuple[ProcessId, TaskTuple]] = deque()
        while self.queue and len(counts) < message.most:
            owner, task = self.queue.pop()
            if owner == sender and type(task) is tuple:
                counts.append(task[0])
            else:
                kept.appendleft((owner, task))
        self.queue.extend(kept)
        counts.reverse()
        self.core._send(sender, TasksReturned(counts, blocked=False))

    def _on_cancel(self, sender: ProcessId, message: CancelTask) -> None:
        """Drop it from the queue, or interrupt it: the signal ends a `time.sleep`, too."""
        for item in list(self.queue):  # the running thread takes from it without the lock
            if item[0] == sender and isinstance(item[1], tuple) and item[1][0] == message.count:
                try:
                    self.queue.remove(item)
                except ValueError:
                    break  # it begins right now
                kept = self.core.records
                kept.failed(sender, message.count, "TaskCancelledError")
                kept.ran.append((sender, message.count, item[1][1], clock(), clock()))
                self.results.append((sender, self.streams.cancelled(sender, item[1], ran=False)))
                self._flush()
                return
        self.core.records.cancelled.remember((sender, message.count), None)
        if self.host is not None and self.host.cancel(sender, message.count):
            if self.host.is_threaded:
                self.streams.cancel(sender, message.count)
            return
        below = self.nested.cancel(sender, message)
        if self.running == (sender, message.count) and message.recursive:
            self.cancel_children(self.nested.first, message.force)
        if (below or self.running == (sender, message.count)) and message.force and self._may_crash(sender):
            self._flush()
            os._exit(1)
        if self.running == (sender, message.count):
            self.interrupted = self.running
            signal.pthread_kill(self._main_thread, CANCEL)

    def _may_crash(self, caller: ProcessId) -> bool:
        """Whether this process may end for a task of that caller. One of its own runs on top of another's."""
        return self.host is None and not (self.nested.below and caller == self.core.me)

    def cancel_children(self, first: int, force: bool) -> None:
        """What was submitted from this number on."""
        for count in [count for count in self.core.owner.book.tasks if count >= first]:
            self.core._perform(self.core.owner.cancel(count, force, True, now()))

    def interrupt(self, signum: int, frame: Any) -> None:
        """Meant for the task that was running when it was cancelled, not for the one after it."""
        if self.running is not None and (signum == signal.SIGINT or self.interrupted == self.running):
            if self.streams.shields:
                self.streams.interrupted = True
                return
            self.interrupted = None
            raise KeyboardInterrupt

    # ------------------------------------------------------------------ running
    def serve(self) -> None:
        queue = self.queue
        ran = self.core.records.ran.append
        signal.signal(signal.SIGINT, self.interrupt)  # a task that sends it to itself
        signal.signal(CANCEL, self.interrupt)
        self.core.pump.interrupts = (CANCEL,)
        self._flushed_at = time.perf_counter()
        self._begin_running()  # the first task may be here before we ever wait for one
        while True:
            try:
                sender, task = queue.popleft()
            except IndexError:
                if self.host is not None and self.host.saver is not None:
                    self.host.saver.save_if_due()
                if self._hold_s > FLUSH_S and self.results:
                    self.core.pump.glance()  # what its owner gave for the last results may be here
                    if self.queue:
                        continue
                self.flush()
                if self.leaving is None and self.retiring is not None and not self._needed():
                    self.leaving = self.retiring
                if self.leaving is not None:
                    self.leave()
                self._wait()
                self.began = time.perf_counter()
                continue
            host = self.host
            if type(task) is not tuple:
                self._carry_out(task)
            elif host is not None and host.exiting:
                continue  # its caller hears that the actor died
            elif host is not None and host.is_threaded:
                host.hand_over(sender, task)
            else:
                self.done.append((sender, self._run(sender, task)))
                moment = time.perf_counter()
                ran((sender, task[0], task[1], self.began, moment))
                self.began = moment
                lain = moment - self._flushed_at
                if lain > self._hold_s or len(self.results) >= FLUSH_RESULTS or (lain > LAST_S and len(queue) == 1):
                    self.flush()
                if moment - self._glanced_at > GLANCE_S and moment - self._glanced_at > self._hold_s:
                    self._glanced_at = moment
                    self.core.pump.glance(self._hold_s)

    def _carry_out(self, order: Any) -> None:
        if isinstance(order, StartActor):
            self._become(order)
        elif isinstance(order, SetThreads):
            threads.set_count(order.count)
        elif isinstance(order, SetGpus):
            gpus.give(order.gpus)
        elif isinstance(order, SetUpWorker):
            self._set_up(order.env)

    def _set_up(self, env: str) -> None:
        """Take on an environment; when that fails or takes too long, the raylet hears why and kills this process."""
        said = threading.Lock()

        def say(why: str) -> None:
            if said.acquire(blocking=False):
                self.core.send(self.core.raylet_id, WorkerSetUp(why))

        limit = environment.time_limit(env)
        watch = None
        if limit is not None:
            why = f"it took longer than {limit:g} s (config={{'setup_timeout_seconds': ...}} allows more)"
            watch = threading.Timer(limit, say, [why])
            watch.daemon = True
            watch.start()
        try:
            environment.take_on(self.core, env)
        except environment.SetUpFailed as failed:
            say(str(failed))
        except SystemExit as ended:
            say(f"worker_process_setup_hook called sys.exit({ended.code!r})")
        else:
            say("")
        finally:
            if watch is not None:
                watch.cancel()

    def _run(self, sender: ProcessId, task: TaskTuple) -> Any:
        self.running = (sender, task[0])
        self.function = task[1]
        try:
            answer = self._run_uncancelled(sender, task)
            self.running = None
            return answer
        except KeyboardInterrupt as end:
            self.running = None
            found = execute.found_by(end)
        # Its frames are gone here, with what they held.
        self.core.records.failed(sender, task[0], "TaskCancelledError")
        return self.streams.cancelled(sender, task, found=found)

    def _runs(self) -> list[tuple[ProcessId, int, bytes, float]]:
        """What the main thread runs, since when."""
        running, function = self.running, self.function
        found = [] if running is None else [(*running, function, self.began)]
        return [(*level.task, level.function, level.began) for level in self.nested.below if level.task] + found

    def teach(self, function: Function) -> None:
        """It is run here without having been pushed."""
        self.functions.setdefault(function.id, (function.name, _Unloaded(function.blob)))

    def _name_of(self, function: bytes) -> str:
        found = self.functions.get(FunctionId(function))
        return "" if found is None else found[0]

    def _function_name(self, name: str) -> str:
        """Of the running task, as its module knows it."""
        if self.host is not None:
            return f"{type(self.host.instance).__module__}.{name}"
        function = self.functions[FunctionId(self.function)][1]
        qualified = getattr(function, "__qualname__", name).rpartition("<locals>.")[2]
        return f"{getattr(function, '__module__', '')}.{qualified}"

    def _run_uncancelled(self, sender: ProcessId, task: TaskTuple) -> Any:
        try:
            if self.host is not None:
                answer = self.host.run(sender, task)
                if self.host.exiting:
                    raise ExitActor  # it was caught on its way
                return answer
            if self.groups:
                self.core.enter_group(self.groups.get(sender, NO_GROUP))
            name, function = self.functions[task[1]]  # type: ignore[index]
            self.working_on = name
            if sender != self.core.me:  # else what is printed goes where it went before
                self.work_giver = sender
            if isinstance(function, _Unloaded):
                try:
                    function = modules.load(function.blob, f"{name}()")
                except execute.ENDS:
                    raise
                except BaseException as error:  # noqa: BLE001 - user code: the modules that it names are imported here
                    self.core.records.failed(sender, task[0], error)
                    return execute.refuse(task, name, error)
                self.functions[FunctionId(task[1])] = (name, function)
            if type(task[2]) is not int:
                return self.streams.run(sender, function, name, task)
            return execute.run(self.core, sender, function, name, task, later=not self.nested.below)
        except (ExitActor, SystemExit) as ended:
            if self.nested.below:
                raise  # it is not this process's last task
            self.flush()
            if self.host is None:  # the caller of a task hears of a crashed worker, whatever the exit code
                self.core.close("its task called sys.exit()")
                os._exit(ended.code if isinstance(ended, SystemExit) and isinstance(ended.code, int) else 1)
            self.end_by(ended)
            self.leave_when_told()

    def answer(self, sender: ProcessId, answer: Any) -> None:
        """From an actor's thread: its answer, at once."""
        self.done.append((sender, answer))
        self.flush()

    def _needed(self) -> bool:
        with self.core.lock:
            return self.core.owner.needed

    def _wait(self) -> None:
        """Lead the pump until there is something to run."""
        idle = Getter(1)
        with self.core.lock:
            self.core._kick_if_any()  # an idle worker holds nobody's objects
            if self.queue or self.leaving is not None:
                return
            self._idle = idle
            if self._titled and self.host is None:
                self._set_title("")
        self._running = False
        self.core.pump.look_s = None
        # While it is only kept for what others borrow from it, it looks now and then whether they still do.
        until = now() + RETIRE_LOOK_S if self.retiring is not None else None
        if self.host is not None and self.host.saver is not None:
            until = self.host.saver.policy.due_at
        self.core.pump.lead(idle, until, interruptible=False)
        self._begin_running()
        self._idle = None
        self._flushed_at = time.perf_counter()

    def _begin_running(self) -> None:
        """From now on the side thread looks after what is printed, and after results that lie behind a long task."""
        self._running = True
        self.core.pump.look_every(LOOK_S)

    def flush(self) -> None:
        """Send what is done, one message for each owner."""
        if self.results or self.streams.running:
            with self.core.lock:
                self._flush()

    def send_output(self, last: bool = False) -> None:
        """What was printed goes ahead of the results. The core's lock is held."""
        if self.work_giver is None:
            return
        for stream, lines in self.tail.new_lines(last):
            host = "" if node_of(self.work_giver) == self.core.node else socket.gethostname()
            self.core._send(self.work_giver, LogLines(self.working_on, os.getpid(), host, stream, lines))

    def _flush(self) -> None:
        self.send_output()
        for outlet in self.streams.running.values():
            outlet._flush()
        by_owner: dict[ProcessId, list[Any]] = {}
        results = self.results
        while results:
            sender, result = results.popleft()
            by_owner.setdefault(sender, []).append(execute.packed(self.core, sender, result))
        moment = time.perf_counter()
        busy, self._flushed_at = moment - self._flushed_at, moment
        for owner, done in by_owner.items():
            self.core.records.finished += len(done)
            self.core._send(owner, TaskResults(done, busy))

    def _flush_late(self) -> None:
        """From the side thread: the task that runs now takes long, and results or printed lines wait."""
        if not self._running:
            return
        pump = self.core.pump
        for outlet in list(self.streams.running.values()):
            if outlet.flush_late():
                pump.again_s = FLUSH_S
        if self.results:
            lain = time.perf_counter() - self._flushed_at
            if lain > self._hold_s:
                self.flush()
            else:
                pump.again_s = pump.again_s or self._hold_s - lain + FLUSH_S
        elif time.monotonic() - self._looked_at > LOOK_S:
            self._looked_at = time.monotonic()
            with self.core.lock:
                self.send_output()
                if self._idle is None and self.start is None and self._titled != self.working_on:
                    self._set_title(self.working_on)

    def _set_title(self, working_on: str) -> None:
        """For `ps`. The core's lock is held.

        Not with every task: that would add 5 us to the 7 that a short one takes. A look from the side thread, every
        LOOK_S, finds what runs for long, and some of a stream of short ones.
        """
        self._titled = working_on
        processes.set_title(f"worker {working_on}".rstrip(), "sparkray-worker")

    # ------------------------------------------------------------------ waiting inside user code
    def _block(self, getter: Getter | None, entries: list[Entry] | None) -> Callable[[], None] | None:
        """User code waits: lend the CPU, and give back what was pushed behind it; it may be what is waited for.

        Args:
            getter, entries: if nothing but all of these ends the wait.
        """
        core = self.core
        if self.host is not None and (self.host.is_async or self.host.is_threaded):
            return None  # others of its calls go on
        with core.lock:
            self._flush()
            self._blocked += 1
            if self.host is None:
                back: dict[ProcessId, list[int]] = {}
                while self.queue:
                    owner, task = self.queue.popleft()
                    back.setdefault(owner, []).append(task[0])
                for owner, counts in back.items():
                    core._send(owner, TasksReturned(counts, blocked=True))
            core._send(core.raylet_id, self.nested.begins(getter, entries))

        def unblock() -> None:
            with core.lock:
                self._blocked -= 1
                self.nested.ends(getter)
                core._send(core.raylet_id, WorkerUnblocked())

        return unblock

    # ------------------------------------------------------------------ actors
    def _become(self, start: StartActor) -> None:
        core = self.core
        current_task.on_exit = self.exit_actor
        self._hold_s = FLUSH_S  # whatever the owner said of the tasks that ran here before
        with core.lock:  # the side thread sets titles, too
            self.start = current_task.actor = start
            self.work_giver, self.working_on = owner_of(start.actor), start.name
            processes.set_title(f"actor {start.name}", "sparkray-worker")
        core.enter_group(membership(start.where))
        core.records.active[owner_of(start.actor), count_of(start.actor)] = CREATION, clock()
        try:
            cls = modules.load(start.blob, f"the class {start.name}")
        except BaseException as error:  # noqa: BLE001 - user code: the modules that it names are imported here
            self._fail_to_begin(start, "__init__", error)
            return
        if is_async(cls):
            import asyncio  # 50 ms, and few use it

            asyncio.run(self._live_on_loop(start, cls))
        else:
            self._begin(start, cls)

    async def _live_on_loop(self, start: StartActor, cls: type) -> None:
        """An async actor. Its constructor runs on the loop, too, so that it can make tasks there."""
        self._begin(start, cls)
        if self.host is not None:
            self.core.is_async = True
            await self.host.serve_async()

    def _begin(self, start: StartActor, cls: type) -> None:
        """Construct it, and restore its state if a former life has saved some."""
        core, found = self.core, list[Any]()
        hook = "__init__"
        try:
            args, kwargs = execute.arguments(core, start.payload, start.refs, found)
            instance = cls(*args, **kwargs)
            hook = "__ray_restore__"
            checkpoints.restore(core, start, instance)
            if self._exits:
                raise ExitActor  # it was caught on its way
        except (ExitActor, SystemExit) as ended:
            self.end_by(ended)
            why = f"{start.name}: exit_actor() or sys.exit() was called in its constructor"
            self._never_begin(start, (FAILED, "ActorDiedError", why, start.actor.hex()))
            self.leave()
        except BaseException as error:  # noqa: BLE001 - the user's constructor
            self._fail_to_begin(start, hook, error)
            return
        core.records.ends(owner_of(start.actor), count_of(start.actor))
        current_task.instance = instance
        if any("__repr__" in vars(base) for base in type(instance).__mro__[:-1]):  # a name for its output
            with core.lock:
                self.send_output()  # its constructor's
                self.working_on = " ".join(execute.repr_of(instance).split())
        self.host = ActorHost(self, start, instance)
        self.host.save_state()
        core.send(HEAD, ActorReady(start.actor, start.incarnation))

    def _fail_to_begin(self, start: StartActor, hook: str, error: BaseException) -> None:
        owner, count = owner_of(start.actor), count_of(start.actor)
        self.core.records.failed(owner, count, error)
        self.core.records.ends(owner, count)
        text = execute.failure_text(f"{start.name}.{hook}", error)
        why = f"The actor died because of an error raised in its creation task, {text}"
        self._never_begin(start, (FAILED, "ActorDiedError", why, start.actor.hex(), True))

    def _never_begin(self, start: StartActor, failure: Value) -> None:
        self.core.send(HEAD, ActorFailed(start.actor, start.incarnation, failure))
        self.leaving = "its constructor raised or exited"

    def end_actor(self, why: str) -> None:
        """The actor wants to end, once its queue is empty. The head tells the raylet that it is meant, who tells us."""
        assert self.start is not None
        self.core.send(HEAD, EndActor(self.start.actor, why, restart=False, gently=True))

    def exit_actor(self) -> None:
        """The actor wants to end now: nothing more is run."""
        if self._exits:
            return
        self._exits = True
        if self.host is not None:  # else it is in its constructor
            self.host.exiting = True
            self.end_actor("exit_actor() or sys.exit() was called in it")

    def end_by(self, ended: BaseException) -> None:
        """The actor's code raised `ExitActor` or `SystemExit`. An exit code other than 0 is a crash, as in Ray."""
        if not isinstance(ended, SystemExit) or ended.code in (None, 0):
            self.exit_actor()
            return
        self.flush()
        with self.core.lock:
            self.send_output(last=True)
        self.core.close(f"it called sys.exit({ended.code!r})")
        os._exit(ended.code if isinstance(ended.code, int) else 1)

    def leave_when_told(self) -> NoReturn:
        told = Getter(1)
        self._idle = told
        while self.leaving is None:
            told.missing = 1
            self.core.pump.lead(told, time.monotonic() + 0.1)
        self.leave()

    def leave(self) -> NoReturn:
        """End this process as one ends a program: hooks run, nothing is killed."""
        if self.host is not None:
            self.host.finish()
            if self.host.saver is not None:
                self.host.saver.stop()
            self.flush()
            hook = getattr(self.host.instance, "__ray_shutdown__", None)
            if hook is not None:
                try:
                    hook()
                except Exception:  # the user's hook; the process ends all the same
                    log.exception("__ray_shutdown__ of %s raised", self.host.start.name)
        atexit._run_exitfuncs()
        with self.core.lock:
            self.send_output(last=True)
            self._leave_records()
        self.core.close(self.leaving or "the worker ends")
        os._exit(0)

    def _leave_records(self) -> None:
        """For those who look when this process is gone."""
        core = self.core
        if core.records.ran or records.user_counters is not None:
            from sparkray_core.run.inspection import farewell

            core._send(core.raylet_id, LeaveRecords(farewell(core, MOST_HANDED_OVER)))


class _Unloaded:
    """A function that has come but was not called yet."""

    __slots__ = ("blob",)

    def __init__(self, blob: bytes) -> None:
        self.blob = blob

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("loaded before it is called")
