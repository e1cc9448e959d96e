"""An async actor's calls: coroutines on one event loop, which reads the sockets, too."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import ProcessId
from sparkray_core.messages import TaskTuple
from sparkray_core.model.methods import decode
from sparkray_core.run import execute, run_stream
from sparkray_core.run.current_task import ExitActor
from sparkray_core.run.object_ref import call_in_loop
from sparkray_core.run.pump import now

if TYPE_CHECKING:
    from sparkray_core.run.actor_host import ActorHost
    from sparkray_core.run.checkpoints import Saver


class AsyncCalls:
    """Runs in the worker's main thread."""

    def __init__(self, host: ActorHost) -> None:
        self._host = host
        self._worker = host.worker
        self._records = host.worker.core.records
        self._gates: dict[str, asyncio.Semaphore] = {}
        self._coroutines: dict[tuple[ProcessId, int], asyncio.Task[None]] = {}  # under way, by caller and number
        self._alarm: asyncio.TimerHandle | None = None
        self._save_alarm: asyncio.TimerHandle | None = None
        self._flushes = False  # a flush is due in this pass of the loop or the next

    def cancel(self, sender: ProcessId, count: int) -> None:
        """From any thread. What has ended stays as it ended."""
        task = self._coroutines.get((sender, count))
        if task is not None:
            call_in_loop(task.get_loop(), task.cancel)

    async def serve(self) -> None:
        """Run calls until the worker leaves."""
        loop = asyncio.get_running_loop()
        pump = self._worker.core.pump
        self._gates = {group: asyncio.Semaphore(limit) for group, limit in self._host.limits.items()}
        self._ended = asyncio.Event()
        descriptor = pump.embed(lambda: call_in_loop(loop, self._turn))
        if descriptor >= 0:
            loop.add_reader(descriptor, self._turn)
        self._turn()
        await self._ended.wait()
        if not self._host.exiting:
            await asyncio.gather(*self._coroutines.values(), return_exceptions=True)
        if descriptor >= 0:
            loop.remove_reader(descriptor)
        self._worker.flush()
        self._worker.leave()

    def _turn(self) -> None:
        """Take in what has arrived, and begin it."""
        pump = self._worker.core.pump
        pump.turn_now()
        queue = self._worker.queue
        loop = asyncio.get_running_loop()
        begun = bool(queue)
        while queue:
            sender, call = queue.popleft()
            task = loop.create_task(self._run_async(sender, call))
            key = (sender, call[0])
            self._coroutines[key] = task
            task.add_done_callback(lambda _, key=key: self._coroutines.pop(key))  # type: ignore[misc]
        if begun:  # right behind their first steps, which for many is all
            self._flush_soon(loop)
        if self._worker.leaving is not None:
            self._ended.set()
        if pump.next_wake is not None and (self._alarm is None or self._alarm.cancelled()):
            self._alarm = loop.call_later(max(0.0, pump.next_wake - now()), self._alarmed)

    def _alarmed(self) -> None:
        self._alarm = None
        self._turn()

    async def _run_async(self, sender: ProcessId, call: TaskTuple) -> None:
        try:
            name, group, method = self._host.find(sender, call)
        except (AttributeError, ValueError) as error:
            self._answer(sender, execute.refuse(call, decode(call[1]).name, error))
            return
        answer: Any = None
        found: list[Any] | None = None
        try:
            answer = await self._run_gated(sender, call, name, group, method)
        except asyncio.CancelledError as end:
            found = execute.found_by(end)
        except (ExitActor, SystemExit) as ended:
            self._worker.end_by(ended)
            return
        finally:
            self._records.ends(sender, call[0])
        if found is not None:  # it was cancelled; and its frames are gone, with what they held
            self._records.failed(sender, call[0], "TaskCancelledError")
            answer = self._worker.streams.cancelled(sender, call, found=found)
        if not self._host.exiting:
            self._answer(sender, answer)

    async def _run_gated(self, sender: ProcessId, call: TaskTuple, name: str, group: str, method: Any) -> Any:
        async with self._gates[group]:
            if self._host.exiting:
                return None
            self._records.begins(sender, call[0], call[1])
            if type(call[2]) is not int:
                outlet = self._worker.streams.open(sender, call)
                outlet.soon = asyncio.get_running_loop().call_soon
                return await run_stream.run_async(self._worker.core, sender, method, name, call, outlet)
            if inspect.iscoroutinefunction(method):
                return await execute.run_async(self._worker.core, sender, method, name, call)
            return execute.run(self._worker.core, sender, method, name, call)

    def _answer(self, sender: ProcessId, answer: Any) -> None:
        """Answers of one pass of the loop go together."""
        self._worker.done.append((sender, answer))
        self._flush_soon(asyncio.get_running_loop())

    def _flush_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._flushes:
            self._flushes = True
            loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        saver = self._host.saver
        if saver is not None:
            saver.save_if_due()
            self._save_later(saver)
        self._worker.flush()

    def _save_later(self, saver: Saver) -> None:
        """A state that is saved now and then is saved in the end, too."""
        due_at = saver.policy.due_at
        if due_at is not None and (
            self._save_alarm is None or self._save_alarm.when() <= asyncio.get_running_loop().time()
        ):
            self._save_alarm = asyncio.get_running_loop().call_later(max(0.0, due_at - now()), self._flush)
