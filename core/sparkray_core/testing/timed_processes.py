"""The driver and the worker of `timed.py`: what `run.local_process` and `run.worker_main` do, on virtual time."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import FunctionId, ProcessId, raylet_of
from sparkray_core.messages import AT_ONCE, PushTasks, ResultTuple, StealTasks, TaskResults, TasksReturned, TaskTuple
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Function, Owner, Task
from sparkray_core.model.resources import from_floats
from sparkray_core.model.tasks import Shape

if TYPE_CHECKING:
    from sparkray_core.testing.timed import TimedSession

BATCH = 64  # as in run.local_process
FLUSH_S = 0.001  # as in run.worker_main, and so are the next two
FLUSH_RESULTS = 256
LAST_S = 0.002
LOOK_S = 0.1  # as in run.output: a task that takes longer does not hold up results before it
SPIN_S = 0.0003  # as in run.pump: who had nothing to do for longer sleeps, and has to be woken
_FUNCTION = Function(FunctionId(b"timed".ljust(16, b".")), "timed", b"pickle")
_PAYLOAD = b"\x80\x05" + bytes(40)  # of the arguments
_VALUES: list[Any] = [b"\x80\x05N."]  # what each task returns
_FOREVER = float("inf")


def a_task(owner: ProcessId, number: int, shape: Shape) -> Task:
    return Task(number, _FUNCTION, _PAYLOAD, None, None, (Entry(owner, number),), 3, shape)


class WaitForAll:
    __slots__ = ("missing",)

    def __init__(self, owner: Owner) -> None:
        """For what its tasks return, of which each returns one value."""
        self.missing = len(owner.book.tasks)
        for task in owner.book.tasks.values():
            task.returns[0].waiters = [self]

    def entry_ready(self, entry: Entry) -> None:
        self.missing -= 1


class TimedDriver:
    """Submits its tasks in a loop, and then waits for all of them, in one thread's time."""

    role = "owner"

    def __init__(self, session: TimedSession, me: ProcessId, seconds: Sequence[float], window: int | None) -> None:
        self.session = session
        self.me = me
        self.raylet = raylet_of(me[:8])  # type: ignore[arg-type]
        self.seconds = seconds  # of the task with the number n at n - 1
        self.window = window if window is not None else len(seconds)
        self.owner = Owner(me)
        self._measured = session.measured["owner"]
        self.shape = self.owner.leasing.shape(from_floats({"CPU": 1}), True)
        self.submitted = 0
        self.submitted_at = array("d", bytes(8 * len(seconds)))
        self.free_at = 0.0
        self.busy_s = 0.0
        self.finished_at: float | None = None
        self._waits: WaitForAll | None = None
        self._paused = False  # as many tasks as may be are unanswered
        self._wake = _FOREVER

    @property
    def answered(self) -> int:
        return self.submitted - len(self.owner.book.tasks)

    @property
    def has_leases(self) -> bool:
        """Or asks for some."""
        return bool(self.owner.leasing.leases or self.owner.leasing.requests)

    def submit(self, now: float) -> None:
        """The next tasks of the loop: one by one where somebody idles for want of them, else as many as go together."""
        count, costs = self.submitted, self.session.costs
        some = min(
            1 if self.shape.hungry else BATCH, len(self.seconds) - count, self.window - len(self.owner.book.tasks)
        )
        if some <= 0:
            self._paused = True
            self._get_all()
            self._look_whether_done()
            return
        start = max(now, self.free_at)
        me, shape, at = self.me, self.shape, self.submitted_at
        tasks = []
        for number in range(count + 1, count + some + 1):
            start += costs.driver_submit_s
            at[number - 1] = start
            tasks.append(a_task(me, number, shape))
        self.submitted += some
        begins = max(now, self.free_at)
        self._step(self.owner.submit, (tasks, start), begins, some * costs.driver_submit_s)
        self.session.at(self.free_at, self.submit)

    def _get_all(self) -> None:
        """What a driver does once it has submitted all: it waits for all that is to come, and for nothing less."""
        if self._waits is None and self.submitted == len(self.seconds):
            self._waits = WaitForAll(self.owner)

    def receive(self, now: float, sender: ProcessId, message: Any) -> None:
        session, costs = self.session, self.session.costs
        if session.with_bytes:
            message = session.decoded(message, self.role)
        cost = costs.driver_message_s
        if isinstance(message, TaskResults):
            cost += len(message.results) * costs.driver_result_s
        elif type(message).__name__ == "Registered":
            return
        start = max(now, self.free_at)
        if start > self.free_at + SPIN_S:
            start += costs.wake_s
        self._step(self.owner.handle, (sender, message, start), start, cost)
        if self._paused:
            self._paused = False
            session.at(self.free_at, self.submit)

    def _tick(self, now: float) -> None:
        if now == self._wake:
            self._wake = _FOREVER
            start = max(now, self.free_at)
            self._step(self.owner.tick, (start,), start, 0.0)

    def _step(self, do: Callable[..., list[Effect]], args: tuple[Any, ...], start: float, cost: float) -> None:
        effects = self._measured.step(do, *args)
        costs = self.session.costs
        self.busy_s -= start
        start += cost
        for effect in effects:
            if isinstance(effect, Send):
                start += costs.driver_message_s
                self.session.send(self.me, effect.to, effect.message, start)
            elif isinstance(effect, WakeAt):
                if effect.at < self._wake:
                    self._wake = max(effect.at, self.session.now)
                    self.session.at(self._wake, self._tick)
            else:
                raise TypeError(f"an owner does not wish for {effect}")
        self.busy_s += start
        self.free_at = start

    def _look_whether_done(self) -> None:
        if self.finished_at is None and self.submitted == len(self.seconds) and not self.owner.book.tasks:
            self.finished_at = self.free_at
            self.session.unfinished -= 1


