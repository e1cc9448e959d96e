"""A global scheduler beside the head: it chooses nodes for leases, as the head does, and keeps nothing that matters.

What it goes by is the head's: the table of nodes, and what they report, which the head passes on. What it cannot decide
(nothing could hold it, it may not run there, its placement group is the head's affair) it passes on to the head. Two
schedulers may choose the same node at once; the node then lets some wait. When a scheduler dies, its raylets have their
owners ask again, under the same ids, by way of another one: a lease that is granted twice goes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sparkray_core.frozen import frozen, replaced
from sparkray_core.ids import HEAD, HEAD_NODE, LeaseId, NodeId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    EndSession,
    JoinScheduler,
    Loads,
    Message,
    NodeBeat,
    NodeGone,
    NodeTable,
    PlaceLeases,
    ProcessGone,
    RequestLeases,
    ReturnLeases,
)
from sparkray_core.model import where as places
from sparkray_core.model.alarm import Alarm
from sparkray_core.model.bounded import Recent
from sparkray_core.model.choosing import Choosing
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, SendFrom, Stop
from sparkray_core.model.events import ClockTicked, Event, PeerLost, Received
from sparkray_core.model.groups import Groups
from sparkray_core.model.head_nodes import Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node_info import NodeInfo


@frozen
class Placed:
    """A lease that may be waiting on a node still."""

    owner: ProcessId
    asked: RequestLeases
    node: NodeId


class Scheduler:
    """`start` once, then `handle` for whatever happens, in one thread."""

    def __init__(self, node: NodeId, address: str, limits: HeadLimits | None = None) -> None:
        """
        Args:
            node: as if it were one: it has links to nodes and to the head. Used once.
            address: where raylets reach it.
        """
        self.node = node
        self.address = address
        self.limits = limits or HeadLimits()
        self.out: list[Effect] = []
        self.nodes = Nodes()
        groups = Groups(self.nodes, self.limits, self.out)  # none: what is for one goes to the head
        self.choosing = Choosing(self.nodes, groups, self.limits)
        self.placed: dict[LeaseId, Placed] = {}
        self.gone: Recent[ProcessId, str] = Recent(self.limits.remembered)
        self.decisions = 0
        self.ended: str | None = None
        self.session_ended = False  # that is why
        self.strays = 0  # messages that are not for a scheduler; a bug of somebody's
        self._alarm = Alarm()
        self._beat_at = 0.0

    def start(self, now: float) -> list[Effect]:
        self._beat(now)
        return self._flush()

    def handle(self, event: Event, now: float) -> list[Effect]:
        if self.ended is not None:
            return []
        match event:
            case Received(sender, message):
                self._receive(sender, message, now)
            case ClockTicked():
                self._alarm.rang(now)
            case PeerLost(node, why):
                if node == HEAD_NODE:
                    self._end(f"the master is gone: {why}")
                elif self.nodes.is_alive(node):  # it is for the head to say which of us is to go
                    self.out.append(Send(HEAD, NodeGone(node, why)))
            case _:
                self.strays += 1
        if self.ended is None and now >= self._beat_at:
            self._beat(now)
        return self._flush()

    def _flush(self) -> list[Effect]:
        effects = self.out[:]
        self.out.clear()
        return effects

    def _receive(self, sender: ProcessId, message: Message, now: float) -> None:
        match message:
            case RequestLeases():
                self._requested(sender, message)
            case ReturnLeases(leases):
                self._taken_back(sender, leases)
            case Loads(rows):
                self._believe(rows)
            case NodeTable(nodes):
                self._learn(nodes, now)
            case NodeGone(node, why):
                if node == self.node:
                    self._end(f"the master gave this scheduler up: {why}")
                else:
                    self._bury(node, why)
            case ProcessGone(process, why):
                self.gone.remember(process, why)
                self._forget(lambda owner: owner == process)
            case EndSession(why):
                self.session_ended = True
                self._end(why)
            case _:
                self.strays += 1

    # ------------------------------------------------------------------ leases
    def _requested(self, owner: ProcessId, asked: RequestLeases) -> None:
        record = self.nodes.all.get(node_of(owner))
        # A node that joins later never hears of who was dead by then: nothing may be placed for them.
        is_gone = owner in self.gone or (record is not None and not record.info.alive)
        if is_gone:
            return
        shares: dict[NodeId, list[LeaseId]] = {}
        leases: list[LeaseId] = []
        for lease in asked.leases:
            placed = self.placed.get(lease)
            if placed is None:
                leases.append(lease)
            else:  # asked again, as owners do when a node dies
                shares.setdefault(placed.node, []).append(lease)
        if leases:
            self._place(owner, leases, asked)
        self._send(owner, shares, asked)  # where it waits, if that has not sent it on, to a node that has died

    def _place(self, owner: ProcessId, leases: list[LeaseId], asked: RequestLeases) -> None:
        saves = self.choosing.saves(asked) if asked.prefer else None
        chosen = self.choosing.choose(asked.resources, len(leases), saves, asked.where)
        if not isinstance(chosen, list) or not chosen:
            self.out.append(SendFrom(HEAD, owner, replaced(asked, leases=leases)))
            return
        self.decisions += len(leases)
        shares: dict[NodeId, list[LeaseId]] = {}
        for lease, node in zip(leases, chosen, strict=True):
            shares.setdefault(node, []).append(lease)
        self._send(owner, shares, asked)

    def _send(self, owner: ProcessId, shares: Mapping[NodeId, list[LeaseId]], asked: RequestLeases) -> None:
        needs = places.needs(asked.resources, asked.where)
        for node, share in shares.items():
            record = self.nodes.all[node]
            for lease in share:
                record.place(needs, lease=lease)
                self.placed[lease] = Placed(owner, asked, node)
            self.out.append(
                Send(
                    raylet_of(node),
                    PlaceLeases(
                        owner,
                        share,
                        asked.resources,
                        asked.prefer,
                        asked.env,
                        asked.retriable,
                        asked.priority,
                        asked.name,
                        asked.where,
                        asked.lying,
                    ),
                )
            )

    def _taken_back(self, owner: ProcessId, leases: list[LeaseId]) -> None:
        """The owner needs them no more."""
        shares: dict[ProcessId, list[LeaseId]] = {}
        for lease in leases:
            placed = self.placed.pop(lease, None)
            # Not from here, or a node moved it on since: then the head knows, if anybody does.
            shares.setdefault(HEAD if placed is None else raylet_of(placed.node), []).append(lease)
        for to, share in shares.items():
            self.out.append(SendFrom(to, owner, ReturnLeases(share)))

    # ------------------------------------------------------------------ what the head tells
    def _believe(self, rows: list[tuple[Any, ...]]) -> None:
        for node, available, queued, task_s, bound, placed, settled in rows:
            record = self.nodes.all.get(node)
            if record is None or not record.info.alive:
                continue
            for placement in record.beat(NodeBeat(available, queued, task_s, placed, settled, bound)):
                known = self.placed.get(placement.lease) if placement.lease is not None else None
                if known is not None and known.node == node and placement.lease is not None:
                    del self.placed[placement.lease]

    def _learn(self, rows: list[dict[str, Any]], now: float) -> None:
        for info in map(NodeInfo.from_dict, rows):
            known = self.nodes.all.get(info.node)
            if not info.alive:
                self._bury(info.node, info.why)
            elif known is None:
                self.nodes.join(info, now)
                self.out.append(ConnectPeer(info.node, info.address))
            elif known.info.alive and known.info != info:
                self.nodes.changed(info)

    def _bury(self, node: NodeId, why: str) -> None:
        """What waits there is placed anew: its owners may have asked again already, and were told to wait for that."""
        if not self.nodes.is_alive(node):
            return
        self.nodes.bury(node, why).unsettled.clear()
        self.out.append(ForgetPeer(node))
        self._forget(lambda owner: node_of(owner) == node)
        for lease in [lease for lease, placed in self.placed.items() if placed.node == node]:
            placed = self.placed.pop(lease)
            self._place(placed.owner, [lease], placed.asked)

    def _forget(self, which: Callable[[ProcessId], bool]) -> None:
        """These owners want nothing any more; the nodes hear so, too."""
        self.placed = {lease: placed for lease, placed in self.placed.items() if not which(placed.owner)}

    # ------------------------------------------------------------------ time and the end
    def _beat(self, now: float) -> None:
        self._beat_at = now + self.limits.scheduler_beat_s
        self.out.append(Send(HEAD, JoinScheduler(self.address, self.decisions)))
        self.out += self._alarm.ask(self._beat_at)

    def _end(self, why: str) -> None:
        self.ended = why
        self.out.append(Stop(why))
