"""The head's record of actors: their lives, one after the other, and who is told.

                  +-----------------------+
                  |                       v
    PENDING --> ALIVE ---> RESTARTING --> DEAD
       |          ^          |   ^  |      ^
       |          +----------+   +--+      |
       +--------> RESTARTING               |
       +-----------------------------------+

PENDING until the constructor of the first life returned; RESTARTING from the loss of a life until the constructor of
the next one returned (that life may be lost too). A life has a number, the incarnation. A life that was lost before it
had a worker is no life: it is placed again, under the same number.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sparkray_core.ids import ActorId, GroupId, NodeId, ProcessId, node_of, owner_of, raylet_of
from sparkray_core.messages import (
    FAILED,
    ActorChanged,
    ActorFailed,
    ActorLost,
    ActorReady,
    ActorUnplaced,
    CreateActor,
    EndActor,
    Resources,
    SaveActor,
    StartActor,
    StopActor,
    Value,
    Where,
)
from sparkray_core.model.actor_names import ActorNames
from sparkray_core.model.actor_states import SavedState, SavedStates
from sparkray_core.model.bounded import Recent
from sparkray_core.model.choosing import Held, Refusal
from sparkray_core.model.effects import Effect, Send
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.moves import IllegalMove
from sparkray_core.model.resources import larger, show
from sparkray_core.model.where import group_of
from sparkray_core.model.where import show as show_where


class ActorState(Enum):
    PENDING = "pending"
    ALIVE = "alive"
    RESTARTING = "restarting"
    DEAD = "dead"


MOVES: Mapping[ActorState, frozenset[ActorState]] = {
    ActorState.PENDING: frozenset({ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.ALIVE: frozenset({ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.RESTARTING: frozenset({ActorState.ALIVE, ActorState.RESTARTING, ActorState.DEAD}),
    ActorState.DEAD: frozenset(),
}


@dataclass(slots=True)
class Actor:
    id: ActorId
    name: str
    restarts_left: int  # -1: without limit
    spec: CreateActor | None  # None once dead: class and arguments may be large
    story: deque[str]
    state: ActorState = ActorState.PENDING
    incarnation: int = 0
    node: NodeId | None = None  # where this life was placed
    placement: int = 0  # its number there
    begun: bool = False  # it got a worker, as far as the head knows
    worker: ProcessId | None = None  # while ALIVE
    former: tuple[NodeId, int] | None = None  # a killed life; the next one is not placed before this one's end
    placed_at: float = float("-inf")
    due: float = 0.0  # not placed: when it may be
    hopeless_at: float | None = None  # not placed, and no node could ever hold it: when to give up
    ending: str = ""  # it is to end gently, and why
    moving: bool = False  # its node is being drained: until it lives elsewhere
    why: str = ""
    error: Value | None = None
    watchers: dict[ProcessId, None] = field(default_factory=dict)  # a set that keeps its order
    detached: bool = False  # its creator's end is not its own
    resources: Resources = field(default_factory=dict)  # while it lives and after
    public_name: str = ""  # under which it can be found
    namespace: str = ""  # of that name
    saved_bytes: int | None = None  # of its state, when it saved it last
    where: Where = ()  # it may live

    @property
    def owner(self) -> ProcessId:
        return owner_of(self.id)

    @property
    def holds_something(self) -> bool:
        return self.spec is not None and bool(self.spec.resources)

    def wanted(self) -> Resources:
        return larger(self.spec.placement, self.spec.resources) if self.spec else {}

    def move(self, to: ActorState, why: str) -> None:
        if to not in MOVES[self.state]:
            raise IllegalMove(f"actor {self.id.hex()}", self.state.value, to.value, self.story)
        self.story.append(f"{self.state.value} -> {to.value}: {why}")
        self.state, self.why = to, why

    def changed(self) -> ActorChanged:
        why = self.why if self.moving or self.state in (ActorState.RESTARTING, ActorState.DEAD) else ""
        moving = self.moving and self.state is not ActorState.DEAD
        state = "moving" if moving else self.state.value
        return ActorChanged(self.id, state, self.incarnation, self.worker, why, self.error)

    def as_dict(self) -> dict[str, Any]:
        return {
            "actor": self.id,
            "name": self.name,
            "state": self.state.value,
            "incarnation": self.incarnation,
            "node": self.node,
            "worker": self.worker,
            "why": self.why,
            "story": list(self.story),
            "owner": self.owner,
            "detached": self.detached,
            "resources": self.resources,
            "public_name": self.public_name,
            "namespace": self.namespace,
            "saved_bytes": self.saved_bytes,
            "restarts_left": self.restarts_left,
            "placed": self.node is not None,
            "begun": self.begun,
            "init_failed": self.error is not None,
            "group": group_of(self.where),
        }


@dataclass(slots=True)
class Early:
    """What was said of an actor before its owner's `CreateActor` came: handles travel by other ways."""

    watchers: dict[ProcessId, None] = field(default_factory=dict)
    end: EndActor | None = None