class TimedWorker:
    """Runs what it is pushed, one after the other. Its own events are the ends of runs of tasks that are short."""

    role = "worker"

    def __init__(self, session: TimedSession, me: ProcessId) -> None:
        self.session = session
        self.me = me
        self.queue: deque[tuple[TimedDriver, TaskTuple]] = deque()
        self.planned: deque[tuple[float, float, TimedDriver, TaskTuple]] = deque()  # begin, end; some have not begun
        self.results: list[tuple[ProcessId, ResultTuple]] = []
        self.busy_s = 0.0
        self._idle = True
        self._idle_at = -1.0
        self._owed_s = 0.0  # what came while a task ran took time from the main thread, too
        self._flushed_at = 0.0
        self._hold_s = FLUSH_S
        self._plan = 0  # the number of the last one: an earlier one's end does not count

    def receive(self, now: float, sender: ProcessId, message: Any) -> None:
        session = self.session
        if session.with_bytes:
            message = session.decoded(message, self.role)
        if isinstance(message, PushTasks):
            owner = session.processes[sender]
            assert isinstance(owner, TimedDriver)
            self._hold_s = max(FLUSH_S, message.hold_s) if message.hold_s >= 0 else AT_ONCE
            self.queue.extend([(owner, task) for task in message.tasks])
            if self._idle:
                self._idle = False
                if now > self._idle_at + SPIN_S:
                    now += session.costs.wake_s
                self._flushed_at = now
                self._go_on(now + session.costs.worker_message_s)
            else:
                self._owed_s += session.costs.worker_message_s
        elif isinstance(message, StealTasks):
            self._give_back(now, sender, message.most)

    def _go_on(self, now: float) -> None:
        """Begin tasks until it is time to send results."""
        session, queue, planned = self.session, self.queue, self.planned
        overhead = session.costs.worker_task_s
        while queue:
            owner, task = queue.popleft()
            began, now = now, now + overhead + owner.seconds[task[0] - 1]
            planned.append((began, now, owner, task))
            if self._leave(now, len(planned)):
                break
        self._plan += 1
        session.at(now, self._ended, self._plan)

    def _leave(self, now: float, results: int) -> bool:
        """Whether results leave, as in a worker."""
        lain = now - self._flushed_at
        return lain > self._hold_s or results >= FLUSH_RESULTS or (lain > LAST_S and len(self.queue) == 1)

    def _ended(self, now: float, plan: int) -> None:
        if plan != self._plan:
            return
        session = self.session
        for start, end, owner, task in self.planned:
            session.delays.add(start - owner.submitted_at[task[0] - 1])
            self.results.append((owner.me, (task[0], _VALUES, None)))
            self.busy_s += end - start
        session.started += len(self.planned)
        self.planned.clear()
        queue = self.queue
        long = bool(queue) and queue[0][0].seconds[queue[0][1][0] - 1] > LOOK_S
        if not queue or long or self._leave(now, len(self.results)):
            now = self._flush(now)
        if queue:
            self._go_on(now)
        else:
            self._idle, self._idle_at = True, now

    def _flush(self, now: float) -> float:
        by_owner: dict[ProcessId, list[ResultTuple]] = {}
        for owner, result in self.results:
            by_owner.setdefault(owner, []).append(result)
        self.results.clear()
        now += self._owed_s
        self._owed_s = 0.0
        busy, self._flushed_at = now - self._flushed_at, now
        for owner, done in by_owner.items():
            now += self.session.costs.worker_message_s
            self.busy_s += self.session.costs.worker_message_s
            self.session.send(self.me, owner, TaskResults(done, busy), now)
        return now

    def _give_back(self, now: float, sender: ProcessId, most: int) -> None:
        """From the end, as the worker's side thread does it, while its main thread runs a task."""
        back: list[int] = []
        kept: deque[tuple[TimedDriver, TaskTuple]] = deque()
        while self.queue and len(back) < most:
            owner, task = self.queue.pop()
            if owner.me == sender:
                back.append(task[0])
            else:
                kept.appendleft((owner, task))
        self.queue.extend(kept)
        changed = False
        while self.planned and len(back) < most and self.planned[-1][0] > now and self.planned[-1][2].me == sender:
            back.append(self.planned.pop()[3][0])
            changed = True
        if changed:
            self._plan += 1
            if self.planned:
                self.session.at(self.planned[-1][1], self._ended, self._plan)
            else:
                self._idle, self._idle_at = True, now
        back.reverse()
        answer = TasksReturned(back, blocked=False)
        self.session.send(self.me, sender, answer, now + self.session.costs.worker_message_s)
