"""The leases of one queue, by what may be done with them, so that none is looked at for another one's news."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparkray_core.model.tasks import Lease


class QueueLeases:
    """In the order in which they came. Whoever changes one says so with `note`."""

    __slots__ = (
        "_free",
        "_last",
        "_loads",
        "all",
        "busy",
        "idle",
        "loaded",
        "open",
        "spent",
        "stuck",
        "under_way",
        "unnoted",
    )

    def __init__(self) -> None:
        # Who became so first is first. (In a plain dict the first is behind the places of all that have left it.)
        self.idle: OrderedDict[Lease, None] = OrderedDict()
        self.spent: dict[Lease, None] = {}  # of these, who gets nothing more
        self.busy = 0  # have a task
        self.loaded = 0  # have more than one
        self.open = 0  # may get more
        self.under_way = 0  # tasks of all of them
        self.all: dict[Lease, None] = {}
        self.unnoted: Lease | None = None  # it has answered; whoever looks at this queue next says the rest of it
        self._loads: dict[int, dict[Lease, None]] = {}  # open ones, by the number of their tasks
        self._free: list[tuple[int, Lease]] = []  # a heap of those without a task, by place. Some have one by now
        self.stuck: list[tuple[float, int, Lease]] = []  # a heap. What has changed since does not count: see `due`
        self._last = 0

    def __iter__(self) -> Iterator[Lease]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __contains__(self, lease: object) -> bool:
        return lease in self.all

    @property
    def starving(self) -> bool:
        """Whether an open one has no task."""
        return 0 in self._loads

    @property
    def least_load(self) -> int:
        """Of the open ones."""
        return min(self._loads, default=0)

    def add(self, lease: Lease) -> None:
        self._last += 1
        lease.place, lease.load, lease.level, lease.due = self._last, 0, -1, 0.0
        self.all[lease] = None
        self.note(lease)

    def remove(self, lease: Lease) -> None:
        del self.all[lease]
        if self.unnoted is lease:
            self.unnoted = None
        self.idle.pop(lease, None)
        self.spent.pop(lease, None)
        self.busy -= lease.load > 0
        self.loaded -= lease.load > 1
        self.under_way -= lease.load
        self._leave_level(lease)
        lease.due = 0.0

    def note(self, lease: Lease) -> None:
        """Something of it has changed."""
        load, before = len(lease.inflight), lease.load
        if load != before:
            self.busy += (load > 0) - (before > 0)
            self.loaded += (load > 1) - (before > 1)
            self.under_way += load - before
            lease.load = load
        level = load if lease.open else -1
        if load == before == 1 and level == lease.level:
            return  # it has a task for the one that it answered
        if level != lease.level:
            self._leave_level(lease)
            lease.level = level
            if level >= 0:
                self.open += 1
                self._loads.setdefault(level, {})[lease] = None
                if level == 0:
                    self._note_free(lease)
        if load or lease.blocked:
            self.idle.pop(lease, None)
            self.spent.pop(lease, None)
        else:
            self.idle[lease] = None
            if lease.reclaimed or lease.left == 0:
                self.spent[lease] = None
            else:
                self.spent.pop(lease, None)
        if load > 1 and not (lease.blocked or lease.stealing):
            due = lease.heard + lease.patience_s
            if due != lease.due:
                lease.due = due
                heapq.heappush(self.stuck, (due, lease.place, lease))

    def _note_free(self, lease: Lease) -> None:
        heapq.heappush(self._free, (lease.place, lease))
        if len(self._free) > 2 * len(self.all) + 64:
            self._free = [(other.place, other) for other in self._loads[0]]
            heapq.heapify(self._free)

    def note_later(self, lease: Lease) -> None:
        """The same, but before the next look: one that gets a task for the one that it answered has not changed."""
        if self.unnoted is not None and self.unnoted is not lease:
            self.note(self.unnoted)
        self.unnoted = lease

    def _leave_level(self, lease: Lease) -> None:
        if lease.level >= 0:
            self.open -= 1
            same = self._loads[lease.level]
            del same[lease]
            if not same:
                del self._loads[lease.level]
            lease.level = -1

    def has_room_beside(self, lease: Lease, depth: int) -> bool:
        """Whether `with_room` would find others than this one."""
        if depth == 1:
            return 0 in self._loads and (lease.level != 0 or len(self._loads[0]) > 1)
        return any(load * 2 <= depth and (load != lease.level or len(some) > 1) for load, some in self._loads.items())

    def with_room(self, depth: int, tasks: int) -> list[Lease]:
        """Those that are at most half as full as they may be, the emptiest first; no more than there are tasks, if so
        many have none."""
        if tasks < len(self._loads.get(0, ())):
            return self._first_free(tasks)
        if depth > 1:
            found = [lease for load, some in self._loads.items() if load * 2 <= depth for lease in some]
        else:
            found = list(self._loads.get(0, ()))
        if len(found) > 1:
            found.sort(key=lambda lease: (lease.load, lease.place))
        return found

    def _first_free(self, most: int) -> list[Lease]:
        """There are as many without a task. (All of them may be tens of thousands: they are not gone through.)"""
        free, there = self._free, self._loads[0]
        found: list[Lease] = []
        while len(found) < most:
            place, lease = heapq.heappop(free)
            if lease in there and lease.place == place and not (found and found[-1] is lease):
                found.append(lease)
        for lease in found:  # for the case that it gets nothing
            heapq.heappush(free, (lease.place, lease))
        return found

    def most_loaded(self) -> Lease:
        """There is one with more than one task."""
        load = max(self._loads, default=0)
        return max(self._loads[load] if load > 1 else self.all, key=lambda lease: (lease.load, -lease.place))

    def next_stuck(self) -> tuple[float, Lease] | None:
        """Who is next to have answered nothing for too long, and when."""
        while self.stuck:
            due, _, lease = self.stuck[0]
            if lease.due == due:
                if lease.load > 1 and not (lease.blocked or lease.stealing):
                    return due, lease
                lease.due = 0.0
            heapq.heappop(self.stuck)
        return None

    def check(self) -> None:
        """For the invariants.

        Raises:
            AssertionError: a change was not noted.
        """
        assert self.unnoted is None, "an answer was not noted"
        if not self.all:
            counted = self.busy or self.loaded or self.open or self.under_way
            if not (counted or self.idle or self.spent or self._loads):
                return
        idle = spent = busy = loaded = open_ones = under_way = 0
        waiting: set[tuple[float, Lease]] | None = None
        for lease in self.all:
            load, is_open = len(lease.inflight), lease.open
            if is_open:
                open_ones += 1
                assert lease in self._loads.get(load, ()), "loads are out of date"
            if load:
                busy += 1
                under_way += load
                if load > 1:
                    loaded += 1
                    if not (lease.blocked or lease.stealing):
                        if waiting is None:
                            waiting = {(due, other) for due, _, other in self.stuck}
                        assert (lease.heard + lease.patience_s, lease) in waiting, "a lease could be stuck for ever"
            elif not lease.blocked:
                idle += 1
                assert lease in self.idle, "an idle lease was not noted"
                if lease.reclaimed or lease.left == 0:
                    spent += 1
                    assert lease in self.spent, "a spent lease was not noted"
        assert len(self.idle) == idle, "a lease is thought to idle that does not"
        assert len(self.spent) == spent, "a lease is thought to be spent that is not"
        free = {lease for place, lease in self._free if place == lease.place}
        assert all(lease in free for lease in self._loads.get(0, ())), "a lease without a task would not be found"
        assert self.busy == busy, "busy leases are miscounted"
        assert self.loaded == loaded, "loaded leases are miscounted"
        assert self.open == open_ones, "open leases are miscounted"
        assert sum(map(len, self._loads.values())) == open_ones, "loads are out of date"
        assert self.under_way == under_way, "tasks under way are miscounted"
