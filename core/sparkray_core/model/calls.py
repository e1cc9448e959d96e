"""An owner's calls to actors: each actor's in the order in which they were made, as soon as it is alive.

pending --alive--> calls go straight to its worker --restarting--> those in flight are made again in the next life, if
                                                                   they have a retry left, or else fail
                                                   --moving------> those in flight are answered, further ones wait
                                                   --dead--------> all fail

A call made while it restarts costs a retry, too, or fails. One that had been made before and waits for its arguments
waits on: it has not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sparkray_core.ids import HEAD, ActorId, NodeId, ProcessId, node_of, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    ActorChanged,
    CallRetried,
    CreateActor,
    EndActor,
    FreeObjects,
    PushCalls,
    TaskTuple,
    Value,
    WatchActor,
)
from sparkray_core.model.book import Book
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.entries import Entry
from sparkray_core.model.references import ACTOR_INDEX
from sparkray_core.model.tasks import Actor, Task

MOST_AT_ONCE = 12  # calls in flight up to which a new one is sent at once, for an actor that works on several


class Calls:
    """The actors that this process has handles of."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.actors: dict[ActorId, Actor] = {}
        # By workers that are not dead yet: the results of calls that were taken from them, (counter, index).
        self.left: dict[ProcessId, list[tuple[int, int]]] = {}
        self.calling: dict[Actor, None] = {}  # something happened to them. A set would forget the order
        self.refused: list[Task] = []  # made while their actor restarts, without a retry for that
        self.created: list[CreateActor] = []  # their arguments came
        self.ended: str | None = None  # why the session is over
        # A handle that comes back later has a new entry, and gets a new record: the head tells where the actor is.
        book.refs.on_actor_freed = self._forget
        book.lineage.actor_of = self.actors.get

    @property
    def busy(self) -> bool:
        """Whether there is anything to dispatch."""
        return bool(self.calling or self.created or self.refused)

    def dispatch(self, effects: list[Effect]) -> None:
        while self.created:
            effects.append(Send(HEAD, self.created.pop(0)))
        while self.refused:
            task = self.refused.pop()
            assert task.actor is not None
            if task.count in self.book.tasks:
                self.book.answer(task, _failure(task, task.actor, "ActorUnavailableError"), effects)
        while self.calling:
            self.push(self.calling.popitem()[0], effects)

    def create(
        self, count: int, message: Callable[[ActorId], CreateActor], arguments: Iterable[Entry] = ()
    ) -> tuple[Actor, list[Effect]]:
        """
        Args:
            message: made once all arguments that are references are there, or failed.
        """
        actor_id = ActorId(task_id(self.book.me, count))
        entry = Entry(self.book.me, count, ACTOR_INDEX)
        self.book.refs.export(entry)
        actor = self.actors[actor_id] = Actor(actor_id, entry)
        if self.ended is not None:
            self.die(actor, self.ended)
            return actor, []
        missing = [entry for entry in arguments if entry.value is None]
        if not missing:
            return actor, [Send(HEAD, message(actor_id))]
        effects: list[Effect] = []
        creation = _Creation(len(missing), lambda: self.created.append(message(actor_id)))
        for entry in missing:
            self.book.refs.ask(entry, effects)
            entry.waiters = [*(entry.waiters or ()), creation]
        return actor, effects

    def known(self, entry: Entry) -> tuple[Actor, list[Effect]]:
        """The actor behind a handle that came from another process."""
        actor_id = ActorId(entry.id[:24])
        known = self.actors.get(actor_id)
        if known is not None:
            return known, []
        known = self.actors[actor_id] = Actor(actor_id, entry)
        return known, [Send(HEAD, WatchActor(actor_id))]

    def _forget(self, entry: Entry) -> None:
        self.actors.pop(ActorId(entry.id[:24]), None)

    def kill(self, actor: Actor, restart: bool, effects: list[Effect]) -> None:
        """Have the head end it. Without a restart it is dead to us from now on, however long its worker takes to go."""
        why = "killed by ray.kill()"
        effects.append(Send(HEAD, EndActor(actor.id, why, restart=restart, gently=False)))
        if not restart and actor.state != "dead":
            self.die(actor, why)

    def queue(self, task: Task, again: bool = False) -> None:
        """
        Args:
            again: its result was there and got lost; what stands in line may wait for that.
        """
        actor = task.actor
        assert actor is not None
        actor.entry.pins += 1  # a call that was made is answered, even if the handle dies before
        if not again and actor.state == "restarting" and not task.lose_retry():
            self.refused.append(task)
        elif task.missing and not actor.ordered:
            actor.waiting[task.count] = task
        elif again:
            actor.queue.appendleft(task)
            self.calling[actor] = None
        else:
            actor.queue.append(task)
            self.calling[actor] = None

    def runnable(self, task: Task) -> None:
        """Its arguments are there, or one of them failed and the call with it: those behind it may go now."""
        actor = task.actor
        assert actor is not None
        if actor.waiting and actor.waiting.pop(task.count, None) is not None:
            actor.queue.append(task)
        self.calling[actor] = None

    def answered(self, task: Task) -> None:
        """By its actor. What waits behind it may go now; mostly nothing does."""
        actor = task.actor
        assert actor is not None
        actor.inflight.pop(task.count, None)
        if actor.queue or not actor.hungry:
            self.calling[actor] = None

    def withdraw(self, task: Task) -> ProcessId | None:
        """Take a call out of its actor's queue; or say which worker has it."""
        assert task.actor is not None
        if task.count in task.actor.inflight:
            return task.actor.worker
        if task in task.actor.queue:
            task.actor.queue.remove(task)
            self.calling[task.actor] = None  # it may have held up those behind
        task.actor.waiting.pop(task.count, None)
        return None

    def push(self, actor: Actor, effects: list[Effect]) -> None:
        """Send what is ready, in the order of the calls: one that waits for its arguments holds up those behind."""
        if actor.state == "dead":
            self._fail_calls(actor, effects)
        elif actor.state == "alive":
            assert actor.worker is not None
            calls: list[TaskTuple] = []
            while actor.queue and not actor.queue[0].missing:
                task = actor.queue.popleft()
                if task.count not in self.book.tasks:
                    continue  # it failed while it waited
                if task.refs and task.trouble() is not None:
                    self.book.refuse(task, effects)
                    if task.count in self.book.tasks:
                        self._wait_again(actor, task)
                    continue
                actor.inflight[task.count] = task
                calls.append(self.book.wire(task, actor.worker))
            if calls:
                actor.ran_on = actor.worker
                effects.append(Send(actor.worker, PushCalls(actor.id, calls)))
        actor.hungry = len(actor.inflight) < MOST_AT_ONCE

    @staticmethod
    def _wait_again(actor: Actor, task: Task) -> None:
        """An argument got lost before the call was sent."""
        if actor.ordered:
            actor.queue.appendleft(task)
        else:
            actor.waiting[task.count] = task

    def _fail_calls(self, actor: Actor, effects: list[Effect]) -> None:
        """It is dead."""
        self._free_results(actor, effects)
        for task in [*actor.inflight.values(), *actor.queue, *actor.waiting.values()]:
            if task.count in self.book.tasks:
                self.book.answer(task, _failure(task, actor, "ActorDiedError"), effects)
        actor.inflight.clear()
        actor.queue.clear()
        actor.waiting.clear()

    def _interrupt(self, actor: Actor, effects: list[Effect], planned: bool = False) -> None:
        """The life that had these calls is over, and another begins: nobody can say which of them ran.

        Args:
            planned: its node was drained: no retry is counted.
        """
        self._free_results(actor, effects)
        again: list[Task] = []
        for task in actor.inflight.values():
            if task.cancelled:
                failure: Value = (FAILED, "TaskCancelledError", f"{task.function.name}() was cancelled")
                self.book.answer(task, [failure] * len(task.returns), effects)
            elif (planned and task.retries) or task.lose_retry():
                again.append(task)
            else:
                self.book.answer(task, _failure(task, actor, "ActorUnavailableError"), effects)
        actor.inflight.clear()
        actor.queue.extendleft(reversed(again))

    def _free_results(self, actor: Actor, effects: list[Effect]) -> None:
        """What the worker may have stored without telling us, or still stores: who has it killed tells us first."""
        if actor.ran_on is None or not actor.inflight:
            return
        node = node_of(actor.ran_on)
        stored = [result for task in actor.inflight.values() for result in task.results()]
        effects.append(Send(raylet_of(node), FreeObjects(stored)))
        left: list[tuple[int, int]] = []
        for task in actor.inflight.values():
            left += [(task.count, entry.index) for entry in task.returns if entry.value is None]
            if task.stream is not None:
                left.append((task.count, task.stream.position + 1))
                self.book.streams.lost(task.stream, node)
        if not self.book.refs.is_gone(actor.ran_on):
            self.left.setdefault(actor.ran_on, []).extend(left)

    def process_gone(self, process: ProcessId) -> None:
        for count, index in self.left.pop(process, ()):
            self.book.refs.strays.note(count, index, (node_of(process),))

    def node_gone(self, node: NodeId) -> None:
        self.left = {process: left for process, left in self.left.items() if node_of(process) != node}

    def die(self, actor: Actor, why: str, error: Value | None = None) -> None:
        actor.state, actor.why, actor.error, actor.worker = "dead", why, error, None
        self.calling[actor] = None

    def changed(self, message: ActorChanged, effects: list[Effect]) -> None:
        actor = self.actors.get(message.actor)
        if actor is None or actor.state == "dead":
            return
        if message.state == "dead":
            self.die(actor, message.why, message.error)
            return
        if message.state == "moving":
            actor.state, actor.why = message.state, message.why
            return
        if actor.inflight and (message.state != "alive" or message.incarnation != actor.incarnation):
            actor.why = message.why or "its process ended"
            self._interrupt(actor, effects, planned=actor.state == "moving")
        actor.state, actor.incarnation, actor.worker = message.state, message.incarnation, message.worker
        actor.why = message.why
        self.calling[actor] = None

    def retried(self, message: CallRetried) -> None:
        task = self.book.tasks.get(message.count)
        if task is not None and task.retries > 0:
            task.retries -= 1

    def end(self, why: str) -> None:
        self.ended = why
        for actor in self.actors.values():
            self.die(actor, why)


class _Creation:
    """Waits for the arguments of a constructor."""

    __slots__ = ("missing", "on_all")

    def __init__(self, missing: int, on_all: Callable[[], None]) -> None:
        self.missing = missing
        self.on_all = on_all

    def entry_ready(self, entry: Entry) -> None:
        self.missing -= 1
        if not self.missing:
            self.on_all()


def _failure(task: Task, actor: Actor, error: str) -> list[Value]:
    """The answer to a call that failed for its actor's sake."""
    failure = actor.error
    if failure is None:
        name, some = task.function.name, actor.id.hex()
        if error == "ActorDiedError":
            sentence = f"{name}() was called on an actor that is dead: {actor.why} (actor {some})"
        else:
            sentence = (
                f"{name}() may or may not have been executed: the actor's process ended ({actor.why}), and the actor "
                f"is being restarted. With max_task_retries such calls are made again. (actor {some})"
            )
        failure = (FAILED, error, sentence, some)
    return [failure] * len(task.returns)
