"""What of a node is set aside for placement groups.

    (gathered) -> (reserved) ---commit---> (committed) ---release---> (leaving) ---its last claim is gone---> (dropped)
        +---release----+---------------------release-------------------------------------------------------------^

Gathered: it is a claim, which saves up what comes free, until all bundles of the attempt have what they need.
Reserved: taken out of what is available, and nobody can use it. Committed: on offer under the names of the group (see
`where`). Leaving: what runs there is being killed; only when that has ended is anything given to others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparkray_core.ids import HEAD, GroupId
from sparkray_core.messages import BundlesReserved, ReserveBundles, Resources
from sparkray_core.model import where
from sparkray_core.model.effects import Send
from sparkray_core.model.node_claims import Claim, Claims, bundle_claim
from sparkray_core.model.node_gpus import Shares
from sparkray_core.model.resources import fits, plus


@dataclass(slots=True)
class Bundle:
    group: GroupId
    index: int
    resources: Resources
    gpus: Shares  # which ones
    committed: bool = False
    leaving: str = ""  # why, once it is to be given back


@dataclass(slots=True)
class Gathering:
    attempt: int
    claims: dict[int, Claim]  # of the bundles that lack something, by number


class Bundles:
    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.claims.on_saved = self._saved
        self.gathering: dict[GroupId, Gathering] = {}
        self.all: dict[tuple[GroupId, int], Bundle] = {}
        self.leaving: dict[GroupId, str] = {}  # groups that are giving back, and why

    def reserve(self, message: ReserveBundles) -> bool:
        """All of them or none."""
        group = message.group
        if group in self.leaving or any((group, index) in self.all for index, _ in message.bundles):
            return False  # it is still held from before
        gpus = self.claims.set_aside([resources for _, resources in message.bundles])
        if gpus is None:
            return False
        for (index, resources), shares in zip(message.bundles, gpus, strict=True):
            self.all[group, index] = Bundle(group, index, resources, shares)
        return True

    def gather(self, message: ReserveBundles, now: float) -> bool:
        """All of them as soon as there is room; then the head hears of it. False: there never will be, or they are
        still held from before."""
        group = message.group
        total: Resources = {}
        for _, resources in message.bundles:
            total = plus(total, resources)
        if group in self.leaving or any((group, index) in self.all for index, _ in message.bundles):
            return False
        if not fits(total, self.claims.totals):
            return False
        claims = {index: bundle_claim(group, index, resources) for index, resources in message.bundles}
        self.gathering[group] = Gathering(message.attempt, dict(claims))
        for claim in claims.values():
            self.claims.add(claim, now)
        return True

    def _saved(self, claim: Claim) -> None:
        assert claim.bundle is not None
        group, index = claim.bundle
        self.all[group, index] = Bundle(group, index, claim.needs, claim.gpus)
        gathering = self.gathering[group]
        del gathering.claims[index]
        if not gathering.claims:
            del self.gathering[group]
            self.claims.out.append(Send(HEAD, BundlesReserved(group, gathering.attempt, True)))

    def stop_gathering(self) -> None:
        """This node is not to have any more."""
        for group, gathering in list(self.gathering.items()):
            attempt = gathering.attempt
            self._drop_gathered(group, gathering.claims)
            for key in [key for key, bundle in self.all.items() if key[0] == group and not bundle.committed]:
                self._give_up(key)
            self.claims.out.append(Send(HEAD, BundlesReserved(group, attempt, False)))

    def _give_up(self, key: tuple[GroupId, int]) -> None:
        bundle = self.all.pop(key)
        self.claims.give_up(bundle.resources, bundle.gpus)

    def _drop_gathered(self, group: GroupId, indexes: Iterable[int]) -> None:
        gathering = self.gathering.get(group)
        if gathering is None:
            return
        for index in list(indexes):
            claim = gathering.claims.pop(index, None)
            if claim is not None:
                self.claims.drop(claim)
        if not gathering.claims:
            del self.gathering[group]

    def commit(self, group: GroupId, indexes: Iterable[int]) -> None:
        for index in indexes:
            bundle = self.all.get((group, index))
            if bundle is not None and not (bundle.committed or bundle.leaving):
                bundle.committed = True
                self.claims.offer(group, where.offered(group, [(index, bundle.resources)]), bundle.gpus)

    def release(self, group: GroupId, indexes: Iterable[int], why: str) -> list[Claim]:
        """Returns the claims that have to end for it. `settle` gives the bundles back once these are gone."""
        of_group = set(indexes)
        self._drop_gathered(group, of_group)
        for index in of_group:
            bundle = self.all.get((group, index))
            if bundle is None:
                continue
            if bundle.committed:
                bundle.leaving = why
                self.leaving[group] = why
            else:
                self._give_up((group, index))
        if group not in self.leaving:
            return []
        # Work in any bundle may be in one of these: a group gives back what it has on a node all together.
        return [claim for claim in self.claims.all.values() if where.group_of(claim.where) == group]

    def settle(self) -> None:
        """Once after each event."""
        if not self.leaving:
            return
        busy = {where.group_of(claim.where) for claim in self.claims.all.values()}
        for group in [group for group in self.leaving if group not in busy]:
            del self.leaving[group]
            for key in [key for key, bundle in self.all.items() if key[0] == group and bundle.leaving]:
                bundle = self.all.pop(key)
                self.claims.withdraw(group, where.offered(group, [(bundle.index, bundle.resources)]), bundle.gpus)
                self.claims.give_up(bundle.resources, bundle.gpus)

    def held(self) -> Resources:
        """Of the node's own resources, for groups."""
        total: Resources = {}
        for bundle in self.all.values():
            total = plus(total, bundle.resources)
        return total
