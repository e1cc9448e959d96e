"""Workers whose tasks wait for others, and what is done when there are many.

A task that waits in `get` or `wait` keeps its process and lends its CPU. Left at that, recursion a hundred deep takes a
hundred processes, and so do a hundred tasks that each wait for tasks of their own. Therefore

    large   (so many wait as may)                    what waiting tasks have asked for goes first, the youngest wait
                                                     first: that ends waits, and other work begins new ones
    full    (and each CPU has a process beside them) instead of starting another process a worker is asked to run what
                                                     it waits for itself, on top of the task that waits (`RunNested`):
                                                     again the one that began to wait last

A worker can do so if its task waits for just those tasks, which it has not handed out, so that it could not go on
before they ended anyway; it says so when it begins to wait. Where nobody can, one more process is started after all: a
crowd is no reason to stand still. Only tasks that hold CPU are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkray_core.ids import ProcessId
from sparkray_core.model.resources import CPU

if TYPE_CHECKING:
    from sparkray_core.model.node_claims import Claim

# A worker that has just submitted something mostly waits for it at once, and then may be asked to run it.
OWNER_S = 0.05
# While workers run what they wait for, a process is added no more often than this: what is queued is mostly their own.
NESTING_S = 0.25


class Crowd:
    """The leases of one node as far as they wait."""

    def __init__(self, most: int, cpus: int) -> None:
        """
        Args:
            most: tasks that may wait, each in a process of its own.
        """
        self.most = most
        self.cpus = cpus
        self.leased = 0  # leases that have a worker, or are to get one
        self.waiting: dict[ProcessId, Claim] = {}  # by worker; who began last is last
        self.helpers: dict[ProcessId, tuple[Claim, int]] = {}  # of these, who can help itself, and in which wait
        self.asked: dict[ProcessId, Claim] = {}  # to do so, and has not answered
        self.nesting: dict[ProcessId, Claim] = {}  # answered that it does; until it is free again
        self.look_at: float | None = None  # what is put off may go on then
        self._added_at = -NESTING_S

    @staticmethod
    def counts(claim: Claim) -> bool:
        return claim.lease is not None and bool(claim.holds.get(CPU))

    def waits(self, claim: Claim, wait: int, helps: bool) -> None:
        worker = claim.worker
        if worker is None or not self.counts(claim):
            return
        for known in (self.waiting, self.helpers, self.asked):
            known.pop(worker, None)
        self.waiting[worker] = claim
        if helps and claim.retriable:  # else a child's crash would be the end of a task that may not run again
            self.helpers[worker] = claim, wait

    def runs(self, claim: Claim) -> None:
        worker = claim.worker
        if worker is None:
            return
        self.waiting.pop(worker, None)
        self.helpers.pop(worker, None)
        if self.asked.pop(worker, None) is not None:
            self.nesting[worker] = claim

    def gone(self, claim: Claim) -> None:
        self.runs(claim)
        if claim.worker is not None:
            self.nesting.pop(claim.worker, None)

    @property
    def is_large(self) -> bool:
        return len(self.waiting) >= self.most

    @property
    def running(self) -> int:
        return self.leased - len(self.waiting)

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= self.most + max(0, self.cpus - self.running)

    def turn(self, claim: Claim, share: int) -> tuple[int, int, int, int]:
        """Whose turn it is of those that wait for resources: the lowest.

        Args:
            share: so many leases its owner has here that hold something; below zero: it goes before all of these. Who
                has fewest goes first: so nobody waits for those that keep all they can get, and a task that has begun
                comes before its owner's next ones, which holds for its children, too, as each task that asks for
                workers is an owner of its own.
        """
        parent = self.waiting.get(claim.owner) if self.is_large else None
        if parent is not None:
            return -claim.priority, 0, 0, -parent.arrival
        return -claim.priority, 1, share, claim.arrival

    def helper(self, available: int) -> tuple[Claim, int] | None:
        """Who began to wait last of those that can run what they wait for, with so much CPU there; and its wait."""
        for claim, wait in reversed(self.helpers.values()):
            if claim.lent.get(CPU, 0) <= available:
                return claim, wait
        return None

    def asks(self, claim: Claim) -> None:
        """It was told to help itself. Until it answers, nobody else need do what it has asked for."""
        if claim.worker is not None:
            self.asked[claim.worker] = claim

    def puts_off(self, claim: Claim, owner: Claim | None, now: float) -> bool:
        """Whether no process is started for this yet, though nobody could be asked.

        Args:
            owner: what the claim's owner runs, if that is a worker of this node.
        """
        if claim.owner in self.asked:
            return True
        if not self.running:
            return False
        until = 0.0
        if owner is not None and claim.owner not in self.waiting:
            until = claim.since + OWNER_S
        if self.nesting:
            until = max(until, claim.since + NESTING_S, self._added_at + NESTING_S)
        if now >= until:
            self._added_at = now
            return False
        self.look_at = until if self.look_at is None else min(self.look_at, until)
        return True
