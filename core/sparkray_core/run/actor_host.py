"""An actor in its worker: one call after the other, several in threads, or many on one event loop.

serial     the worker's main thread runs the queue, as it does with tasks
threaded   the main thread reads the sockets and hands calls to pools, one pool per concurrency group
async      one event loop in the main thread reads the sockets, too: no thread switch between a call and its coroutine
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId
from sparkray_core.messages import CallRetried, StartActor, TaskTuple
from sparkray_core.model.methods import decode
from sparkray_core.run import checkpoints, current_task, execute
from sparkray_core.run.current_task import ExitActor
from sparkray_core.run.retried_method import retried

if TYPE_CHECKING:
    from sparkray_core.run.async_calls import AsyncCalls
    from sparkray_core.run.checkpoints import Saver
    from sparkray_core.run.worker_main import Worker

ASYNC_CONCURRENCY = 1000  # calls at once of an actor with coroutine methods; Ray's default


def is_async(cls: type) -> bool:
    """Whether its actors live on an event loop."""
    methods = [getattr(cls, name, None) for name in dir(cls)]
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in methods)


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
        self.is_async = is_async(type(instance))
        self.limits = {"": limit or (ASYNC_CONCURRENCY if self.is_async else 1), **groups}
        self.is_threaded = not self.is_async and (len(groups) > 0 or self.limits[""] > 1)
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._calls: AsyncCalls | None = None
        self.saver: Saver | None = None  # of its state, if it has the hooks for that and may be restarted

    def save_state(self) -> None:
        """From now on, as `__ray_save__` gives it."""
        if self.start.retriable and checkpoints.hooks_of(self.instance):
            self.saver = self.worker.done = checkpoints.Saver(self.worker, self.start, self.instance, self.is_async)

    # ------------------------------------------------------------------ finding what is called
    def find(self, sender: ProcessId, call: TaskTuple) -> tuple[str, str, Callable[..., Any]]:
        """(display name, concurrency group, function). Raises `AttributeError` (method) or `ValueError` (group)."""
        wired = decode(call[1])
        name = wired.name
        group = wired.group or self.group_of.get(name, "")
        if group not in self.limits:
            known = ", ".join(sorted(filter(None, self.limits))) or "none"
            raise ValueError(f"{self.start.name} has no concurrency group {group!r}; it has: {known}")
        own = _BUILT_IN.get(name)
        if own is not None:
            return name, group, lambda *args, **kwargs: own(self, *args, **kwargs)
        method = getattr(self.instance, name, None)
        if method is None:
            raise AttributeError(f"{self.start.name} has no method {name!r}")
        if wired.retried:
            method = retried(wired, method, lambda: self.worker.core.send(sender, CallRetried(call[0])))
        return f"{self.start.name}.{name}", group, method

    def run(self, sender: ProcessId, call: TaskTuple) -> Any:
        """Run a call here and now; the answer for its owner."""
        try:
            name, _, method = self.find(sender, call)
        except (AttributeError, ValueError) as error:
            self.worker.core.records.failed(sender, call[0], error)
            return execute.refuse(call, decode(call[1]).name, error)
        if type(call[2]) is not int:
            return self.worker.streams.run(sender, method, name, call)
        return execute.run(self.worker.core, sender, method, name, call)

    def cancel(self, sender: ProcessId, count: int) -> bool:
        """Cancel a call that this class runs itself. Returns whether it is one. The core's lock is held."""
        if self._calls is not None:
            self._calls.cancel(sender, count)
        return self.is_async or self.is_threaded

    # ------------------------------------------------------------------ threads
    def hand_over(self, sender: ProcessId, call: TaskTuple) -> None:
        """Run a call in its group's pool."""
        try:
            _, group, _ = self.find(sender, call)
        except (AttributeError, ValueError) as error:
            self.worker.answer(sender, execute.refuse(call, decode(call[1]).name, error))
            return
        pool = self._pools.get(group)
        if pool is None:
            pool = self._pools[group] = ThreadPoolExecutor(self.limits[group], f"actor-{group or 'default'}")
        pool.submit(self._run_in_thread, sender, call)

    def _run_in_thread(self, sender: ProcessId, call: TaskTuple) -> None:
        if self.exiting:
            return
        records = self.worker.core.records
        records.begins(sender, call[0], call[1])
        try:
            answer = self.run(sender, call)
            if self.exiting and current_task.asked_to_exit.get():
                return  # caught on its way
        except (ExitActor, SystemExit) as ended:
            self.worker.end_by(ended)
            return
        finally:
            records.ends(sender, call[0])
        self.worker.answer(sender, answer)

    def finish(self) -> None:
        """Wait until what was begun is done."""
        for pool in self._pools.values():
            pool.shutdown(wait=True)

    # ------------------------------------------------------------------ one event loop
    async def serve_async(self) -> None:
        """Run calls on this event loop, until the worker leaves."""
        from sparkray_core.run.async_calls import AsyncCalls  # asyncio takes 50 ms to import: only for those who use it

        self._calls = AsyncCalls(self)
        await self._calls.serve()


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
