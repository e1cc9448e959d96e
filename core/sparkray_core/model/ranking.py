"""The nodes by their waiting time for one kind of request, kept from one request to the next.

`placement.choose_nodes` looks at every node; what it looks at changes for few nodes between two requests. So a ranking
keeps the nodes in order, and looks only at those again that the log of changes names. It gives what `choose_nodes`
gives.

Most nodes of a cluster are alike, so few levels (waiting time, free share) keep thousands of them apart. A heap has the
levels, and each level a heap of its nodes by number: a comparison looks at two numbers, where in one heap of all nodes'
entries it went through tuples of four, which matters with 10,000 nodes (`benchmarks/scaling.py`).
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId
from sparkray_core.messages import Resources
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.placement import Level, Place, Saves
from sparkray_core.model.resources import CPU, UNIT, fits, minus, times

if TYPE_CHECKING:
    from sparkray_core.model.head_nodes import NodeRecord, Nodes

Standing = list[int]  # the nodes of one level, by `joined`: a heap
MOST = 16  # kinds of requests that are ranked; of more, the one that was asked for longest ago has to begin anew


class ChangeLog:
    """Which nodes something changed on, in the order in which it did."""

    def __init__(self) -> None:
        self.begins = 0  # the number of the first change that is still known
        self.most = 1024  # that are known: beyond some of each node, to look at all nodes is cheaper
        self._nodes: list[NodeId] = []

    @property
    def ends(self) -> int:
        return self.begins + len(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: NodeId) -> None:
        if len(self._nodes) >= self.most:
            self.begins += len(self._nodes)
            self._nodes.clear()
        self._nodes.append(node)

    def since(self, number: int) -> dict[NodeId, None] | None:
        """Each node once. None: that is too long ago."""
        return None if number < self.begins else dict.fromkeys(self._nodes[number - self.begins :])


class Rankings:
    """One for each kind of request that came lately."""

    def __init__(self, nodes: Nodes, limits: HeadLimits) -> None:
        self.nodes = nodes
        self.limits = limits
        self._known: dict[tuple[tuple[str, int], ...], Ranking] = {}

    def choose(self, wanted: Resources, count: int, saves: Saves) -> list[NodeId]:
        """As `choose_nodes`, of all nodes on which anything may be placed."""
        key = tuple(sorted(wanted.items()))
        ranking = self._known.pop(key, None) or Ranking(self.nodes, wanted, self.limits)
        self._known[key] = ranking
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return ranking.choose(count, saves)

    def check(self) -> None:
        """For the invariants.

        Raises:
            AssertionError: something changed on a node, and the log does not say so.
        """
        for ranking in self._known.values():
            ranking.check()


class Ranked(Place):
    """A node's place, and where it stands among the others."""

    __slots__ = ("could", "standing", "totals")

    def __init__(self, record: NodeRecord, wanted: Resources, counted: Resources) -> None:
        self.totals = record.totals  # never changed in place
        self.could = fits(wanted, self.totals)  # hold one, ever
        self.standing: Standing | None = None  # None: it was chosen by the last `choose`, or cannot be
        slots = times(counted, self.totals) or 0
        super().__init__(record.info.node, record.joined, slots, 0, 0, 0.0, costs_nothing=counted is not wanted)


class Ranking:
    def __init__(self, nodes: Nodes, wanted: Resources, limits: HeadLimits) -> None:
        self.nodes = nodes
        self.wanted = wanted
        self.limits = limits
        # What costs nothing goes where CPUs are free.
        self._counted = wanted if times(wanted, {}) is not None else {CPU: UNIT}
        self._seen = -1  # changes
        self._places: dict[NodeId, Ranked] = {}
        self._nth: dict[int, Ranked] = {}  # these by `joined`
        self._standings: dict[Level, Standing] = {}  # older numbers, too, of who stands elsewhere now
        self._levels: list[Level] = []  # these as a heap
        self._numbers = 0  # in all standings
        self._taken: dict[NodeId, None] = {}  # by the last `choose`
        self._checked: dict[NodeId, object] = {}  # what the last check of this node looked at

    def choose(self, count: int, saves: Saves) -> list[NodeId]:
        self._catch_up()
        again: list[tuple[float, float, int, Ranked]] = []  # those that are taken, as a heap
        for node, saved in saves.items() if saves else ():
            place = self._places.get(node)
            if place is not None and place.standing is not None:
                self._take(place)
                place.saved = saved
                heapq.heappush(again, (*place.key(), place))
        chosen: list[NodeId] = []
        while len(chosen) < count:
            place = self._best()
            if again and (place is None or again[0] < place.key()):
                place = heapq.heappop(again)[-1]
            elif place is not None:
                self._take(place)
            else:
                break
            chosen.append(place.node)
            if len(chosen) < count:
                place.take_one()
                heapq.heappush(again, (*place.key(), place))
        return chosen

    def _take(self, place: Ranked) -> None:
        place.standing = None
        self._taken[place.node] = None

    def _best(self) -> Ranked | None:
        levels, standings, nth = self._levels, self._standings, self._nth
        while levels:
            standing = standings[levels[0]]
            while standing:
                place = nth[standing[0]]
                if place.standing is standing:
                    return place
                heapq.heappop(standing)
                self._numbers -= 1
            del standings[heapq.heappop(levels)]
        return None

    def _catch_up(self) -> None:
        log = self.nodes.log
        changed = log.since(self._seen)
        if changed is None or self._numbers > 4 * len(self._places) + 64:
            self._standings.clear()
            self._levels.clear()
            self._numbers = 0
            changed = dict.fromkeys(self.nodes.all)
        for node in self._taken | changed:
            self._rank(node)
        self._seen = log.ends
        self._taken.clear()

    def _rank(self, node: NodeId) -> None:
        record = self.nodes.all[node]
        place = self._places.get(node)
        if place is None or place.totals is not record.totals:
            place = self._places[node] = self._nth[record.joined] = Ranked(record, self.wanted, self._counted)
        info = record.info
        if not place.could or not info.alive or info.visits or info.draining:
            place.standing = None
            return
        available, place.queued = record.free()
        place.room = times(self._counted, available) or 0
        place.turns = times(self._counted, minus(record.totals, record.bound)) or 0 if record.bound else place.slots
        place.task_s = record.task_s or self.limits.unknown_task_s
        place.saved = 0.0
        level = place.level()
        standing = self._standings.get(level)
        if standing is None:
            standing = self._standings[level] = []
            heapq.heappush(self._levels, level)
        if standing is not place.standing:
            place.standing = standing
            heapq.heappush(standing, place.joined)
            self._numbers += 1

    def check(self) -> None:
        self._catch_up()
        for node, record in self.nodes.all.items():
            place, info = self._places[node], record.info
            stands = None if place.standing is None else place.level()
            looked_at = stands, info, record.totals, record.bound, record.free(), record.task_s
            if looked_at != self._checked.get(node):
                should = None
                if fits(self.wanted, record.totals) and info.alive and not info.visits and not info.draining:
                    should = Place.of(record.load(), self.wanted, 0.0, self.limits).level()
                assert stands == should, f"node {node.hex()} is ranked by what it was"
                if stands is not None:
                    assert place.standing is self._standings[stands]
                    assert place.joined in self._standings[stands]
                self._checked[node] = looked_at
