"""The nodes by their waiting time for one kind of request, kept from one request to the next.

`placement.choose_nodes` looks at every node; what it looks at changes for few nodes between two requests. So a ranking
keeps the entry of each node in a heap, and makes anew only those of nodes that the log of changes names. It gives what
`choose_nodes` gives.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId
from sparkray_core.messages import Resources
from sparkray_core.model.limits import HeadLimits
from sparkray_core.model.placement import Place, Saves
from sparkray_core.model.resources import CPU, UNIT, fits, minus, times

if TYPE_CHECKING:
    from sparkray_core.model.head_nodes import Nodes

Entry = tuple[float, float, int, int, Place]
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

    def since(self, number: int) -> list[NodeId] | None:
        """Each node once. None: that is too long ago."""
        return None if number < self.begins else list(dict.fromkeys(self._nodes[number - self.begins :]))


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


class Ranking:
    def __init__(self, nodes: Nodes, wanted: Resources, limits: HeadLimits) -> None:
        self.nodes = nodes
        self.wanted = wanted
        self.limits = limits
        # What costs nothing goes where CPUs are free.
        self._counted = wanted if times(wanted, {}) is not None else {CPU: UNIT}
        self._slots: dict[NodeId, tuple[Resources, int | None]] = {}  # of these totals; None: it could never hold one
        self._seen = -1  # changes
        self._current: dict[NodeId, Entry] = {}  # of the nodes that could ever hold one
        self._heap: list[Entry] = []  # these without `_taken`, and older ones
        self._taken: dict[NodeId, None] = {}  # chosen by the last `choose`, whose entries it used up
        self._made = 0
        self._checked: dict[NodeId, object] = {}  # what the last check of this node looked at

    def choose(self, count: int, saves: Saves) -> list[NodeId]:
        self._catch_up()
        taken = self._taken
        heap: list[Entry] = []  # of those that are taken: their entries count no more
        for node, saved in saves.items() if saves else ():
            if node in self._current:
                taken[node] = None
                place = self._current[node][-1]
                place.saved = saved
                heapq.heappush(heap, self._entry(place))
        chosen: list[NodeId] = []
        while len(chosen) < count:
            best = self._best()
            if best is None and not heap:
                break
            if best is not None and (not heap or best < heap[0]):
                place = heapq.heappop(self._heap)[-1]
                taken[place.node] = None
            else:
                place = heapq.heappop(heap)[-1]
            chosen.append(place.node)
            place.take_one()
            heapq.heappush(heap, self._entry(place))
        return chosen

    def _best(self) -> Entry | None:
        """The best of the nodes that are not taken, on top of the heap."""
        heap, current, taken = self._heap, self._current, self._taken
        while heap:
            entry = heap[0]
            node = entry[-1].node
            if current.get(node) is entry and node not in taken:
                return entry
            heapq.heappop(heap)
        return None

    def _entry(self, place: Place) -> Entry:
        self._made += 1
        return (*place.key(), self._made, place)

    def _catch_up(self) -> None:
        log = self.nodes.log
        changed = log.since(self._seen)
        if changed is None or len(self._heap) > 4 * len(self._current) + 64:
            self._current = {node: self._entry(place) for node in self.nodes.all if (place := self._place(node))}
            self._heap = list(self._current.values())
            heapq.heapify(self._heap)
        else:
            for node in {**self._taken, **dict.fromkeys(changed)}:
                place = self._place(node)
                if place is not None:
                    self._current[node] = entry = self._entry(place)
                    heapq.heappush(self._heap, entry)
                else:
                    self._current.pop(node, None)
        self._seen = log.ends
        self._taken.clear()

    def check(self) -> None:
        self._catch_up()
        for node, record in self.nodes.all.items():
            entry = self._current.get(node)
            looked_at = entry, record.info, record.totals, record.bound, record.free(), record.task_s
            if looked_at != self._checked.get(node):
                place, ranked = self._place(node), None if entry is None else entry[:3]
                assert ranked == (place and place.key()), f"node {node.hex()} is ranked by what it was"
                self._checked[node] = looked_at

    def _place(self, node: NodeId) -> Place | None:
        record = self.nodes.all[node]
        totals, slots = self._slots.get(node, (None, None))
        if totals is not record.totals:  # it is never changed in place
            totals = record.totals
            slots = times(self._counted, totals) or 0 if fits(self.wanted, totals) else None
            self._slots[node] = totals, slots
        if slots is None or not record.info.alive or record.info.visits or record.info.draining:
            return None
        available, queued = record.free()
        room = times(self._counted, available) or 0
        task_s = record.task_s or self.limits.unknown_task_s
        turns = times(self._counted, minus(record.totals, record.bound)) if record.bound else slots
        costs_nothing = self._counted is not self.wanted
        return Place(node, record.joined, slots, room, queued, task_s, costs_nothing=costs_nothing, turns=turns)
