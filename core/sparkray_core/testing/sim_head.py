"""The head's end and its going on, or a shard's, as `run/journal.py` and `run/journalled.py` have it: what it was told
is replayed."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from sparkray_core.ids import NodeId, ProcessId, node_of
from sparkray_core.messages import Message
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, SendFrom
from sparkray_core.model.events import Event
from sparkray_core.model.head import Head
from sparkray_core.model.invariants import check
from sparkray_core.model.link import Link
from sparkray_core.model.shard import Shard
from sparkray_core.wire import codec

FACTS = 100  # after so many a snapshot is taken


class HeadState:
    """What a head's, or a shard's, process has in its memory."""

    def __init__(self, me: ProcessId, model: Head | Shard, new_link: Callable[[NodeId, float], Link]) -> None:
        self.me = me
        self.model = model
        self.links: dict[NodeId, Link] = {}
        self.forgotten: set[NodeId] = set()
        self.new_link = new_link

    def link(self, node: NodeId, now: float) -> Link:
        if node not in self.links:
            self.links[node] = self.new_link(node, now)
        return self.links[node]

    def perform(self, effects: Sequence[Effect], now: float) -> None:
        """On paper: what a life before has sent."""
        for effect in effects:
            match effect:
                case Send(to, message):
                    self._send(to, self.me, message, now)
                case SendFrom(to, sender, message):
                    self._send(to, sender, message, now)
                case ConnectPeer(node):
                    self.link(node, now)
                case ForgetPeer(node):
                    self.links.pop(node, None)
                    self.forgotten.add(node)
                case _:
                    pass

    def _send(self, to: ProcessId, sender: ProcessId, message: Message, now: float) -> None:
        link = self.links.get(node_of(to))
        if link is not None:
            link.send([to + sender + codec.encode(message)], now)


class History:
    """Snapshot and facts after it."""

    def __init__(
        self, me: ProcessId, new_model: Callable[[], Head | Shard], new_link: Callable[[NodeId, float], Link]
    ) -> None:
        self.me = me
        self.new_model = new_model
        self.new_link = new_link
        self.snapshot = b""
        self.facts: list[tuple[Any, ...]] = []

    def note(self, *fact: Any) -> None:
        self.facts.append(fact)

    def take_snapshot(self, model: object, links: dict[NodeId, Link], forgotten: set[NodeId]) -> None:
        if len(self.facts) >= FACTS:
            self.snapshot = pickle.dumps((model, links, forgotten), 5)
            self.facts.clear()

    def again(self) -> HeadState:
        """What another process makes of it."""
        state = HeadState(self.me, self.new_model(), self.new_link)
        if self.snapshot:
            state.model, state.links, state.forgotten = pickle.loads(self.snapshot)
        for kind, now, *fact in self.facts:
            getattr(self, f"_{kind}")(state, now, *fact)
        return state

    def _began(self, state: HeadState, now: float) -> None:
        state.perform(state.model.start(now), now)

    def _resumed(self, state: HeadState, now: float) -> None:
        state.perform(state.model.resume(now), now)

    def _happened(self, state: HeadState, now: float, event: Event) -> None:
        effects = state.model.handle(event, now)
        check(state.model)  # as the life before did: it brings rankings up to date
        state.perform(effects, now)

    def _linked(self, state: HeadState, now: float, node: NodeId) -> None:
        state.link(node, now)

    def _accepted(self, state: HeadState, now: float, node: NodeId, peer: bytes, epoch: int) -> None:
        state.links[node].replay_accepted(peer, epoch, now)

    def _received(self, state: HeadState, now: float, node: NodeId, payloads: int, acknowledged: int) -> None:
        state.links[node].replay_received(payloads, acknowledged, now)


def contents(some: Any) -> Any:
    """All that hangs on an object, in an order that says what is where, to be compared with another's."""
    return _contents(some, {})


def _contents(some: Any, seen: dict[int, int]) -> Any:
    if some is None or isinstance(some, bool | int | float | str | bytes | Enum):
        return some
    if callable(some):
        return "a function"
    if id(some) in seen:
        return "see", seen[id(some)]
    seen[id(some)] = len(seen)
    if isinstance(some, dict):
        return "dict", [(_contents(key, seen), _contents(value, seen)) for key, value in some.items()]
    if isinstance(some, list | tuple | deque):
        return type(some).__name__, [_contents(item, seen) for item in some]
    if isinstance(some, set | frozenset):
        return "set", sorted((_contents(item, {}) for item in some), key=repr)
    names = [*getattr(some, "__dict__", ()), *(name for kind in type(some).__mro__ for name in _slots(kind))]
    return type(some).__name__, [(name, _contents(getattr(some, name), seen)) for name in sorted(set(names))]


def _slots(kind: type) -> Sequence[str]:
    slots: str | Sequence[str] = kind.__dict__.get("__slots__", ())
    return [slots] if isinstance(slots, str) else slots
