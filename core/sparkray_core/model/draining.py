"""The head's part in draining nodes: nothing new is placed there, actors move, and the node's end is nobody's fault.

drain ──> told to all nodes, and to the node itself, which hands back and moves what it can (`node_draining`)
      ──> actors that may restart and fit elsewhere: their callers hold back new calls ──> soon after, they finish what
          they have, save, end, and begin elsewhere; no restart is counted
      ──> the node takes its leave, when nothing holds it up any more or at its deadline: nobody's retries are counted
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sparkray_core.ids import ActorId, NodeId, raylet_of
from sparkray_core.messages import DrainNode, NodeDraining
from sparkray_core.model.actors import Actor, ActorState
from sparkray_core.model.effects import Send
from sparkray_core.model.resources import show
from sparkray_core.model.where import group_of, plain

if TYPE_CHECKING:
    from sparkray_core.model.head import Head

HOLD_S = 0.25  # from telling an actor's callers that it moves to its end: what they sent before that is there by then


class Draining:
    def __init__(self, head: Head) -> None:
        self.head = head
        self.nodes: dict[NodeId, None] = {}  # that are being drained; a set that keeps its order
        self.news = False  # actors are to be looked at
        self.due: dict[ActorId, float] = {}  # actors that move: when they are told to end

    def drain(self, message: DrainNode) -> str:
        """Begin, or change reason and deadline. Returns why not; empty: it is done."""
        nodes = self.head.nodes
        record = nodes.all.get(message.node)
        if record is None:
            return f"node {message.node.hex()} is none of this session"
        if not record.info.alive:
            return f"node {message.node.hex()} is gone: {record.info.why}"
        if record.info.visits:
            return f"node {message.node.hex()} is there for one driver only, and goes with it"
        if any(name.startswith("node:__internal_head") for name in record.info.resources):
            return "the session's head is on that node: when it leaves, the session ends. `sparkray stop` does that"
        if message.idle_only and (why := self._why_busy(message.node)):
            return f"node {message.node.hex()} is not idle: {why}"
        nodes.changed(replace(record.info, draining=message.why))
        self.head.note_draining(f"{record.info} is being drained: {message.why}")
        self.head.out.append(Send(raylet_of(message.node), NodeDraining(message.why, message.deadline_s)))
        self.nodes[message.node] = None
        self.news = True
        return ""

    def _why_busy(self, node: NodeId) -> str:
        record = self.head.nodes.all[node]
        if any(actor.node == node for actor in self.head.actors.all.values()):
            return "it has actors"
        used = {name: total - record.free()[0].get(name, 0) for name, total in record.totals.items()}
        used = {name: amount for name, amount in plain(used).items() if amount > 0}
        return f"{show(used)} is used" if used else ""

    def settle(self, now: float) -> None:
        """Once after each event."""
        if self.news and self.nodes:
            self.nodes = {node: None for node in self.nodes if self.head.nodes.is_alive(node)}
            for actor in list(self.head.actors.all.values()):
                if actor.node is not None and actor.node in self.nodes and self._can_move(actor):
                    self.due[actor.id] = now + HOLD_S
                    self.head.actors.hold(actor, f"its node {actor.node.hex()} is being drained")
        self.news = False
        for some, due in list(self.due.items()):
            if now >= due:
                del self.due[some]
                self.head.actors.move(some)

    def next_wake(self) -> float | None:
        return min(self.due.values(), default=None)

    def _can_move(self, actor: Actor) -> bool:
        """One that cannot goes on where it is, until it ends or its node does."""
        if actor.state is not ActorState.ALIVE or actor.moving or actor.ending or actor.restarts_left == 0:
            return False
        if group_of(actor.where) is not None:  # its bundle stays where it is
            return False
        return isinstance(found := self.head.choosing.choose(actor.wanted(), 1, None, actor.where), list) and bool(
            found
        )
