"""What is to be held for long (an actor, a bundle of a placement group) takes what comes free bit by bit. So does a
lease that was overtaken for long.

Owners of a stream of tasks keep their leases, and are asked to give some back for whoever waits. They come back one
after the other, as their tasks end. Who waits for one of them has it then; who waits for three would be overtaken again
and again by leases that want one. So what lasts takes what there is and goes on waiting, before leases of the same
priority: within the time that the longest task here still takes it has all, and less than that idles. A lease of
several CPUs begins with that when it has waited for `OVERTAKEN_S`, and none like it of its owner holds anything here:
it is to get on, and no more, since a CPU idles for it.

Two things keep CPUs from idling longer. What could not have all of it while actors and groups that are here go on takes
nothing. And an actor or a lease that has not got all within `save_s`, or four times what a lease took to come back
lately, gives back what it has for as long, and may then save for twice as long; or it is offered elsewhere. Of bundles
the head decides this: a group waits for its slowest node, and all nodes are to begin and to end together (`groups`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkray_core.messages import Resources
from sparkray_core.model.resources import fits, minus, plus, short_of

if TYPE_CHECKING:
    from sparkray_core.model.node_claims import Claim, Claims

PATIENCE = 4  # times the mean time that a lease takes to come back
OVERTAKEN_S = 1.0  # shorter than a lease waits before it is offered elsewhere (`NodeLimits.reoffer_s`)


class Savings:
    def __init__(self, claims: Claims, save_s: float) -> None:
        self.claims = claims
        self.save_s = save_s
        self.waiting: dict[bytes, Claim] = {}  # what may save; of leases those that have begun to
        self._room: Resources = {}
        self._room_at = -1  # of `claims.changes`

    def add(self, claim: Claim) -> None:
        if claim.lease is None:
            self.waiting[claim.key] = claim

    def takes(self, claim: Claim, now: float) -> bool:
        """Whether there is something for it, though not all."""
        available = self.claims.available
        if not any(available.get(name, 0) > 0 for name in claim.needs):
            return False  # as on a busy node, mostly
        return self.may(claim, now) and bool(self._part(claim)) and self.may_come(claim, now, self.room())

    def may(self, claim: Claim, now: float) -> bool:
        """Whether it goes before leases, and takes what there is."""
        return claim.lease is None or self._is_overtaken(claim, now)

    def _is_overtaken(self, lease: Claim, now: float) -> bool:
        if now - lease.since < OVERTAKEN_S or self.claims.crowd.is_full:
            return False
        if lease.taken or not self.claims.shares.get(lease.owner):
            return True
        theirs = (claim for claim in self.claims.all.values() if claim.owner == lease.owner and claim.taken)
        return not any(claim.needs == lease.needs and claim.where == lease.where for claim in theirs)

    def take(self, claim: Claim, now: float) -> None:
        self.waiting[claim.key] = claim
        if not claim.saves_until:
            claim.saves_s = max(claim.saves_s, self._patience_s())
            claim.saves_until = now + claim.saves_s if claim.bundle is None else float("inf")
        self.claims.take(claim, self._part(claim))

    def settle(self, now: float) -> bool:
        """Once after each event. Whether one goes on after a rest: leases are to be asked back for it."""
        begins = False
        for claim in self.waiting.values():
            if 0.0 < claim.saves_until <= now:
                self.claims.untake(claim)
                claim.saves_until, claim.rests_until = 0.0, now + claim.saves_s
                claim.saves_s *= 2
            elif 0.0 < claim.rests_until <= now:
                claim.rests_until, begins = 0.0, True
        return begins

    def may_come(self, claim: Claim, now: float, room: Resources) -> bool:
        """Whether it would have all it needs if leases were given back, and is not resting."""
        return now >= claim.rests_until and fits(claim.needs, plus(room, claim.needs) if claim.taken else room)

    def room(self) -> Resources:
        """What is left for others to save up, beside what lasts and those that have begun to."""
        if self._room_at != self.claims.changes:
            self._room_at, self._room = self.claims.changes, self.sum_room()
        return self._room

    def sum_room(self) -> Resources:
        left = self.beside_what_lasts()
        for claim in self.waiting.values():
            if claim.taken:
                left = minus(left, claim.needs)
        return left

    def beside_what_lasts(self) -> Resources:
        """What actors and groups that are here leave."""
        left = minus(self.claims.totals, self.claims.aside)
        for claim in self.claims.actors.values():
            if claim.key not in self.waiting:
                left = minus(left, plus(claim.taken, claim.lent))
        return left

    def hopes(self, claim: Claim, now: float) -> bool:
        """Whether this node is still the place to wait at."""
        if claim.bundle is not None or claim.taken:
            return True
        if claim.lease is not None:
            return False
        return now - claim.since < self._patience_s() and self.may_come(claim, now, self.room())

    def _patience_s(self) -> float:
        return max(self.save_s, PATIENCE * self.claims.mean_s)

    def _part(self, claim: Claim) -> Resources:
        available, lacks = self.claims.available, self.claims.lacks(claim)
        # A lease idles what it is short of, and that only if there is some of all of it.
        names = short_of(lacks, available) if claim.lease is not None else lacks
        part = {name: min(lacks[name], available.get(name, 0)) for name in names}
        pool, gpu = self.claims.gpus_of(claim.where)
        if part.get(gpu, 0) > 0:
            part[gpu] = pool.part(lacks[gpu])
        if claim.lease is not None and min(part.values(), default=0) <= 0:
            return {}
        return {name: amount for name, amount in part.items() if amount > 0}
