"""What of a node is set aside for placement groups.

    (reserved) ---commit---> (committed) ---release---> (leaving) ---its last claim is gone---> (dropped)
        +----------------------release-------------------------------------------------------------^

Reserved: taken out of what is available, and nobody can use it. Committed: on offer under the names of the group (see
`where`). Leaving: what runs there is being killed; only when that has ended is anything given to others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparkray_core.ids import GroupId
from sparkray_core.messages import ReserveBundles, Resources
from sparkray_core.model import where
from sparkray_core.model.node_claims import Claim, Claims
from sparkray_core.model.node_gpus import Shares
from sparkray_core.model.resources import plus


@dataclass(slots=True)
class Bundle:
    group: GroupId
    index: int
    resources: Resources
    gpus: Shares  # which ones
    committed: bool = False
    leaving: str = ""  # why, once it is to be given back


class Bundles:
    def __init__(self, claims: Claims) -> None:
        self.claims = claims
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

    def commit(self, group: GroupId, indexes: Iterable[int]) -> None:
        for index in indexes:
            bundle = self.all.get((group, index))
            if bundle is not None and not (bundle.committed or bundle.leaving):
                bundle.committed = True
                self.claims.offer(group, where.offered(group, [(index, bundle.resources)]), bundle.gpus)

    def release(self, group: GroupId, indexes: Iterable[int], why: str) -> list[Claim]:
        """Returns the claims that have to end for it. `settle` gives the bundles back once these are gone."""
        of_group = set(indexes)
        for index in of_group:
            bundle = self.all.get((group, index))
            if bundle is None:
                continue
            if bundle.committed:
                bundle.leaving = why
                self.leaving[group] = why
            else:
                del self.all[group, index]
                self.claims.give_up(bundle.resources, bundle.gpus)
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
