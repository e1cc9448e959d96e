"""An owner's calls to actors: each actor's in the order in which they were made, as soon as it is alive.

pending --alive--> calls go straight to its worker --restarting--> those in flight fail, later ones wait
                                                   --dead--------> all fail
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sparkray_core.ids import HEAD, ActorId, ProcessId, node_of, raylet_of, task_id
from sparkray_core.messages import (
    FAILED,
    ActorChanged,
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
        self.calling: dict[Actor, None] = {}  # something happened to them. A set would forget the order
        self.ended: str | None = None  # why the session is over
        # A handle that comes back later has a new entry, and gets a new record: the head tells where the actor is.
        book.refs.on_actor_freed = self._forget

    def dispatch(self, effects: list[Effect]) -> None:
        while self.calling:
            self.push(self.calling.popitem()[0], effects)

    def create(self, count: int, message: Callable[[ActorId], CreateActor]) -> tuple[Actor, list[Effect]]:
        actor_id = ActorId(task_id(self.book.me, count))
        entry = Entry(self.book.me, count, ACTOR_INDEX)
        self.book.refs.export(entry)
        actor = self.actors[actor_id] = Actor(actor_id, entry)
        if self.ended is not None:
            self.die(actor, self.ended)
            return actor, []
        return actor, [Send(HEAD, message(actor_id))]

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

    def queue(self, task: Task) -> None:
        assert task.actor is not None
        task.actor.entry.pins += 1  # a call that was made is answered, even if the handle dies before
        task.actor.queue.append(task)
        self.calling[task.actor] = None

    def withdraw(self, task: Task) -> ProcessId | None:
        """Take a call out of its actor's queue; or say which worker has it."""
        assert task.actor is not None
        if task.count in task.actor.inflight:
            return task.actor.worker
        if task in task.actor.queue:
            task.actor.queue.remove(task)
            self.calling[task.actor] = None  # it may have held up those behind
        return None

    def push(self, actor: Actor, effects: list[Effect]) -> None:
        """Send what is ready, in the order of the calls: one that waits for its arguments holds up those behind."""
        if actor.state == "dead":
            self._fail_calls(actor, [*actor.inflight.values(), *actor.queue], effects)
        elif actor.state == "alive":
            assert actor.worker is not None
            calls: list[TaskTuple] = []
            while actor.queue and not actor.queue[0].missing:
                task = actor.queue.popleft()
                if task.count not in self.book.tasks:
                    continue  # it failed while it waited
                if task.refs and (failure := task.failed_argument()) is not None:
                    self.book.answer(task, [failure] * len(task.returns), effects)
                    continue
                actor.inflight[task.count] = task
                calls.append(self.book.wire(task))
            if calls:
                actor.node = node_of(actor.worker)
                effects.append(Send(actor.worker, PushCalls(actor.id, calls)))
        actor.hungry = len(actor.inflight) < MOST_AT_ONCE

    def _fail_calls(self, actor: Actor, calls: Iterable[Task], effects: list[Effect]) -> None:
        name = "ActorDiedError" if actor.state == "dead" else "ActorUnavailableError"
        if actor.node is not None and actor.inflight:
            stored = [result for task in actor.inflight.values() for result in task.results()]
            effects.append(Send(raylet_of(actor.node), FreeObjects(stored)))
        failure: Value = actor.error or (FAILED, name, f"actor {actor.id.hex()}: {actor.why}")
        for task in list(calls):
            if task.count in self.book.tasks:
                self.book.answer(task, [failure] * len(task.returns), effects)
        actor.inflight.clear()
        if actor.state == "dead":
            actor.queue.clear()

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
        if actor.inflight and (message.state != "alive" or message.incarnation != actor.incarnation):
            actor.why = message.why or "it is being restarted"
            actor.state = "restarting"
            self._fail_calls(actor, actor.inflight.values(), effects)
        actor.state, actor.incarnation, actor.worker = message.state, message.incarnation, message.worker
        actor.why = message.why
        self.calling[actor] = None

    def end(self, why: str) -> None:
        self.ended = why
        for actor in self.actors.values():
            self.die(actor, why)
