"""The owner's account of its unanswered tasks: what both leases and calls write in."""

from __future__ import annotations

from sparkray_core.ids import ProcessId
from sparkray_core.messages import TaskTuple, Value
from sparkray_core.model.effects import Effect
from sparkray_core.model.entries import bare
from sparkray_core.model.references import References
from sparkray_core.model.streams import Streams
from sparkray_core.model.tasks import Task


class Book:
    """Tasks from their submission to their answer, and the objects that they make and use."""

    def __init__(self, me: ProcessId) -> None:
        self.me = me
        self.refs = References(me)
        self.streams = Streams(me, self.refs)
        self.tasks: dict[int, Task] = {}  # submitted, not answered

    def answer(self, task: Task, values: list[Value], effects: list[Effect]) -> None:
        """The task's end: its values or failures are there, and nothing holds its arguments for its sake any more."""
        del self.tasks[task.count]
        settle = self.refs.settle
        for entry, value in zip(task.returns, values, strict=True):
            settle(entry, value, effects)
        if task.stream is not None:
            self.streams.close(task.stream, effects)
        if task.actor is not None:
            self.refs.unpin(task.actor.entry)
        if task.refs is not None:
            for _, entry in task.refs:
                self.refs.unpin(entry)
        if task.nested is not None:
            for entry in task.nested:
                self.refs.unpin(entry)

    def wire(self, task: Task, worker: ProcessId) -> TaskTuple:
        """The task as it travels, with the values of its arguments as they are now."""
        refs = None
        if task.refs:
            refs = [(where, bare(entry.value), self.refs.export(entry)) for where, entry in task.refs]  # type: ignore[arg-type]
        returns = task.num_returns if task.stream is None else self.streams.begin(task.stream, worker)
        return (task.count, task.function.id, returns, task.payload, refs)
