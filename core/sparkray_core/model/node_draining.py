"""A node that is being drained: what waits here goes elsewhere, what runs here finishes, objects move, then it leaves.

It leaves when there is nothing left that others would miss, or at its deadline. What holds it up until then:

    leases, which their owners are asked to give back; actors; bundles of placement groups
    drivers, and workers that own something that is still wanted
    objects: each is taken by another node, the owner hears of that, and has it freed here. What a worker of this node
    has put is owned here (`node_kept`), and ends with the node: so it waits until nobody refers to it

The other side is here, too: taking the objects of a node that is being drained.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sparkray_core.ids import HEAD, NodeId, ObjectId, ProcessId, node_of, raylet_of
from sparkray_core.messages import NodeDraining, NodeGone, ObjectMoved, ObjectTaken, ReclaimLeases, TakeObject
from sparkray_core.model.effects import Send
from sparkray_core.model.where import group_of

if TYPE_CHECKING:
    from sparkray_core.ids import LeaseId
    from sparkray_core.model.node import Node

AT_ONCE = 4  # objects under way
LOOK_S = 0.5  # between two looks at what is still in the store
# What another node has taken, and lies here after that time, is passed on again: its owner may have died and have an
# heir, or may have had it made here once more.
AGAIN_S = 5.0


class Drain:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.why = ""  # it is being drained
        self.deadline = float("inf")
        self.moving: dict[ObjectId, NodeId] = {}  # who is to take it
        self.moved: dict[ObjectId, tuple[NodeId, float]] = {}  # who has taken it, and until when that is relied on
        self.todo: deque[ObjectId] = deque()
        self.taking: dict[ObjectId, dict[ProcessId, None]] = {}  # of other nodes, and for which raylets
        self._turn = 0
        self._look_at = 0.0

    # ------------------------------------------------------------------ this node
    def begin(self, message: NodeDraining, now: float) -> None:
        self.deadline = float("inf") if message.deadline_s is None else now + message.deadline_s
        self.why = message.why or "no reason was given"
        node = self.node
        node.bundles.stop_gathering()
        node.send_on(
            [claim for claim in node.claims.all.values() if claim.worker is None and not group_of(claim.where)]
        )
        asked: dict[ProcessId, list[LeaseId]] = {}
        for claim in node.claims.all.values():
            if claim.lease is not None and not claim.reclaimed and not group_of(claim.where):
                claim.reclaimed = True
                asked.setdefault(claim.owner, []).append(claim.lease)
        node.out.extend(Send(owner, ReclaimLeases(leases)) for owner, leases in asked.items())
        self._look_at = now

    def settle(self, now: float) -> float:
        """Once after each event, while it is drained. Returns when to be called again at the latest."""
        node = self.node
        if now >= self.deadline:
            self._leave(f"its deadline came, and it still had {self.in_words()}")
            return now
        if not node.claims.all:
            for worker in list(node.workers.idle.values()):
                node.workers.retire(worker, "its node is being drained", now)
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self.moved = {some: moved for some, moved in self.moved.items() if moved[1] > now}
            self.todo = deque(
                some
                for some, stored in node.store.stored.items()
                if not (stored.doomed or some in self.moving or some in self.moved)
                and node_of(node.owner_now(some)) != node.info.node
            )
        self._move()
        if not self.holds_up():
            self._leave("")
        return min(self.deadline, self._look_at)

    def holds_up(self) -> dict[str, int]:
        """What the node waits for, and how many of it."""
        node = self.node
        claims = node.claims.all.values()
        counts = {
            "leases": sum(claim.lease is not None for claim in claims),
            "actors": sum(claim.actor is not None for claim in claims),
            "bundles": len(node.bundles.all),
            "drivers": sum(role == "driver" for role in node.processes.values()),
            "workers": len(node.workers.all) - len(claims) if len(node.workers.all) > len(claims) else 0,
            "objects": len(node.store.stored) + len(node.store.unsealed),
            "objects put by its workers": len(node.kept.refs.exported),
        }
        return {what: count for what, count in counts.items() if count}

    def in_words(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.holds_up().items()) or "nothing"

    def _leave(self, rest: str) -> None:
        node = self.node
        why = f"it was drained: {self.why}" + (f" ({rest})" if rest else "")
        node.out.append(Send(HEAD, NodeGone(node.info.node, why)))
        node.leave(why)

    # ------------------------------------------------------------------ its objects
    def _move(self) -> None:
        node = self.node
        while self.todo and len(self.moving) < AT_ONCE:
            some = self.todo.popleft()
            stored = node.store.stored.get(some)
            if stored is None or stored.doomed or some in self.moving:
                continue
            target = self._target(stored.size)
            if target is None:
                self.todo.clear()  # nobody is there; looked at again later
                return
            self.moving[some] = target
            node.out.append(Send(raylet_of(target), TakeObject(some)))

    def _target(self, size: int) -> NodeId | None:
        """Nodes take turns: of those with a store that could hold it, and that stay."""
        table = self.node.table
        able = sorted(
            peer
            for peer in self.node.peers
            if not table[peer].visits and not table[peer].draining and table[peer].store_bytes >= size
        )
        self._turn += 1
        return able[self._turn % len(able)] if able else None

    def taken(self, sender: ProcessId, message: ObjectTaken, now: float) -> None:
        some, target = message.object, node_of(sender)
        if self.moving.get(some) != target:
            return
        del self.moving[some]
        if message.done:
            self.moved[some] = target, now + AGAIN_S
            self.node.out.append(Send(self.node.owner_now(some), ObjectMoved(some, self.node.info.node, target)))

    def node_gone(self, node: NodeId) -> None:
        self.moving = {some: target for some, target in self.moving.items() if target != node}
        self.moved = {some: moved for some, moved in self.moved.items() if moved[0] != node}

    # ------------------------------------------------------------------ those of others
    def take(self, sender: ProcessId, some: ObjectId, there: tuple[NodeId, ...], now: float) -> None:
        """For another raylet; or for this one, of what it owns now."""
        if self.why:
            self.node.out.append(Send(sender, ObjectTaken(some, False)))
            return
        known = some in self.taking
        self.taking.setdefault(some, {})[sender] = None
        if not known:
            self.node.pulls.read(self.node.me, some, there, now)

    def arrived(self, some: ObjectId, done: bool, now: float) -> None:
        """What was to be taken is here, and pinned; or it is not to be had."""
        raylets = self.taking.pop(some, {})
        if done:
            stored = self.node.store.stored[some]
            stored.copy = False  # it stays, when room is needed
            done = not stored.doomed  # else its owner has had it freed here meanwhile
            self.node.store.unpin(some, self.node.me, now)
        self.node.out.extend(Send(raylet, ObjectTaken(some, done)) for raylet in raylets)