class Actors:
    def __init__(self, limits: HeadLimits, out: list[Effect]) -> None:
        self.limits = limits
        self.out = out
        self.all: dict[ActorId, Actor] = {}  # not dead
        self.dead: Recent[ActorId, Actor] = Recent(limits.remembered)
        self.names = ActorNames()
        self.states = SavedStates(out)
        self.early: Recent[ActorId, Early] = Recent(limits.remembered)
        self.unplaced: dict[ActorId, Actor] = {}  # waits for its time, for a node, or for the end of its former life
        self.owned: dict[ProcessId, dict[ActorId, None]] = {}
        self.watched: dict[ProcessId, dict[ActorId, None]] = {}
        self.on_event: Callable[[str, str], None] = lambda severity, sentence: None  # head.py keeps them
        self.on_dead: Callable[[ActorId], None] = lambda actor: None
        # Set by head.py: a node, and the number there.
        self.choose: Callable[[Actor, float], tuple[NodeId, int] | Held | Refusal | None]
        self.choose = lambda actor, now: None

    # ------------------------------------------------------------------ what processes say
    def create(self, message: CreateActor, now: float) -> None:
        if message.actor in self.all or message.actor in self.dead:
            return
        story: deque[str] = deque([f"created as {message.name}"], maxlen=self.limits.story_lines)
        actor = Actor(message.actor, message.name, message.max_restarts, message, story, due=now)
        actor.detached = message.detached
        actor.resources, actor.where = message.resources, message.where
        actor.namespace, _, actor.public_name = self.names.key_of(actor.id).partition("\0")
        self.all[actor.id] = self.unplaced[actor.id] = actor
        self.owned.setdefault(actor.owner, {})[actor.id] = None
        self._add_watcher(actor, actor.owner)
        early = self.early.get(actor.id)
        if early is not None:
            self.early.forget(actor.id)
            for watcher in early.watchers:
                self.watch(actor.id, watcher)
            if early.end is not None:
                self.end(early.end, now)

    def watch(self, some: ActorId, watcher: ProcessId) -> None:
        actor = self.all.get(some) or self.dead.get(some)
        if actor is None:
            self._early(some).watchers[watcher] = None
            return
        self.out.append(Send(watcher, actor.changed()))
        if actor.state is not ActorState.DEAD:
            self._add_watcher(actor, watcher)

    def end(self, message: EndActor, now: float) -> None:
        actor = self.all.get(message.actor)
        if actor is None:
            if message.actor not in self.dead:
                early = self._early(message.actor)
                early.end = message if early.end is None or early.end.gently else early.end
            return
        if message.gently:
            if not actor.ending:
                actor.ending = message.why
                actor.story.append(f"to end gently: {message.why}")
                self.names.release(actor.id)  # who asks for the name now would get one that is about to go
                if actor.state is ActorState.ALIVE:
                    self._stop(actor, message.why, gently=True)
        elif not message.restart:
            self._stop(actor, message.why)
            self._die(actor, message.why)
        elif actor.node is not None:
            former = actor.node, actor.incarnation
            self._stop(actor, message.why)
            self._restart(actor, message.why, now)
            actor.former = former

    def forget_process(self, process: ProcessId, why: str) -> None:
        self.names.forget(process, self.all)
        for some in self.watched.pop(process, {}):
            if some in self.all:
                self.all[some].watchers.pop(process, None)
        for some, early in self.early.items():
            if owner_of(some) == process:  # it will not be created any more
                self.early.forget(some)
                dead = ActorChanged(some, "dead", 0, None, f"the process that was to create it is gone: {why}", None)
                self.out.extend(Send(watcher, dead) for watcher in early.watchers)
        for some in list(self.owned.get(process, ())):
            if self.all[some].detached:
                continue
            self._stop(self.all[some], "its owner is gone")
            self._die(self.all[some], f"the process that created it is gone: {why}")

    # ------------------------------------------------------------------ what workers and raylets say
    def ready(self, worker: ProcessId, message: ActorReady) -> None:
        actor = self._current(message.actor, message.incarnation, node_of(worker))
        if actor is None or actor.state is ActorState.ALIVE:
            return
        actor.begun, actor.worker, actor.moving = True, worker, False
        self._tell(actor, ActorState.ALIVE, f"life {actor.incarnation} on {node_of(worker).hex()}")
        if not actor.restarts_left:
            self.states.forget(actor.id)  # for nobody
        if actor.ending:
            self._stop(actor, actor.ending, gently=True)

    def save(self, worker: ProcessId, message: SaveActor) -> None:
        actor = self._current(message.actor, message.incarnation, node_of(worker))
        if actor is not None:
            actor.saved_bytes = message.size
            self.states.keep(worker, message)
        else:
            self.states.refuse(message)

    def failed(self, message: ActorFailed) -> None:
        """Its constructor raised, or its environment cannot be set up; if only in a former life whose end was told
        first: it would again."""
        actor = self.all.get(message.actor)
        if actor is not None:
            if message.incarnation != actor.incarnation:
                self._stop(actor, _why_failed(message.error))
            self._die(actor, _why_failed(message.error), message.error)

    def lost(self, node: NodeId, message: ActorLost, now: float) -> None:
        actor = self.all.get(message.actor)
        if actor is not None and actor.former == (node, message.incarnation):
            actor.former = None
            return
        actor = self._current(message.actor, message.incarnation, node)
        if actor is None:
            return
        if message.meant and not actor.moving:
            self._die(actor, actor.ending or message.why)
        else:
            error = (FAILED, message.kind, f"{actor.name}: {message.why}") if message.kind else None
            self._restart(actor, message.why, now, error)

    def returned(self, node: NodeId, message: ActorUnplaced, now: float) -> None:
        actor = self._current(message.actor, message.incarnation, node)
        if actor is not None and actor.state is not ActorState.ALIVE:
            actor.story.append(f"waited in vain for room on {node.hex()}")
            self._unplace(actor, now)

    def has_worker(self, some: ActorId, node: NodeId, placement: int) -> None:
        actor = self.all.get(some)
        if actor is not None and (actor.node, actor.placement) == (node, placement):
            actor.begun = True

    def hold(self, actor: Actor, why: str) -> None:
        """Its callers are to wait with new calls: it moves."""
        actor.moving, actor.why = True, why
        actor.story.append(f"moves: {why}")
        message = actor.changed()
        self.out.extend(Send(watcher, message) for watcher in actor.watchers)

    def move(self, some: ActorId) -> None:
        """It finishes what it has, and ends; its end is `lost`."""
        actor = self.all.get(some)
        if actor is not None and actor.moving and actor.state is ActorState.ALIVE:
            self._stop(actor, actor.why, gently=True)

    def node_gone(self, node: NodeId, why: str, now: float, planned: bool = False) -> None:
        """
        Args:
            planned: it was drained: no restart is counted.
        """
        why = f"its node {node.hex()} died: {why}" if not planned else f"its node {node.hex()} left: {why}"
        self.states.node_gone(node, why)
        for actor in self.all.values():
            if actor.node == node == node_of(actor.owner) and not actor.detached:
                actor.node = None  # ends with its owner, below; there is nobody to stop
        early = {owner_of(some): None for some, _ in self.early.items()}
        for owner in [owner for owner in {**self.owned, **self.watched, **early} if node_of(owner) == node]:
            self.forget_process(owner, why)
        for actor in list(self.all.values()):
            if actor.former is not None and actor.former[0] == node:
                actor.former = None
            if actor.node != node:
                continue
            if actor.begun:
                self._restart(actor, why, now, planned=planned)
            else:
                actor.story.append(f"not begun, and {why}")
                self._unplace(actor, now)

    def group_removed(self, group: GroupId, why: str) -> None:
        """What lives there, or was to, is dead."""
        for actor in [actor for actor in self.all.values() if group_of(actor.where) == group]:
            error: Value = (FAILED, "ActorPlacementGroupRemoved", f"{actor.name}: {why}")
            lived = actor.state is ActorState.ALIVE
            self._stop(actor, why)
            self._die(actor, why, None if lived else error)

    # ------------------------------------------------------------------ time
    def settle(self, now: float, joined: bool) -> None:
        """Once after each event: place what is due; what fits nowhere again when a node joined or a group changed."""
        for actor in list(self.unplaced.values()):
            if actor.former is not None or now < actor.due or actor.spec is None:
                continue
            if lost := self.states.lost(actor.id):
                self._die(actor, lost)
                continue
            found = self.choose(actor, now) if joined or actor.hopeless_at is None else None
            if isinstance(found, Held):
                actor.hopeless_at = None
                continue
            if isinstance(found, Refusal):
                self._die(actor, found.why, (FAILED, f"Actor{found.kind}", f"{actor.name}: {found.why}"))
                continue
            if found is None:
                self._hope(actor, actor.spec, now)
                continue
            del self.unplaced[actor.id]
            actor.hopeless_at = None
            actor.node, actor.placement = found
            actor.begun = False
            actor.placed_at = now
            actor.story.append(f"life {actor.incarnation} placed on {actor.node.hex()}")
            start = _start(actor.spec, actor.incarnation, actor.restarts_left != 0, self.states.of.get(actor.id))
            self.out.append(Send(raylet_of(actor.node), start))

    def _hope(self, actor: Actor, spec: CreateActor, now: float) -> None:
        if actor.hopeless_at is None:
            actor.hopeless_at = now + self.limits.infeasible_grace_s
            actor.story.append("no node could ever hold it")
        elif now >= actor.hopeless_at:
            wanted, whose = show(larger(spec.placement, spec.resources)), show_where(actor.where)
            self._die(
                actor,
                f"no node of the session{whose} can ever hold an actor of {wanted}, and none that could joined "
                f"within {self.limits.infeasible_grace_s:g} s. Ask for less, or add a node that has it",
            )

    def residents(self) -> Counter[NodeId]:
        """How many actors that hold nothing each node has, or is to have. O(actors)."""
        return Counter(
            actor.node for actor in self.all.values() if actor.node is not None and not actor.holds_something
        )

    def next_wake(self, now: float) -> float | None:
        times = [actor.due if actor.due > now else actor.hopeless_at for actor in self.unplaced.values()]
        return min((time for time in times if time is not None), default=None)

    # ------------------------------------------------------------------ steps
    def _restart(self, actor: Actor, why: str, now: float, error: Value | None = None, planned: bool = False) -> None:
        if actor.restarts_left == 0 or actor.ending:
            self._die(actor, actor.ending or why, None if actor.ending else error)
            return
        if lost := self.states.lost(actor.id):
            self._die(actor, f"{why}; {lost}")
            return
        planned = planned or actor.moving
        if not planned:
            actor.restarts_left -= actor.restarts_left > 0
        actor.incarnation += 1
        actor.worker = None
        self._unplace(actor, now if planned else max(now, actor.placed_at + self.limits.restart_gap_s))
        severity = "INFO" if planned else "WARNING"
        self.on_event(severity, f"actor {actor.id.hex()} ({actor.name}) is restarted: {why}")
        self._tell(actor, ActorState.RESTARTING, why)

    def _unplace(self, actor: Actor, due: float) -> None:
        actor.node, actor.placement, actor.begun = None, 0, False
        actor.due, actor.hopeless_at = due, None
        self.unplaced[actor.id] = actor

    def _die(self, actor: Actor, why: str, error: Value | None = None) -> None:
        severity = "ERROR" if error is not None else "INFO"
        self.on_event(severity, f"actor {actor.id.hex()} ({actor.name}) is dead: {why}")
        actor.error, actor.spec, actor.worker, actor.node = error, None, None, None
        self._tell(actor, ActorState.DEAD, why)
        for watcher in actor.watchers:
            of_watcher = self.watched.get(watcher, {})
            of_watcher.pop(actor.id, None)
            if not of_watcher:
                self.watched.pop(watcher, None)
        actor.watchers.clear()
        owned = self.owned[actor.owner]
        del owned[actor.id]
        if not owned:
            del self.owned[actor.owner]
        del self.all[actor.id]
        self.unplaced.pop(actor.id, None)
        self.names.release(actor.id)
        self.states.forget(actor.id)
        self.dead.remember(actor.id, actor)
        self.on_dead(actor.id)

    def _stop(self, actor: Actor, why: str, gently: bool = False) -> None:
        if actor.node is not None:
            self.out.append(Send(raylet_of(actor.node), StopActor(actor.id, actor.incarnation, why, gently)))

    def _tell(self, actor: Actor, to: ActorState, why: str) -> None:
        actor.move(to, why)
        message = actor.changed()
        self.out.extend(Send(watcher, message) for watcher in actor.watchers)

    def _current(self, some: ActorId, incarnation: int, node: NodeId) -> Actor | None:
        """The actor, if this is said of its present life. Word of former lives, or of buried nodes, comes late."""
        actor = self.all.get(some)
        return actor if actor is not None and (actor.incarnation, actor.node) == (incarnation, node) else None

    def _add_watcher(self, actor: Actor, watcher: ProcessId) -> None:
        actor.watchers[watcher] = None
        self.watched.setdefault(watcher, {})[actor.id] = None

    def _early(self, some: ActorId) -> Early:
        early = self.early.get(some) or Early()
        self.early.remember(some, early)
        return early


def _why_failed(error: Value) -> str:
    set_up = error[:2] == (FAILED, "RuntimeEnvSetupError")
    return "its runtime_env cannot be set up" if set_up else "its constructor raised"


def _start(spec: CreateActor, incarnation: int, retriable: bool, saved: SavedState | None) -> StartActor:
    state, some = (None, None) if saved is None else (saved.state, saved.object)
    return StartActor(
        spec.actor,
        incarnation,
        spec.name,
        spec.function,
        spec.blob,
        spec.payload,
        spec.refs,
        spec.resources,
        spec.placement,
        spec.setup,
        spec.env,
        retriable,
        state,
        some,
        spec.where,
    )
