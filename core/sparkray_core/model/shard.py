"""A shard of the GCS: a process beside the head that keeps the records of some owners, as the head does without shards.

Which owners is `keeper_of`'s to say; raylets send it what these record, and the word of their ends on the same link, so
that nothing of an owner comes after that but what its raylet itself read too late. What it has then goes to the head,
which knows who is whose heir and has all nodes hear of the death, from one place and in one order:

    raylet                      shard                          head
      RecordObjects   ------->
      ProcessGone     ------->   EstateClosed  ------------->   chooses the heir, sends it the records
                                               <-- ProcessGone  to all shards and nodes
    (a node is silent)                         <--- CloseNode
                                 EstateClosed, NodeClosed --->  buries the node, as soon as all shards have said so

Like the head it can be pickled between two events, and the same events bring two of them to the same state.
"""

from __future__ import annotations

from sparkray_core.ids import HEAD, NodeId, ProcessId, node_of, shard_node
from sparkray_core.messages import (
    BorrowedCounts,
    CheckBorrowed,
    CloseNode,
    EndSession,
    ForgetRecords,
    JoinShard,
    Message,
    NodeClosed,
    NodeGone,
    NodeTable,
    ProcessGone,
    RecordObjects,
)
from sparkray_core.model.alarm import Alarm
from sparkray_core.model.bounded import Recent
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send, Stop
from sparkray_core.model.events import ClockTicked, Event, PeerLost, Received, Undelivered
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.records import Records


class Shard:
    """`start` once, then `handle` for whatever happens, in one thread."""

    def __init__(self, number: int, address: str, limits: HeadLimits | None = None) -> None:
        """
        Args:
            number: from 0.
            address: where raylets reach it, in all its lives.
        """
        self.node = shard_node(number)
        self.address = address
        limits = limits or HeadLimits()
        self.out: list[Effect] = []
        self.records = Records(limits.record_bytes, limits.record_objects, limits.handover_s, self.out)
        self.gone: Recent[ProcessId, str] = Recent(limits.remembered)
        self.known: dict[NodeId, None] = {}  # nodes that live
        self.dead: dict[NodeId, None] = {}
        self.ended: str | None = None
        self.strays = 0  # messages that are not for a shard; a bug of somebody's
        self._alarm = Alarm()

    def start(self, now: float) -> list[Effect]:
        self.out.append(Send(HEAD, JoinShard(self.address)))
        return self._flush(now)

    def resume(self, now: float) -> list[Effect]:
        """Another process goes on with it. Nobody rings for what was asked of the process before."""
        self._alarm = Alarm()
        return self._flush(now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        if self.ended is not None:
            return []
        match event:
            case Received(sender, message):
                self._receive(sender, message, now)
            case ClockTicked():
                self._alarm.rang(now)
            case PeerLost() | Undelivered():
                pass  # it is for the head to say who is dead; a head that is has a successor
            case _:
                self.strays += 1
        return self._flush(now)

    def _flush(self, now: float) -> list[Effect]:
        self.records.settle(now)
        if self.ended is None and (wake := self.records.next_wake()) is not None:
            self.out += self._alarm.ask(wake)
        effects = self.out[:]
        self.out.clear()
        return effects

    def _receive(self, sender: ProcessId, message: Message, now: float) -> None:
        if sender == HEAD:
            self._obey(message, now)
        elif node_of(sender) in self.dead:
            pass  # it may still report; the head has what it had recorded before
        elif isinstance(message, RecordObjects):
            self.records.record(sender, message)
            if sender in self.gone:  # it was read only after its sender's death
                self._close(sender, self.gone.get(sender) or "")
        elif isinstance(message, ForgetRecords):
            self.records.forget(sender, message)
        elif isinstance(message, CheckBorrowed):  # by way of the head
            counts = self.records.times_held(message.objects)
            self.out.append(Send(sender, BorrowedCounts(message.round, list(counts.items()))))
        elif isinstance(message, ProcessGone) and node_of(message.process) == node_of(sender):
            self.gone.remember(message.process, message.why)
            self._close(message.process, message.why)
        else:
            self.strays += 1

    def _obey(self, message: Message, now: float) -> None:
        match message:
            case NodeTable(nodes):
                for info in map(NodeInfo.from_dict, nodes):
                    if not info.alive:
                        self._bury(info.node)
                    elif info.node not in self.known and info.node not in self.dead:
                        self.known[info.node] = None
                        self.out.append(ConnectPeer(info.node, info.address))
            case CloseNode(node, why):
                self.dead[node] = None
                for owner in self.records.owners_on(node):
                    self._close(owner, f"its node is gone: {why}")
                self.out.append(Send(HEAD, NodeClosed(node)))
            case NodeGone(node):
                self._bury(node)
            case ProcessGone(process, why, heir):
                self.gone.remember(process, why)
                self.records.passes(process, heir, now)
            case EndSession(why):
                self.ended = why
                self.out.append(Stop(why))
            case _:
                self.strays += 1

    def _close(self, owner: ProcessId, why: str) -> None:
        self.out.append(Send(HEAD, self.records.close(owner, why)))

    def _bury(self, node: NodeId) -> None:
        self.dead[node] = None
        if node in self.known:
            del self.known[node]
            self.out.append(ForgetPeer(node))
