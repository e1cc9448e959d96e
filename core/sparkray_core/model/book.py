"""The owner's account of its unanswered tasks: what both leases and calls write in."""

from __future__ import annotations

from collections import deque

from sparkray_core.ids import ActorId, ProcessId
from sparkray_core.messages import FAILED, TaskTuple, Value
from sparkray_core.model.deliveries import Deliveries
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import bare
from sparkray_core.model.lineage import Lineage
from sparkray_core.model.references import References
from sparkray_core.model.streams import Streams
from sparkray_core.model.tasks import Task

FAILED_TASKS = 1_000  # that are remembered for those who look; as many as a worker remembers errors


class Book:
    """Tasks from their submission to their answer, and the objects that they make and use."""

    def __init__(self, me: ProcessId, keeper: ProcessId | None, lineage_bytes: int) -> None:
        self.me = me
        self.refs = References(me, keeper)
        self.streams = Streams(me, self.refs)
        self.tasks: dict[int, Task] = {}  # submitted, not answered
        self.runnable: list[Task] = []  # their last argument came
        self.lineage = Lineage(self.refs, self.tasks, lineage_bytes)
        self.deliveries = Deliveries(self.refs, self.lineage)
        self.now = 0.0  # of the event that is being handled
        # Tasks that ended without a worker's answer: (count, name, actor, class of the error, sentence, when)
        self.failed: deque[tuple[int, str, ActorId | None, str, str, float]] = deque(maxlen=FAILED_TASKS)

    def answer(self, task: Task, values: list[Value], effects: list[Effect]) -> None:
        """The task's end without a worker's answer: every value is a failure."""
        value = bare(values[0]) if values else None
        name, why = (value[1], value[2]) if type(value) is tuple and value[0] == FAILED else ("", "an argument failed")
        actor = None if task.actor is None else task.actor.id
        self.failed.append((task.count, task.function.name, actor, str(name), str(why), self.now))
        if task.stream is not None:  # it did not run, or its run was given up: for lost items there is no next one
            task.stream.expected = list(task.stream.wanted.values())
        self.finish(task, values, effects)

    def finish(self, task: Task, values: list[Value], effects: list[Effect]) -> None:
        """The task's end: its values or failures are there, and nothing holds its arguments for its sake any more."""
        del self.tasks[task.count]
        settle = self.refs.settle
        small = task.stream is None
        for entry, value in zip(task.returns, values, strict=True):
            settle(entry, value, effects)
            if type(value) is tuple:
                small = False
        if task.stream is not None:
            self.streams.close(task.stream)
        if self.refs.strays.places or self.refs.strays.early:
            self.refs.strays.end(task.count)
        if task.actor is not None:
            self.refs.unpin(task.actor.entry)
        if (small and task.count not in self.lineage.records) or not self.lineage.finished(task, values):
            if task.refs is not None:
                for _, entry in task.refs:
                    self.refs.unpin(entry)
            if task.nested is not None:
                for entry in task.nested:
                    self.refs.unpin(entry)

    def awaits(self, task: Task, effects: list[Effect]) -> bool:
        """Have it wait for those of its arguments that are not there. Whether there are any."""
        lacking = [entry for _, entry in task.refs or () if entry.value is None]
        if not lacking:
            return False
        task.missing += len(lacking)
        task.on_runnable = self.runnable.append
        for entry in lacking:
            if entry.waiters is None:
                entry.waiters = []
            entry.waiters.append(task)
        for entry in lacking:
            self.refs.ask(entry, effects)
        return True

    def refuse(self, task: Task, effects: list[Effect]) -> None:
        """It was to run, and an argument failed, or got lost since it was there: fail it, or have it wait."""
        failure = task.failed_argument()
        if failure is not None:
            self.answer(task, [failure] * len(task.returns), effects)
        else:
            self.awaits(task, effects)

    def wire(self, task: Task, worker: ProcessId) -> TaskTuple:
        """The task as it travels, with the values of its arguments as they are now."""
        refs = None
        if task.refs:
            refs = [(where, bare(entry.value), self.refs.export(entry)) for where, entry in task.refs]  # type: ignore[arg-type]
        returns = task.num_returns if task.stream is None else self.streams.begin(task.stream, worker)
        return (task.count, task.function.id, returns, task.payload, refs)
