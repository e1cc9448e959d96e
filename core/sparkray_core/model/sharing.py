"""Of an owner that may die before those who borrow from it: the GCS is told what they borrow, and how it is made.

Only of results of its own tasks, from when they are first lent, until they are freed; what never leaves the process
costs nothing. The word is sent before the value that has the reference inside, on the same way or a longer one.
"""

from __future__ import annotations

from sparkray_core.ids import HEAD, RECORDS, FunctionId, ObjectId, ProcessId, count_of
from sparkray_core.messages import ForgetRecords, RecordedTask, RecordObjects
from sparkray_core.model.deliveries import Delivery
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry, is_stored
from sparkray_core.model.lineage import LINEAGE_EVICTED, TASK_CANCELLED, Lineage
from sparkray_core.model.records import (
    CANCELLED,
    FORGOTTEN,
    OF_A_GENERATOR,
    OF_AN_ACTOR,
    RUNS_ONCE,
    inside_task,
    inside_value,
)
from sparkray_core.model.references import ACTOR_INDEX, References
from sparkray_core.model.tasks import Task


class Sharing:
    def __init__(self, refs: References, tasks: dict[int, Task], lineage: Lineage) -> None:
        self.refs = refs
        self.tasks = tasks  # under way
        self.lineage = lineage
        self.driver = ProcessId(b"")  # for whose job this process works; empty: the one that started the session
        self.shared: dict[ObjectId, Entry] = {}
        self._news: dict[ObjectId, Entry] = {}
        self._freed: list[ObjectId] = []
        # What the GCS has, by the same rules as there: objects, functions, and of each task the objects for whose
        # sake it is kept.
        self._told: set[ObjectId] = set()
        self._functions: set[FunctionId] = set()
        self._tasks: dict[int, set[ObjectId]] = {}
        refs.sharing = self

    # ------------------------------------------------------------------ what happens to own objects
    def lent(self, entry: Entry) -> None:
        """Somebody else borrows it."""
        if entry.index != ACTOR_INDEX and type(entry) is Entry and entry.id not in self.shared:
            self.shared[entry.id] = entry
            self._news[entry.id] = entry
            record = self.lineage.records.get(entry.count)
            if entry.value is None and record is not None:  # freed, and needed to make something else again
                record.alive.add(entry.index)

    def changed(self, entry: Entry) -> None:
        """Its value came, moved, or got lost."""
        if entry._id in self.shared:
            self._news[entry.id] = entry

    def freed(self, entry: Entry) -> None:
        some = entry._id
        if some is None or self.shared.pop(some, None) is None:
            return
        self._news.pop(some, None)
        if some in self._told:
            self._freed.append(some)

    # ------------------------------------------------------------------ what the GCS is told
    @property
    def has_news(self) -> bool:
        return bool(self._news or self._freed)

    def flush(self, effects: list[Effect]) -> None:
        """Counts the GCS in for what is inside. That may be own objects, which are told then, too; in the same message,
        as the node may die between two, and the one is of no use without the other.
        """
        message = RecordObjects(self.driver, [], [], [])
        while self._news:
            news, self._news = self._news, {}
            tasks, objects = len(message.tasks), len(message.objects)
            for some, entry in news.items():
                self._tell(some, entry, message)
            for some, entry in news.items():
                self._forget_task(entry.count, some, needed=_may_get_lost(entry))
            inside = [one for task in message.tasks[tasks:] for one in inside_task(task)]
            inside += [one for _, value, _ in message.objects[objects:] for one in inside_value(value)]
            if inside:
                self.refs.count_in_all(inside, HEAD, effects)
        if message.objects:
            effects.append(Send(RECORDS, message))
        if self._freed:
            freed, self._freed = self._freed, []
            for some in freed:
                self._told.discard(some)
                self._forget_task(count_of(some), some, needed=False)
            if not self._told:
                self._functions.clear()
            effects.append(Send(RECORDS, ForgetRecords(freed)))

    def _tell(self, some: ObjectId, entry: Entry, message: RecordObjects) -> None:
        why = ""
        if _may_get_lost(entry) and entry.count in self._tasks:
            self._tasks[entry.count].add(some)
        elif _may_get_lost(entry):
            task, why = self._task_of(entry)
            if task is not None:
                self._tasks[entry.count] = {some}
                message.tasks.append(_described(task, self.refs))
                function = task.function
                if function.id not in self._functions:
                    self._functions.add(function.id)
                    message.functions.append((function.id, function.name, function.blob))
        self._told.add(some)
        message.objects.append((some, entry.value, why))

    def _forget_task(self, count: int, some: ObjectId, needed: bool) -> None:
        if not needed and count in self._tasks:
            self._tasks[count].discard(some)
            if not self._tasks[count]:
                del self._tasks[count]

    def _task_of(self, entry: Entry) -> tuple[Task | None, str]:
        """What makes it again; or None, and why that cannot be, or need not be said."""
        task = self.tasks.get(entry.count)
        record = self.lineage.records.get(entry.count)
        if task is None and record is not None:
            task = record.task
            if task is None:
                return None, _WHY.get(record.why, RUNS_ONCE)
        if task is None or isinstance(task, Delivery):
            return None, FORGOTTEN
        if task.actor is not None:
            return None, OF_AN_ACTOR
        if task.stream is not None:
            return None, OF_A_GENERATOR
        if task.cancelled:
            return None, CANCELLED
        if task.retries == 0:
            return None, RUNS_ONCE
        return task, ""


_WHY = {LINEAGE_EVICTED: FORGOTTEN, TASK_CANCELLED: CANCELLED}


def _may_get_lost(entry: Entry) -> bool:
    return entry.value is None or is_stored(entry.value)


def _described(task: Task, refs: References) -> RecordedTask:
    shape = task.shape
    assert shape is not None
    return (
        task.count,
        task.function.id,
        task.payload,
        [(where, refs.export(entry)) for where, entry in task.refs or ()],
        [refs.export(entry) for entry in task.nested or ()],
        task.num_returns,
        task.retries,
        shape.resources,
        shape.env,
        shape.priority,
        shape.max_calls,
        shape.where,
    )
