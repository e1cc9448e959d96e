"""Which node gets the work: the one with the least estimated waiting time.

    wait(node)  = queue(node) + bytes of the arguments that are missing there / mean bandwidth
    queue(node) = 0                                         if it is free there now
                  (queued there + 1) * mean time / turns    otherwise; turns: how many of these it can run at once
                                                            beside its actors and placement groups
                  that, and longer than any other           if there is no room beside these

The bandwidth is one for all nodes. So the time for all of the arguments' bytes can be left out on each side, and what
counts is what a node that has some of them saves: no other node's place in the order depends on the request, which is
why the order can be kept (`ranking`). Among equals the one with the larger free share wins, then the one that joined
first. An actor that holds nothing will work all the same: for the next one of its kind it counts as a CPU less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sparkray_core.ids import NodeId
from sparkray_core.messages import Resources
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.resources import CPU, UNIT, fits, minus, times

FOR_A_LIFE_S = 1e6  # of waiting, where an actor or a placement group has to end first

Saves = Mapping[NodeId, float] | None
Level = tuple[float, float]  # seconds to wait, less those saved; free share, negated


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """What placement looks at."""

    node: NodeId
    joined: int  # the how-manieth node it was
    totals: Resources
    available: Resources  # less what was placed there and is not in its last beat yet
    queued: int  # likewise
    task_s: float
    residents: int = 0  # actors there that hold nothing; told where one of their kind is placed
    bound: Resources = field(default_factory=dict)  # of the totals, for long: by actors and placement groups


def choose_nodes(
    nodes: Iterable[NodeLoad], wanted: Resources, count: int, saves: Saves, limits: HeadLimits
) -> list[NodeId]:
    """One node for each of `count` requests, counting each in before the next is placed.

    Args:
        saves: seconds that are not spent there on bringing arguments, for the nodes that have some.

    Returns:
        `count` nodes in the order of the requests; none if no node could ever hold one.
    """
    saved = saves or {}
    heap = [
        Place.of(load, wanted, saved.get(load.node, 0.0), limits).entry() for load in nodes if fits(wanted, load.totals)
    ]
    heapq.heapify(heap)
    chosen: list[NodeId] = []
    while heap and len(chosen) < count:
        place = heap[0][-1]
        chosen.append(place.node)
        place.take_one()
        heapq.heapreplace(heap, place.entry())
    return chosen


def choose_in_turn(nodes: Iterable[NodeLoad], wanted: Resources, count: int, turn: int) -> tuple[list[NodeId], int]:
    """One node for each of `count` requests, round robin from behind the one that joined as the `turn`-th. Those with
    room come first; when there is none left, all that could hold one beside their actors take turns, or at last all.

    Returns:
        The nodes (none, if none could ever hold one), and whose turn it was last.
    """
    feasible = sorted((load for load in nodes if fits(wanted, load.totals)), key=lambda load: load.joined)
    feasible = [load for load in feasible if not load.bound or fits(wanted, minus(load.totals, load.bound))] or feasible
    behind = [load for load in feasible if load.joined > turn] + [load for load in feasible if load.joined <= turn]
    room = {load.node: times(wanted or {CPU: UNIT}, load.available) or 0 for load in behind}
    chosen: list[NodeId] = []
    while behind and len(chosen) < count:
        roomy = [load for load in behind if room[load.node] > 0]
        for load in roomy or behind:
            if len(chosen) == count:
                break
            room[load.node] -= 1
            chosen.append(load.node)
            turn = load.joined
    return chosen, turn


class Place:
    """A node as a candidate for one kind of request."""

    __slots__ = ("costs_nothing", "joined", "node", "queued", "residents", "room", "saved", "slots", "task_s", "turns")

    def __init__(
        self,
        node: NodeId,
        joined: int,
        slots: int,
        room: int,
        queued: int,
        task_s: float,
        saved: float = 0.0,
        residents: int = 0,
        costs_nothing: bool = False,
        turns: int | None = None,
    ) -> None:
        self.node = node
        self.joined = joined
        self.slots = slots  # so many of them it can run at once
        self.room = room  # and so many more right now
        self.queued = queued
        self.task_s = task_s
        self.saved = saved
        self.residents = residents
        self.costs_nothing = costs_nothing  # of no resources: it never waits, but goes where CPUs are free
        self.turns = slots if turns is None else turns  # of its slots, those that nothing holds for long

    @classmethod
    def of(cls, load: NodeLoad, wanted: Resources, saved: float, limits: HeadLimits) -> Place:
        slots = times(wanted, load.totals)
        counted = {CPU: UNIT} if slots is None else wanted
        return cls(
            load.node,
            load.joined,
            times(counted, load.totals) or 0,
            times(counted, load.available) or 0,
            load.queued,
            load.task_s or limits.unknown_task_s,
            saved,
            load.residents,
            slots is None,
            times(counted, minus(load.totals, load.bound)) if load.bound else None,
        )

    def take_one(self) -> None:
        self.room -= 1
        if self.room < 0:
            self.queued += 1

    def entry(self) -> tuple[float, float, int, Place]:
        return (*self.key(), self)

    def key(self) -> tuple[float, float, int]:
        """The best place has the least one."""
        return (*self.level(), self.joined)

    def level(self) -> Level:
        """Of the key, what many places have in common."""
        wait = 0.0
        if self.room <= 0 and not self.costs_nothing:
            wait = (self.queued + 1) * self.task_s / max(1, self.turns)
            if not self.turns:
                wait += FOR_A_LIFE_S
        share = (self.room - self.residents) / self.slots if self.slots else float("-inf")
        return wait - self.saved, -share
