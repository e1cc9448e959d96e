"""An actor in its worker: one call after the other, several in threads, or many on one event loop.

serial     the worker's main thread runs the queue, as it does with tasks
threaded   the main thread reads the sockets and hands calls to pools, one pool per concurrency group
async      one event loop in the main thread reads the sockets, too: no thread switch between a call and its coroutine
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId
from sparkray_core.messages import FAILED, StartActor, TaskTuple, Value
from sparkray_core.run import execute
from sparkray_core.run.pump import now

if TYPE_CHECKING:
    from sparkray_core.run.worker_main import Worker

_CANCELLED: Value = (FAILED, "TaskCancelledError", "the call was cancelled while it ran")
ASYNC_CONCURRENCY = 1000  # calls at once of an actor with coroutine methods; Ray's default


class ExitActor(BaseException):
    """Raised by `exit_actor()` in a method: the actor ends, on purpose."""


class ActorHost:
    """An actor's instance and how its methods are called."""

    def __init__(self, worker: Worker, start: StartActor, instance: Any) -> None:
        self.worker = worker
        self.start = start
        self.instance = instance
        self.exiting = False  # what is still queued will not run
        setup = start.setup
        limit = setup.get("max_concurrency")
        groups: Mapping[str, int] = setup.get("groups") or {}
        self.group_of: Mapping[str, str] = setup.get("group_of") or {}
        methods = [getattr(type(instance), name, None) for name in dir(type(instance))]
        self.is_async = any(inspect.iscoroutinefunction(method) for method in methods)
        self._limits = {"": limit or (ASYNC_CONCURRENCY if self.is_async else 1), **groups}
        self.is_threaded = not self.is_async and (len(groups) > 0 or self._limits[""] > 1)
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks weakly only
        self._coroutines: dict[tuple[ProcessId, int], asyncio.Task[None]] = {}
        self._alarm: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ finding what is called
    def find(self, call: TaskTuple) -> tuple[str, str, Callable[..., Any]]:
        """(display name, concurrency group, function). Raises `AttributeError` (method) or `ValueError` (group)."""
        name, _, group = call[1].decode().partition("\0")
        group = group or self.group_of.get(name, "")
        if group not in self._limits:
            known = ", ".join(sorted(filter(None, self._limits))) or "none"
            raise ValueError(f"{self.start.name} has no concurrency group {group!r}; it has: {known}")
        own = _BUILT_IN.get(name)
        if own is not None:
            return name, group, lambda *args, **kwargs: own(self, *args, **kwargs)
        method = getattr(self.instance, name, None)
        if method is None:
            raise AttributeError(f"{self.start.name} has no method {name!r}")
        return f"{self.start.name}.{name}", group, method

    def run(self, sender: ProcessId, call: TaskTuple) -> Any:
        """Run a call here and now; the answer for its owner."""
        try:
            name, _, method = self.find(call)
        except (AttributeError, ValueError) as error:
            return execute.refuse(call, call[1].decode(), error)
        return execute.run(self.worker.core, sender, method, name, call)

    def cancel(self, sender: ProcessId, count: int) -> bool:
        """Cancel a call that this class runs itself. Returns whether it is one. The core's lock is held."""
        task = self._coroutines.get((sender, count))
        if task is not None:
            task.get_loop().call_soon_threadsafe(task.cancel)
        return task is not None or self.is_async or self.is_threaded

    # ------------------------------------------------------------------ threads
    def hand_over(self, sender: ProcessId, call: TaskTuple) -> None:
        """Run a call in its group's pool."""
        try:
            _, group, _ = self.find(call)
        except (AttributeError, ValueError) as error:
            self.worker.answer(sender, execute.refuse(call, call[1].decode(), error))
            return
        pool = self._pools.get(group)
        if pool is None:
            pool = self._pools[group] = ThreadPoolExecutor(self._limits[group], f"actor-{group or 'default'}")
        pool.submit(self._run_in_thread, sender, call)

    def _run_in_thread(self, sender: ProcessId, call: TaskTuple) -> None:
        if self.exiting:
            return
        try:
            self.worker.answer(sender, self.run(sender, call))
        except (ExitActor, SystemExit):
            self.worker.exit_actor()

    def finish(self) -> None:
        """Wait until what was begun is done."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    # ------------------------------------------------------------------ one event loop
    def serve_async(self) -> None:
        """Run calls on an event loop, until the worker leaves."""
        asyncio.run(self._serve_async())

    async def _serve_async(self) -> None:
        loop = asyncio.get_running_loop()
        pump = self.worker.core.pump
        self._gates = {group: asyncio.Semaphore(limit) for group, limit in self._limits.items()}
        self._ended = asyncio.Event()
        descriptor = pump.embed(lambda: loop.call_soon_threadsafe(self._turn))
        loop.add_reader(descriptor, self._turn)
        self._turn()
        await self._ended.wait()
        if not self.exiting:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        loop.remove_reader(descriptor)
        self.worker.flush()
        self.worker.leave()

    def _turn(self) -> None:
        """Take in what has arrived, and begin it."""
        pump = self.worker.core.pump
        pump.turn_now()
        queue = self.worker.queue
        while queue:
            sender, call = queue.popleft()
            task = asyncio.get_running_loop().create_task(self._run_async(sender, call))
            self._tasks.add(task)
            self._coroutines[sender, call[0]] = task
            task.add_done_callback(self._tasks.discard)
        if self.worker.leaving is not None:
            self._ended.set()
        if pump.next_wake is not None and (self._alarm is None or self._alarm.cancelled()):
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, pump.next_wake - now()), self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        self._turn()

    async def _run_async(self, sender: ProcessId, call: TaskTuple) -> None:
        try:
            name, group, method = self.find(call)
        except (AttributeError, ValueError) as error:
            self._answer(sender, execute.refuse(call, call[1].decode(), error))
            return
        try:
            answer = await self._run_gated(sender, call, name, group, method)
        except asyncio.CancelledError:
            answer = call[0], [_CANCELLED] * call[2], None
        except (ExitActor, SystemExit):
            self.worker.exit_actor()
            return
        finally:
            self._coroutines.pop((sender, call[0]), None)
        if not self.exiting:
            self._answer(sender, answer)

    async def _run_gated(self, sender: ProcessId, call: TaskTuple, name: str, group: str, method: Any) -> Any:
        async with self._gates[group]:
            if self.exiting:
                return None
            if inspect.iscoroutinefunction(method):
                return await execute.run_async(self.worker.core, sender, method, name, call)
            return execute.run(self.worker.core, sender, method, name, call)

    def _answer(self, sender: ProcessId, answer: Any) -> None:
        """Answers of one pass of the loop go together."""
        worker = self.worker
        if not worker.results:
            asyncio.get_running_loop().call_soon(worker.flush)
        worker.results.append((sender, answer))


def _ready(host: ActorHost) -> bool:
    return True


def _call(host: ActorHost, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(host.instance, *args, **kwargs)


def _terminate(host: ActorHost) -> None:
    host.worker.end_actor("its __ray_terminate__ was called")


_BUILT_IN: Mapping[str, Callable[..., Any]] = {
    "__ray_ready__": _ready,
    "__ray_call__": _call,
    "__ray_terminate__": _terminate,
}
