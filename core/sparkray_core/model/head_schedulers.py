"""The head's books of the schedulers beside it: who they are, and what is passed on to them of the nodes' reports."""

from __future__ import annotations

from dataclasses import dataclass

from sparkray_core.ids import NodeId, ProcessId, raylet_of
from sparkray_core.messages import Loads, NodeBeat, SchedulerTable
from sparkray_core.model.effects import ConnectPeer, Effect, ForgetPeer, Send
from sparkray_core.model.head_nodes import Nodes
from sparkray_core.model.limits import HeadLimits


@dataclass(slots=True)
class SchedulerRecord:
    address: str
    heard: float  # when it last said anything
    decisions: int = 0


class Schedulers:
    def __init__(self, nodes: Nodes, limits: HeadLimits, out: list[Effect]) -> None:
        self.nodes = nodes
        self.limits = limits
        self.out = out
        self.all: dict[NodeId, SchedulerRecord] = {}
        self._dropped: dict[NodeId, None] = {}  # what they had said before may be read after
        self._news: dict[NodeId, NodeBeat] = {}  # of nodes, not passed on yet
        self._due: float | None = None

    def heard(self, node: NodeId, address: str, decisions: int, now: float) -> bool:
        """Whether it is new: then it has to be told of the nodes, and they of it."""
        known = self.all.get(node)
        if node in self._dropped:
            return False
        if known is not None:
            known.heard, known.decisions = now, decisions
            return False
        self.all[node] = SchedulerRecord(address, now, decisions)
        self.out.append(ConnectPeer(node, address))
        return True

    def tell_all_loads(self, node: NodeId) -> None:
        """To one that has just come."""
        alive = self.nodes.alive()
        rows = [(one.info.node, one.reported, one.queued, one.task_s, one.bound, 0, 0) for one in alive]
        self.out.append(Send(raylet_of(node), Loads(rows)))

    def drop(self, node: NodeId) -> None:
        del self.all[node]
        self._dropped[node] = None
        self.out.append(ForgetPeer(node))
        if not self.all:
            self._news.clear()
            self._due = None

    def table(self) -> SchedulerTable:
        return SchedulerTable([(node, record.address) for node, record in self.all.items()])

    def processes(self) -> list[ProcessId]:
        return [raylet_of(node) for node in self.all]

    def silent(self, before: float) -> list[NodeId]:
        return [node for node, record in self.all.items() if record.heard < before]

    def excuse(self, seconds: float) -> None:
        """The head itself slept so long."""
        for record in self.all.values():
            record.heard += seconds

    # ------------------------------------------------------------------ what nodes report
    def note(self, node: NodeId, beat: NodeBeat, now: float) -> None:
        """To be passed on: many together, since a message costs more than a row."""
        self._news[node] = beat
        if self._due is None:
            self._due = now + self.limits.loads_gap_s

    def settle(self, now: float) -> None:
        if self._due is None or now < self._due:
            return
        self._due = None
        news, self._news = self._news, {}
        for scheduler in self.all:
            rows = [
                (node, beat.available, beat.queued, beat.task_s, beat.bound, *beat.others.get(scheduler, (0, 0)))
                for node, beat in news.items()
                if self.nodes.is_alive(node)
            ]
            self.out.append(Send(raylet_of(scheduler), Loads(rows)))

    def next_wake(self) -> float | None:
        return self._due
