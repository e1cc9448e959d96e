"""The head's choice of nodes for leases and actors, by what they ask for and where they may run (see `where`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparkray_core.ids import NodeId
from sparkray_core.messages import RequestLeases, Resources, Where
from sparkray_core.model import where as places
from sparkray_core.model.groups import Groups, GroupState
from sparkray_core.model.head_nodes import NodeRecord, Nodes
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.placement import NodeLoad, Saves, choose_in_turn, choose_nodes
from sparkray_core.model.ranking import Rankings
from sparkray_core.model.resources import fits, show


@dataclass(frozen=True, slots=True)
class Held:
    """There is no verdict before its placement group is there."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """It cannot run, whatever may still happen."""

    kind: str  # of the error, behind "Task" or "Actor"
    why: str


HELD = Held()


class Choosing:
    def __init__(self, nodes: Nodes, groups: Groups, limits: HeadLimits) -> None:
        self.nodes = nodes
        self.groups = groups
        self.limits = limits
        self.rankings = Rankings(nodes, limits)
        self._turn = 0  # of the node that SPREAD chose last: the how-manieth it was to join

    def saves(self, asked: RequestLeases) -> dict[NodeId, float]:
        """Seconds that each node with arguments need not wait for these."""
        bytes_s = self.nodes.pull_bytes_s or self.limits.pull_bytes_s
        return {node: size / bytes_s for node, size in zip(asked.prefer, asked.lying, strict=False)}

    def choose(
        self,
        wanted: Resources,
        count: int,
        saves: Saves,
        where: Where = (),
        residents: Mapping[NodeId, int] | None = None,
    ) -> list[NodeId] | Held | Refusal:
        """
        Args:
            saves: seconds that are not spent there on bringing arguments, for the nodes that have some.

        Returns:
            One node for each of `count` requests; none, if no node could ever hold one.
        """
        here = residents or {}
        if not where:
            if not here:
                return self.rankings.choose(wanted, count, saves)
            everywhere = (record.load(here.get(record.info.node, 0)) for record in self.nodes.hosts())
            return choose_nodes(everywhere, wanted, count, saves, self.limits)
        kind = where[0]
        if kind == places.GROUP:
            return self._in_group(wanted, count, saves, where)
        if kind == places.NODE:
            return self._on_node(wanted, count, saves, where)
        for loads in self._by_choice(where[1] or ((),), wanted, here):
            if kind == places.SPREAD:
                chosen, self._turn = choose_in_turn(loads, wanted, count, self._turn)
            else:
                chosen = choose_nodes(loads, wanted, count, saves, self.limits)
            if chosen:
                return chosen
        return []

    def _by_choice(
        self, choices: tuple[places.Choice, ...], wanted: Resources, here: Mapping[NodeId, int]
    ) -> list[list[NodeLoad]]:
        """The nodes that each choice allows; first where there is room now, then where there could be."""
        some = [
            [r.load(here.get(r.info.node, 0)) for r in self.nodes.hosts() if places.allows(choice, r.info.labels)]
            for choice in choices
        ]
        return [loads for loads in some if any(fits(wanted, load.available) for load in loads)] + some

    def _in_group(self, wanted: Resources, count: int, saves: Saves, where: Where) -> list[NodeId] | Held | Refusal:
        some = where[1]
        group = self.groups.all.get(some)
        if group is None:
            if some not in self.groups.removed:
                return []  # its creation may be on its way; it has the time of what no node can hold
            gone = self.groups.removed.get(some)
            why = f": {gone.why}" if gone is not None else ""
            return Refusal("PlacementGroupRemoved", f"placement group {some.hex()} was removed{why}")
        needs = places.needs(wanted, where)
        loads = (self.nodes.all[node].load() for node in dict.fromkeys(group.places.values()))
        chosen = choose_nodes(loads, needs, count, saves, self.limits)
        return HELD if not chosen and group.state is not GroupState.CREATED else chosen

    def _on_node(self, wanted: Resources, count: int, saves: Saves, where: Where) -> list[NodeId] | Refusal:
        _, node, soft, spills, fails = where
        record = self.nodes.all.get(node)
        there = record is not None and record.info.alive and not (record.info.visits or record.info.draining)
        if record is not None and there and fits(wanted, record.info.resources):
            free = fits(wanted, record.load().available)
            if free or not (spills or fails):
                return [node] * count
            if fails:
                why = f"{record.info} has no room for {show(wanted)} just now, and it was to fail then"
                return Refusal("UnschedulableError", why)
            soft = True
        if soft:
            return self.rankings.choose(wanted, count, saves)
        if there:
            return []
        why = f"it is to run on node {node.hex()} only, which {_what_of(record)}. soft=True would let it run elsewhere"
        return Refusal("UnschedulableError", why)


def _what_of(record: NodeRecord | None) -> str:
    if record is None:
        return "is none of this session"
    if record.info.alive and record.info.draining:
        return f"is being drained: {record.info.draining}"
    return f"is gone: {record.info.why}" if not record.info.alive else "is there for one driver only, and runs nothing"
