"""Tasks that a worker has submitted and runs itself, on top of the task that waits for them (see `node_crowd`).

queued -> taken: nobody else gets it -> ran: its results settle it
                                     -> lost: as if its worker had died
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from sparkray_core.ids import node_of
from sparkray_core.messages import FAILED, Resources, ResultTuple, TaskTuple
from sparkray_core.model.book import Book
from sparkray_core.model.effects import Effect
from sparkray_core.model.leasing import Leasing
from sparkray_core.model.tasks import Queue, Shape, Task

LOOKED_AT = 1000  # of a queue's tasks, from its end; what is waited for was submitted a moment ago


class OwnTasks:
    """Of one owner that is a worker."""

    def __init__(self, book: Book, leasing: Leasing) -> None:
        self.book = book
        self.leasing = leasing

    def could(self, env: str) -> bool:
        """Whether anything is queued that might be taken."""
        for shape in self.leasing.shapes.values():
            if _is_plain(shape, env) and any(queue.tasks for queue in shape.queues.values()):
                return True
        return False

    def take(
        self, wanted: Collection[int], resources: Resources, env: str, priority: int, effects: list[Effect]
    ) -> tuple[Task, TaskTuple] | None:
        """The youngest of these that is queued and fits, and as it travels; it is the caller's to run."""
        while (found := self._youngest(wanted, resources, env, priority)) is not None:
            queue, place = found
            task = queue.tasks[place]
            del queue.tasks[place]
            self.leasing.touch(queue)
            if task.refs and task.trouble() is not None:
                self.book.refuse(task, effects)
                continue
            self.leasing.own[task.count] = task
            return task, self.book.wire(task, self.book.me)
        return None

    def _youngest(
        self, wanted: Collection[int], resources: Resources, env: str, priority: int
    ) -> tuple[Queue, int] | None:
        best: tuple[int, Queue, int] | None = None
        here = node_of(self.book.me)
        for shape in self.leasing.shapes.values():
            if not _is_plain(shape, env) or shape.priority != priority or shape.resources != resources:
                continue
            for queue in shape.queues.values():
                if queue.prefer not in (None, here):
                    continue
                place = _last_of(queue.tasks, wanted)
                if place is not None and (best is None or queue.tasks[place].count > best[0]):
                    best = queue.tasks[place].count, queue, place
        return None if best is None else best[1:]

    def ran(self, result: ResultTuple, effects: list[Effect]) -> None:
        count, values, borrowed = result
        task = self.leasing.own.pop(count, None)
        if task is None or count not in self.book.tasks:
            return  # the session ended
        if borrowed:
            self.book.refs.lend(borrowed, self.book.me, effects)
        self.book.finish(task, values, effects)

    def lost(self, count: int, why: str, effects: list[Effect]) -> None:
        """It ended its process, or would have: it is run again elsewhere, if a retry is left."""
        task = self.leasing.own.pop(count, None)
        if task is None or count not in self.book.tasks:
            return
        name = task.function.name
        if task.cancelled:
            failure = FAILED, "TaskCancelledError", f"{name}() was cancelled"
        elif task.retries == 0:
            failure = (
                FAILED,
                "WorkerCrashedError",
                f"the worker that ran {name}() ended before it answered ({why}), and no retry is left. Raise "
                f"max_retries, or look at the worker's log for why it died.",
            )
        else:
            task.retries -= task.retries > 0
            task.careful = task.solo = True
            self.leasing.queue(task)
            return
        self.book.answer(task, [failure] * len(task.returns), effects)


def _is_plain(shape: Shape, env: str) -> bool:
    """A task of this kind may run in a process that others need: in this environment, and a crash may be repeated."""
    plain = not (shape.fresh or shape.max_calls or shape.where)
    return plain and shape.env == env and shape.resources.keys() == {"CPU"}


def _last_of(tasks: deque[Task], wanted: Collection[int]) -> int | None:
    for back in range(1, min(len(tasks), LOOKED_AT) + 1):
        task = tasks[-back]
        # One that was running when its worker died may be what killed it: that is to happen alone.
        if task.count in wanted and task.stream is None and not task.careful:
            return len(tasks) - back
    return None
