"""The model inside every driver and worker: its tasks, its leases, its calls to actors, its objects.

Events in, effects out; no clock, socket or thread. The hot path comes in batches: `submit` takes many tasks,
`TaskResults` answers many. What a process waits for is an `Entry` (see `entries.py`): the shell puts a waiter on it.

    submit -> arguments there? -> a task:   `Leasing`: a worker on lease runs it --+
                               -> a call:   `Calls`: the actor's worker runs it  --+--> TaskResults -> entries settled

`Book` has the unanswered tasks and the objects (`References`), for all three.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sparkray_core.ids import GroupId, NodeId, ObjectId, ProcessId, count_of, node_of, raylet_of
from sparkray_core.messages import (
    FAILED,
    HOLDS,
    ActorChanged,
    AddBorrowers,
    AskObjects,
    BorrowedCounts,
    CallRetried,
    CancelMaker,
    CancelTask,
    CheckBorrowed,
    CopyMade,
    DropBorrowers,
    EndSession,
    GroupChanged,
    InheritObjects,
    LeaseGranted,
    LeaseLost,
    LeaseRefused,
    NodeGone,
    ObjectMissing,
    ObjectMoved,
    ObjectReady,
    ProcessGone,
    ReclaimLeases,
    Resources,
    ResultTuple,
    SchedulerGone,
    StreamItems,
    TaskResults,
    TasksReturned,
    TaskTuple,
    Value,
)
from sparkray_core.model.book import Book
from sparkray_core.model.calls import Calls
from sparkray_core.model.deliveries import Delivery
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import NOT_GIVEN, Entry, is_stored
from sparkray_core.model.inheriting import Inheriting
from sparkray_core.model.leasing import Leasing
from sparkray_core.model.node_kept import kept_count
from sparkray_core.model.own_tasks import OwnTasks
from sparkray_core.model.owner_groups import KnownGroups
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.sharing import Sharing
from sparkray_core.model.streams import Stream
from sparkray_core.model.tasks import Actor, Function, OwnerLimits, Shape, Task

__all__ = ["Actor", "Function", "Owner", "OwnerLimits", "Shape", "Task"]


class Owner:
    """`handle` for what others say; `submit` and its neighbours for what this process's own code wants."""

    def __init__(self, me: ProcessId, limits: OwnerLimits | None = None, keeper: ProcessId | None = None) -> None:
        """
        Args:
            keeper: the raylet, in a worker: it owns what the worker puts, so that it outlives the worker.
        """
        self.me = me
        limits = limits or OwnerLimits()
        self.book = Book(me, keeper, limits.lineage_bytes)
        self.refs = self.book.refs
        self.lineage = self.book.lineage
        self.leasing = Leasing(self.book, limits)
        self.calls = Calls(self.book)
        self.own = OwnTasks(self.book, self.leasing)
        self.groups = KnownGroups(self.book, self.leasing)
        self.inheriting = Inheriting(self.book, self.leasing)
        # A driver's end is that of its job.
        self.sharing = Sharing(self.refs, self.book.tasks, self.lineage) if keeper is not None else None
        self._deaths_wake: float | None = None  # asked for since the last tick
        self.ended: str | None = None  # why the session is over
        self._runnable = self.book.runnable

    # ------------------------------------------------------------------ what this process wants
    def submit(self, tasks: Iterable[Task], now: float) -> list[Effect]:
        """Calls of remote functions and of actors, in the order in which they were made."""
        effects: list[Effect] = []
        self.book.now = now
        book, queue = self.book.tasks, self.leasing.queue
        for task in tasks:
            book[task.count] = task
            if task.refs is None and task.nested is None:
                if task.actor is None:
                    queue(task)
                else:
                    self.calls.queue(task)
            else:
                self._await_arguments(task, effects)
        if self.ended is not None:
            self._fail_all(effects)
        return self._dispatch(now, effects)

    def put_entry(self, count: int) -> Entry:
        """For a value that this process is about to put."""
        keeper = self.refs.keeper
        kept = kept_count(self.me, count) if keeper is not None else None
        if keeper is None or kept is None:
            return Entry(self.me, count)
        entry = Entry(keeper, kept)
        entry.registered = NOT_GIVEN
        return entry

    def put(self, entry: Entry, value: Value, inner: list[Entry]) -> list[Effect]:
        """An object made by this process is there; `inner` are the references inside it."""
        effects: list[Effect] = []
        if inner:
            self.refs.hold_inside(entry, inner)
            value = (HOLDS, value, tuple(held.id for held in inner))
        entry.value = value
        if entry.owner != self.me:
            if inner or is_stored(value):  # a small one goes when its id is seen outside: most never are
                self.refs.give_away(entry)
                self.refs.flush(effects)
        elif is_stored(value):
            self.refs.export(entry)
            self.refs.stored[entry.id] = entry
        return effects

    def deliver(self, delivery: Delivery, values: Iterable[Value]) -> list[Effect]:
        """Somebody outside has stored these for us."""
        effects: list[Effect] = []
        for entry, value in zip(delivery.returns, values, strict=True):
            effects += self.put(entry, value, [])
        self.lineage.delivered(delivery)
        self.refs.flush(effects)
        return effects

    def made_again(
        self, delivery: int, made: list[Value] | tuple[str, str], nodes: Iterable[NodeId], now: float
    ) -> list[Effect]:
        """See `Deliveries.made_again`."""
        effects: list[Effect] = []
        self.book.now = now
        self.book.deliveries.made_again(delivery, made, nodes, effects)
        return self._dispatch(now, effects)

    def want(self, entries: Iterable[Entry], now: float) -> list[Effect]:
        """Somebody here waits for these: ask the owners of those that are not ours, and make again what is lost.

        What cannot be made again has failed when this returns.
        """
        effects: list[Effect] = []
        for entry in entries:
            self.refs.ask(entry, effects)
        if self.lineage.again:
            self.book.now = now
            return self._dispatch(now, effects)
        if self._runnable:
            return self._dispatch(now, effects)
        self.refs.flush(effects)
        return effects

    def missed(self, entry: Entry, nodes: Iterable[NodeId], now: float) -> tuple[Value | None, list[Effect]]:
        """A reader here was told that none of these nodes has it.

        Returns:
            None: wait for it, and read it anew. Else why it is lost.
        """
        effects: list[Effect] = []
        self.book.now = now
        failure = self.refs.missed(entry, nodes, effects)
        if failure is None:
            self.refs.ask(entry, effects)
        return failure, self._dispatch(now, effects)

    def drop(self, entries: Iterable[Entry]) -> list[Effect]:
        """The process's references to these died."""
        effects: list[Effect] = []
        self.refs.drop(entries)
        self.refs.flush(effects)
        return effects

    def kill(self, actor: Actor, restart: bool, now: float) -> list[Effect]:
        """End an actor; its calls under way fail at once, unless it may come back."""
        effects: list[Effect] = []
        self.book.now = now
        self.calls.kill(actor, restart, effects)
        return self._dispatch(now, effects)

    def cancel(self, count: int, force: bool, recursive: bool, now: float) -> list[Effect]:
        """Drop a task that waits; have the worker interrupt one that it has. One that ended stays as it ended."""
        effects: list[Effect] = []
        self.book.now = now
        task = self.book.tasks.get(count)
        if task is not None:
            task.cancelled = True
            worker = self.calls.withdraw(task) if task.actor is not None else self.leasing.withdraw(task)
            if worker is not None:
                effects.append(Send(worker, CancelTask(count, force, recursive)))
            else:
                failure = (FAILED, "TaskCancelledError", f"{task.function.name}() was cancelled before it ran")
                self.book.answer(task, [failure] * len(task.returns), effects)
        return self._dispatch(now, effects)

    def cancel_elsewhere(self, entry: Entry, force: bool, recursive: bool) -> list[Effect]:
        """The same for a task of another process, which is asked to. (What a raylet owns was put: no task makes it.)"""
        if entry.owner == raylet_of(node_of(entry.owner)) or entry.value is not None:
            return []
        return [Send(entry.owner, CancelMaker(entry.id, force, recursive))]

    def _on_cancel(self, sender: ProcessId, message: CancelMaker, now: float, effects: list[Effect]) -> None:
        entry = self.refs.exported.get(message.object)
        count = entry.count if entry is not None else count_of(message.object)
        task = self.book.tasks.get(count)
        if task is not None:
            force = message.force and task.actor is None  # who borrows cannot know whose call it is
            effects += self.cancel(count, force, message.recursive, now)

    def take_own(
        self, wanted: Collection[int], resources: Resources, env: str, priority: int, now: float
    ) -> tuple[tuple[Task, TaskTuple] | None, list[Effect]]:
        """One of these, if it is queued and of this kind, to be run in this process. Next: `ran_own` or `lost_own`."""
        effects: list[Effect] = []
        self.book.now = now
        taken = self.own.take(wanted, resources, env, priority, effects)
        return taken, self._dispatch(now, effects)

    def ran_own(self, result: ResultTuple, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self.book.now = now
        self.own.ran(result, effects)
        return self._dispatch(now, effects)

    def lost_own(self, count: int, why: str, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self.book.now = now
        self.own.lost(count, why, effects)
        return self._dispatch(now, effects)

    def group_ready(self, group: GroupId, entry: Entry, value: Value, now: float) -> list[Effect]:
        """The entry gets this value as soon as the placement group is created."""
        effects: list[Effect] = []
        self.book.now = now
        if self.ended is not None:
            self.refs.settle(entry, (FAILED, "RaySystemError", f"the sparkray session ended: {self.ended}"), effects)
        else:
            self.groups.ready(group, entry, value, effects)
        return self._dispatch(now, effects)

    def remove_group(self, group: GroupId, now: float) -> list[Effect]:
        effects: list[Effect] = []
        self.book.now = now
        self.groups.remove(group, effects)
        return self._dispatch(now, effects)

    @property
    def needed(self) -> bool:
        """Whether this process's end would be felt elsewhere: in its tasks, in what others borrow, or in the workers
        that it has on lease, which would be killed and take what they own along."""
        under_way = self.book.tasks or self.leasing.leases or self.leasing.requests
        return bool(under_way) or any(entry.borrowers for entry in self.refs.exported.values())

    def take(self, stream: Stream) -> tuple[Entry | None, list[Effect]]:
        """The next item of a stream, if it is there."""
        entry = stream.take()
        effects: list[Effect] = []
        if stream.ahead:
            self.book.streams.tell(stream, effects)
        return entry, effects

    def drop_stream(self, stream: Stream) -> list[Effect]:
        """The generator object of a stream died."""
        effects: list[Effect] = []
        if stream.owner != self.book.me:
            return effects  # of an earlier session
        self.book.streams.drop(stream, effects)
        self.refs.flush(effects)
        return effects

    # ------------------------------------------------------------------ what others say
    def handle(self, sender: ProcessId, message: object, now: float) -> list[Effect]:
        """Raises `TypeError` for a message that no owner gets."""
        effects: list[Effect] = []
        self.book.now = now
        on = _ON.get(type(message))
        if on is None:
            raise TypeError(f"{type(message).__name__} is not for an owner")
        on(self, sender, message, now, effects)
        return self._dispatch(now, effects)

    def tick(self, now: float) -> list[Effect]:
        """Time went by: idle leases go back, loaded ones are relieved."""
        self.leasing.ticked()
        self._deaths_wake = None
        return self._dispatch(now, [])

    def _dispatch(self, now: float, effects: list[Effect]) -> list[Effect]:
        again, runnable, calls, touched = self.lineage.again, self._runnable, self.calls, self.leasing.touched
        while again or runnable or touched or calls.busy:
            while again:
                self._await_arguments(again.pop(), effects, again=True)
            if runnable:
                self._settle_runnable(effects)
            if touched:
                self.leasing.dispatch(now, effects)
            if calls.busy:
                calls.dispatch(effects)
            # Perhaps a call failed, and with it what waited for its result; or arguments got lost since they came.
        recount = self.refs.recount
        if recount.at is not None or recount.below or self.refs.legacy.busy:
            self._settle_deaths(now, effects)
        self.refs.flush(effects)
        return effects

    def _settle_deaths(self, now: float, effects: list[Effect]) -> None:
        """What time alone does for those who are left."""
        legacy, recount = self.refs.legacy, self.refs.recount
        legacy.settle(now)
        self.refs.settle_counts(now, effects)
        wake = min((at for at in (legacy.next_wake(), recount.next_wake()) if at is not None), default=None)
        if wake is not None and wake != self._deaths_wake:
            self._deaths_wake = wake
            effects.append(WakeAt(wake))

    def worker_lost(self, message: LeaseLost | ActorChanged) -> ProcessId | None:
        """Whose end this message tells of, if that worker has something of ours."""
        if isinstance(message, LeaseLost):
            lease = self.leasing.leases.get(message.lease)
            return lease.worker if lease is not None else None
        actor = self.calls.actors.get(message.actor)
        if actor is None or (message.state == "alive" and message.incarnation == actor.incarnation):
            return None
        return actor.worker if actor.inflight else None

    # ------------------------------------------------------------------ arguments
    def _await_arguments(self, task: Task, effects: list[Effect], again: bool = False) -> None:
        for entry in task.nested or ():
            entry.pins += 1
            self.refs.export(entry)
        for _, entry in task.refs or ():
            entry.pins += 1
        waits = self.book.awaits(task, effects)
        if task.actor is not None:
            self.calls.queue(task, again)
        if not waits:
            self._runnable.append(task)

    def _settle_runnable(self, effects: list[Effect]) -> None:
        """All arguments are there: run it, or fail it with an argument's failure (and so those that wait for it)."""
        while self._runnable:
            batch, self._runnable[:] = self._runnable[:], []
            for task in batch:
                if task.count not in self.book.tasks:
                    continue  # cancelled while it waited
                failure = task.failed_argument()
                if failure is not None:
                    self.book.answer(task, [failure] * len(task.returns), effects)
                elif task.actor is None:
                    self.leasing.queue(task)
                if task.actor is not None:
                    self.calls.runnable(task)

    # ------------------------------------------------------------------ results
    def _on_results(self, sender: ProcessId, message: TaskResults, now: float, effects: list[Effect]) -> None:
        book = self.book
        lease = self.leasing.by_worker.get(sender)
        shape = None
        for count, values, borrowed in message.results:
            task = book.tasks.get(count)
            if task is None:  # answered already: its worker or actor had been given up
                self._stray(sender, count, values, borrowed, effects)
                continue
            if task.stream is not None:
                if not self._runs(task, sender):
                    self._stray(sender, count, values, borrowed, effects)
                    continue
                if not book.streams.complete(task.stream, values):
                    task.stream.late = (count, values, borrowed)
                    continue
                values = book.streams.last(task.stream, values, effects)
            if task.actor is not None:
                if task.actor.worker != sender:  # a former life's: the call was made again, or waits for that
                    self._stray(sender, count, values, borrowed, effects)
                    continue
                self.calls.answered(task)
            elif lease is not None and lease.inflight.pop(count, None) is not None:
                shape = task.shape
            else:  # a late answer of a worker that it was taken from
                self._stray(sender, count, values, borrowed, effects)
                continue
            if borrowed:
                self.refs.lend(borrowed, sender, effects)
            book.finish(task, values, effects)
        if lease is not None and shape is not None:
            self.leasing.answered(lease, shape, len(message.results), message.busy_s, now)

    def _stray(
        self,
        sender: ProcessId,
        count: int,
        values: list[Value],
        borrowed: Sequence[ObjectId] | None,
        effects: list[Effect],
    ) -> None:
        """Nobody waits for this answer. Who is counted as a borrower is so all the same: in what is inside it we are,
        in what it keeps of its arguments its worker is."""
        if borrowed and not self.refs.is_gone(sender):
            self.refs.lend(borrowed, sender, effects)
        if len(values) > 1 and isinstance(values[1], int):  # a stream's end, and its last items
            self.refs.strays.late(count, values[1], values[2:])
        else:
            self.refs.strays.late(count, -1, values)

    def _runs(self, task: Task, worker: ProcessId) -> bool:
        """Whether this worker has the task now, and has not been given up."""
        if task.actor is not None:
            return task.actor.worker == worker and task.count in task.actor.inflight
        lease = self.leasing.by_worker.get(worker)
        return lease is not None and task.count in lease.inflight

    def _on_items(self, sender: ProcessId, message: StreamItems, now: float, effects: list[Effect]) -> None:
        task = self.book.tasks.get(message.count)
        stream = task.stream if task is not None else None
        if task is None or stream is None or not self._runs(task, sender):
            self.refs.strays.late(message.count, message.first, message.values)
            return
        self.book.streams.add(stream, message.first, message.values, effects)
        if stream.late is not None:
            late: Any = stream.late
            stream.late = None  # put back if it has to wait for more
            mean = task.shape.mean_s if task.shape is not None else None
            self._on_results(sender, TaskResults([late], mean or 0.001), now, effects)

    # ------------------------------------------------------------------ objects of and for others
    def _on_ask(self, sender: ProcessId, message: AskObjects, now: float, effects: list[Effect]) -> None:
        refs = self.refs
        for some in message.objects:
            entry = refs.exported.get(some)
            if entry is not None and entry.value is None and (why := self._would_wait_for_itself(sender, entry)):
                effects.append(Send(sender, ObjectReady(some, why)))
            else:
                refs.asked(sender, (some,), effects)

    def _on_ready(self, sender: ProcessId, message: ObjectReady, now: float, effects: list[Effect]) -> None:
        entry = self.refs.exported.get(message.object)
        if entry is not None and entry.value is None:
            self.refs.settle(entry, message.value, effects)
        else:
            self.refs.decline(message.value)  # it was let go of, or its owner's end has overtaken its words

    def _on_missing(self, sender: ProcessId, message: ObjectMissing, now: float, effects: list[Effect]) -> None:
        entry = self.refs.exported.get(message.object)
        why = self._would_wait_for_itself(sender, entry) if entry is not None else None
        self.refs.missing_for(sender, message, why, effects)

    def _would_wait_for_itself(self, reader: ProcessId, entry: Entry) -> Value | None:
        """If what is lost would be made again by the actor that reads it, and it has no room for a second call: what
        that actor is told instead."""
        record = self.lineage.records.get(entry.count) if entry.owner == self.me else None
        actor = record.task.actor if record is not None and record.task is not None and record.closed else None
        if actor is None or not actor.serial or actor.worker != reader:
            return None
        sentence = (
            f"object {entry.id.hex()} is lost, and the actor that would make it again is the one that waits for it: "
            f"let it keep in its own state what it needs again"
        )
        return (FAILED, "ObjectLostError", sentence, entry.id.hex())

    # ------------------------------------------------------------------ deaths
    def _on_process_gone(self, sender: ProcessId, message: ProcessGone, now: float, effects: list[Effect]) -> None:
        self.leasing.forget_worker(message.process)
        self.refs.process_gone(message.process, message.why, effects, message.heir)
        self.calls.process_gone(message.process)

    def _on_inherit(self, sender: ProcessId, message: InheritObjects, now: float, effects: list[Effect]) -> None:
        for who, early in self.inheriting.inherit(message, effects):
            _ON[type(early)](self, who, early, now, effects)

    def _on_node_gone(self, sender: ProcessId, message: NodeGone, now: float, effects: list[Effect]) -> None:
        self.leasing.node_gone(message.node, message.why, effects, message.planned)
        self.refs.node_gone(message.node, message.why, effects)
        self.calls.node_gone(message.node)

    def end(self, why: str, effects: list[Effect]) -> None:
        """The session is over: whatever waits, fails now."""
        if self.ended is not None:
            return
        self.ended = why
        failure = self._fail_all(effects)
        for entry in list(self.refs.exported.values()):
            if entry.value is None and entry.index != ACTOR_INDEX:
                self.refs.settle(entry, failure, effects)
        self.calls.end(why)
        self.groups.end(failure, effects)

    def _fail_all(self, effects: list[Effect]) -> Value:
        failure: Value = (FAILED, "RaySystemError", f"the sparkray session ended: {self.ended}")
        for task in list(self.book.tasks.values()):
            self.book.answer(task, [failure] * len(task.returns), effects)
        self._runnable.clear()
        self.lineage.end()
        self.leasing.clear()
        return failure


_Handler = Callable[[Owner, ProcessId, Any, float, "list[Effect]"], None]
_ON: dict[type, _Handler] = {
    TaskResults: Owner._on_results,
    StreamItems: Owner._on_items,
    TasksReturned: lambda owner, sender, message, now, effects: owner.leasing.returned(sender, message),
    LeaseGranted: lambda owner, sender, message, now, effects: owner.leasing.granted(sender, message, now, effects),
    LeaseRefused: lambda owner, sender, message, now, effects: owner.leasing.refused(message, effects),
    ReclaimLeases: lambda owner, sender, message, now, effects: owner.leasing.reclaim(message),
    LeaseLost: lambda owner, sender, message, now, effects: owner.leasing.lost(sender, message, effects),
    SchedulerGone: lambda owner, sender, message, now, effects: owner.leasing.ask_again(effects),
    ActorChanged: lambda owner, sender, message, now, effects: owner.calls.changed(message, effects),
    GroupChanged: lambda owner, sender, message, now, effects: owner.groups.changed(message, effects),
    CallRetried: lambda owner, sender, message, now, effects: owner.calls.retried(message),
    CancelMaker: Owner._on_cancel,
    AskObjects: Owner._on_ask,
    ObjectReady: Owner._on_ready,
    ObjectMissing: Owner._on_missing,
    AddBorrowers: lambda owner, sender, message, now, effects: owner.refs.counted(sender, message.pairs, 1),
    DropBorrowers: lambda owner, sender, message, now, effects: owner.refs.counted(sender, message.pairs, -1),
    CheckBorrowed: lambda owner, sender, message, now, effects: owner.refs.check_borrowed(sender, message, effects),
    BorrowedCounts: lambda owner, sender, message, now, effects: owner.refs.recounted(sender, message),
    CopyMade: lambda owner, sender, message, now, effects: owner.refs.copied(message),
    ObjectMoved: lambda owner, sender, message, now, effects: owner.refs.moved(message),
    InheritObjects: Owner._on_inherit,
    ProcessGone: Owner._on_process_gone,
    NodeGone: Owner._on_node_gone,
    EndSession: lambda owner, sender, message, now, effects: owner.end(message.why, effects),
}
