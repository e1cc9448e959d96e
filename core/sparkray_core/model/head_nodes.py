"""The head's books of nodes: who is alive, what is free there, what is on its way there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from sparkray_core.frozen import frozen
from sparkray_core.ids import ActorId, LeaseId, NodeId
from sparkray_core.messages import NodeBeat, NodeTable, Resources
from sparkray_core.model.node_info import NodeInfo
from sparkray_core.model.placement import NodeLoad
from sparkray_core.model.ranking import ChangeLog
from sparkray_core.model.resources import fits, minus, plus
from sparkray_core.model.where import plain


@frozen
class Placement:
    number: int  # the node's so-manieth, from 1
    wanted: Resources
    lease: LeaseId | None = None
    actor: ActorId | None = None


@dataclass(slots=True)
class NodeRecord:
    info: NodeInfo
    joined: int
    heard: float  # when it last said anything
    reported: Resources  # available there, by its last beat
    totals: Resources = field(default_factory=dict)  # its own, and what bundles of placement groups offer there
    # What actors and placement groups hold there for long, or will: by its last beat, and by what is on its way there.
    bound: Resources = field(default_factory=dict)
    queued: int = 0
    task_s: float = 0.0
    pull_bytes_s: float = 0.0
    placed: int = 0  # placements sent so far
    on_the_way: deque[Placement] = field(default_factory=deque)  # not counted in its last beat
    longer_s: float = 0.0  # that it may be silent beyond the usual: it beats less often
    unsettled: dict[int, Placement] = field(default_factory=dict)  # by number: not known to have a worker
    # (free, queued) with what is on the way counted in; None: to be summed up anew. Never changed in place.
    sums: tuple[Resources, int] | None = None
    log: ChangeLog = field(default_factory=ChangeLog)  # of all nodes together

    def place(self, wanted: Resources, lease: LeaseId | None = None, actor: ActorId | None = None) -> int:
        """Note what is sent there. Returns its number."""
        self.placed += 1
        placement = Placement(self.placed, wanted, lease, actor)
        self.on_the_way.append(placement)
        self.unsettled[placement.number] = placement
        if lease is None:
            self.bound = plus(self.bound, _lasting(placement))
        self.log.add(self.info.node)
        if self.sums is not None:
            self.sums = _with(placement, *self.sums)
        return placement.number

    def offer(self, named: Resources) -> None:
        """Bundles are committed there: more is to be had from now on, whatever beats say that cross this."""
        self.totals = plus(self.totals, named)
        self.place({name: -amount for name, amount in named.items()})

    def withdraw(self, named: Resources) -> None:
        """They are going."""
        self.totals = minus(self.totals, named)
        self.log.add(self.info.node)

    def beat(self, message: NodeBeat) -> list[Placement]:
        """Believe it, but for what was placed after it was sent. Returns what it settles.

        One that only confirms what was counted in when it was placed is no change: nobody need rank the node anew.
        """
        before, task_s, held = self.sums, self.task_s, self.bound
        news = (message.available, message.queued, message.task_s) != (self.reported, self.queued, self.task_s)
        self.reported, self.queued, self.task_s = message.available, message.queued, message.task_s
        self.longer_s = message.longer_s
        while self.on_the_way and self.on_the_way[0].number <= message.placed:
            self.on_the_way.popleft()
            news = True
        if message.bound or self.bound:
            bound = message.bound
            for placement in self.on_the_way:
                if placement.lease is None:
                    bound = plus(bound, _lasting(placement))
            news = news or bound != self.bound
            self.bound = bound
        if news:
            self.sums = None
            if before is None or (self.free(), self.task_s, self.bound) != (before, task_s, held):
                self.log.add(self.info.node)
        settled: list[Placement] = []
        while self.unsettled and (number := next(iter(self.unsettled))) <= message.settled:
            settled.append(self.unsettled.pop(number))
        return settled

    def free(self) -> tuple[Resources, int]:
        """What is available there and how many wait, with what is on its way."""
        if self.sums is None:
            self.sums = self.reported, self.queued
            for placement in self.on_the_way:
                self.sums = _with(placement, *self.sums)
        return self.sums

    def load(self, residents: int = 0) -> NodeLoad:
        available, queued = self.free()
        info = self.info
        return NodeLoad(info.node, self.joined, self.totals, available, queued, self.task_s, residents, self.bound)


def _lasting(placement: Placement) -> Resources:
    """Of an actor or a placement group. (What a group offers is noted with amounts below zero.)"""
    return {name: amount for name, amount in placement.wanted.items() if amount > 0}


def _with(placement: Placement, free: Resources, queued: int) -> tuple[Resources, int]:
    return (minus(free, placement.wanted), queued) if fits(placement.wanted, free) else (free, queued + 1)


class Nodes:
    """Alive and dead; and the complaints of nodes that do not reach each other."""

    def __init__(self) -> None:
        self.all: dict[NodeId, NodeRecord] = {}
        self.complaints: set[tuple[NodeId, NodeId]] = set()
        self.judged_at: float | None = None  # when the complaints will be weighed
        self.log = ChangeLog()  # of what placement looks at
        self.pull_bytes_s = 0.0  # running mean of what nodes report; 0: none has measured it yet
        self._rows: dict[NodeId, dict[str, Any]] = {}  # of the table; each is made once, a table with every join
        self._news: dict[NodeId, None] = {}  # whose rows have changed since all were told

    def alive(self) -> Iterator[NodeRecord]:
        return (record for record in self.all.values() if record.info.alive)

    def hosts(self) -> Iterator[NodeRecord]:
        """On which anything may be placed."""
        return (record for record in self.alive() if not record.info.visits and not record.info.draining)

    def is_alive(self, node: NodeId) -> bool:
        record = self.all.get(node)
        return record is not None and record.info.alive

    def join(self, info: NodeInfo, now: float) -> bool:
        """Whether it is new."""
        if info.node in self.all:
            return False
        record = NodeRecord(info, len(self.all), now, info.resources, info.resources, log=self.log)
        self.all[info.node] = record
        self.log.most += 16
        self.log.add(info.node)
        self._note_row(info)
        return True

    def changed(self, info: NodeInfo) -> None:
        """More is known of it, or something else."""
        self.all[info.node].info = info
        self._note_row(info)
        self.log.add(info.node)

    def bury(self, node: NodeId, why: str) -> NodeRecord:
        record = self.all[node]
        record.info = replace(record.info, alive=False, why=why)
        self._note_row(record.info)
        record.on_the_way.clear()
        self.log.add(node)
        self.drop_complaints(node)
        return record

    def drop_complaints(self, node: NodeId) -> None:
        """Those that it has part in: it is going."""
        self.complaints = {pair for pair in self.complaints if node not in pair}

    def explain(self, node: NodeId, why: str) -> bool:
        """Whether it is a node that is gone; more is known of its end now."""
        record = self.all.get(node)
        if record is None or record.info.alive:
            return False
        record.info = replace(record.info, why=f"{record.info.why}. {why}")
        self._note_row(record.info)
        return True

    def _note_row(self, info: NodeInfo) -> None:
        self._rows[info.node] = info.as_dict()
        self._news[info.node] = None

    def table(self) -> NodeTable:
        """For who knows nothing yet."""
        return NodeTable(list(self._rows.values()))

    def news(self) -> NodeTable:
        """What is new since the last time, for all others."""
        news, self._news = self._news, {}
        return NodeTable([self._rows[node] for node in news])

    def available(self) -> Resources:
        """What is free on all live nodes together, by their last beats. (A node's CPU may be below zero for a moment:
        see `node_claims`.)"""
        total: Resources = {}
        for record in self.alive():
            free = {name: amount for name, amount in plain(record.reported).items() if amount > 0}
            total = plus(total, free)
        return total

    def pulled(self, record: NodeRecord, bytes_s: float) -> None:
        """A node has measured anew how fast objects come to it."""
        record.pull_bytes_s = bytes_s
        self.pull_bytes_s += (bytes_s - self.pull_bytes_s) * (0.2 if self.pull_bytes_s else 1.0)

    def silent(self, before: float) -> list[NodeRecord]:
        """Who should have said something since then."""
        return [record for record in self.alive() if record.heard + record.longer_s < before]

    def sign(self, node: NodeId, at: float) -> None:
        """Something came from it then."""
        record = self.all[node]
        record.heard = max(record.heard, at)

    def excuse(self, seconds: float) -> None:
        """The head itself slept so long: nobody's silence of that time counts."""
        for record in self.alive():
            record.heard += seconds

    def complain(self, node: NodeId, about: NodeId, judged_at: float) -> None:
        self.complaints.add((min(node, about), max(node, about)))
        if self.judged_at is None:
            self.judged_at = judged_at

    def worst_connected(self) -> tuple[NodeId, int] | None:
        """Of the nodes that do not reach each other the one that most others miss; of equals the youngest."""
        count: dict[NodeId, int] = {}
        for pair in self.complaints:
            for node in pair:
                count[node] = count.get(node, 0) + 1
        if not count:
            return None
        worst = max(count, key=lambda node: (count[node], self.all[node].joined))
        return worst, count[worst]

    def could_ever(self, wanted: Resources) -> bool:
        return any(fits(wanted, record.info.resources) for record in self.alive())
