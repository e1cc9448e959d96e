"""Which nodes a placement group's bundles get: all of them at once, or none.

    STRICT_PACK     one node holds them all
    PACK            as few nodes as go: one if one can; else again and again the one that takes most of what is left
    SPREAD          each on another node, as far as nodes go; then the one that has the fewest of them
    STRICT_SPREAD   each on another node. Who gets which is a matching, so what can be placed is placed

Among equal nodes the one with the larger free share of CPU wins, then the one that joined first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparkray_core.ids import NodeId
from sparkray_core.messages import Resources
from sparkray_core.model.resources import CPU, fits, minus, plus
from sparkray_core.model.where import Choice, allows

PACK, SPREAD, STRICT_PACK, STRICT_SPREAD = STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


@dataclass(slots=True)
class Site:
    """A node as a place for bundles."""

    node: NodeId
    joined: int
    free: Resources
    labels: Mapping[str, str]
    bundles: int = 0  # of this group, those that it has already included

    def takes(self, bundle: Wanted) -> bool:
        return fits(bundle.resources, self.free) and allows(bundle.labels, self.labels)


@dataclass(frozen=True, slots=True)
class Wanted:
    index: int
    resources: Resources
    labels: Choice = ()


def place(wanted: Sequence[Wanted], sites: Sequence[Site], strategy: str) -> dict[int, NodeId] | None:
    """
    Args:
        wanted: what is to be placed; of a group that lost a node, only the bundles that were there.
        sites: in any order. They are not changed.

    Returns:
        The node of each bundle by its number; None if not all of them fit.
    """
    order = sorted(sites, key=lambda site: (-site.free.get(CPU, 0), site.joined))
    sites = [Site(site.node, site.joined, dict(site.free), site.labels, site.bundles) for site in order]
    largest_first = sorted(wanted, key=lambda bundle: (-sum(bundle.resources.values()), bundle.index))
    if strategy == STRICT_SPREAD:
        return _match(largest_first, [site for site in sites if not site.bundles])
    if strategy == STRICT_PACK or (strategy == PACK and not any(site.bundles for site in sites)):
        together = _on_one(largest_first, sites)
        if together is not None or strategy == STRICT_PACK:
            return together
    return _pack(largest_first, sites) if strategy == PACK else _spread(largest_first, sites)


def _on_one(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[int, NodeId] | None:
    total: Resources = {}
    for bundle in wanted:
        total = plus(total, bundle.resources)
    for site in sites:
        if fits(total, site.free) and all(allows(bundle.labels, site.labels) for bundle in wanted):
            return {bundle.index: site.node for bundle in wanted}
    return None


def _pack(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[int, NodeId] | None:
    chosen: dict[int, NodeId] = {}
    left = list(wanted)
    sites = sorted(sites, key=lambda site: -site.bundles)  # where some of the group is, more of it goes first
    while left:
        best: list[Wanted] = []
        at: Site | None = None
        for site in sites:
            taken = _fill(left, site)
            if len(taken) > len(best):
                best, at = taken, site
        if at is None:
            return None
        for bundle in best:
            chosen[bundle.index] = at.node
            at.free = minus(at.free, bundle.resources)
        left = [bundle for bundle in left if bundle.index not in chosen]
    return chosen


def _fill(wanted: Sequence[Wanted], site: Site) -> list[Wanted]:
    free, taken = site.free, []
    for bundle in wanted:
        if fits(bundle.resources, free) and allows(bundle.labels, site.labels):
            free = minus(free, bundle.resources)
            taken.append(bundle)
    return taken


def _spread(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[int, NodeId] | None:
    """A matching first, so that none is doubled that need not be; what it leaves goes where the fewest are."""
    chosen = _matching(wanted, [site for site in sites if not site.bundles])
    by_node = {site.node: site for site in sites}
    sizes = {bundle.index: bundle.resources for bundle in wanted}
    for index, node in chosen.items():
        site = by_node[node]
        site.free, site.bundles = minus(site.free, sizes[index]), site.bundles + 1
    for bundle in wanted:
        if bundle.index in chosen:
            continue
        taking = [site for site in sites if site.takes(bundle)]
        if not taking:
            return None
        site = min(taking, key=lambda site: site.bundles)
        chosen[bundle.index] = site.node
        site.free, site.bundles = minus(site.free, bundle.resources), site.bundles + 1
    return chosen


def _match(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[int, NodeId] | None:
    chosen = _matching(wanted, sites)
    return chosen if len(chosen) == len(wanted) else None


def _matching(wanted: Sequence[Wanted], sites: Sequence[Site]) -> dict[int, NodeId]:
    """As many bundles as go, each on a node of its own. (Kuhn's augmenting paths: one that finds its nodes taken has
    the bundles there look for others.)"""
    holder: dict[NodeId, Wanted] = {}

    def find(bundle: Wanted) -> None:
        # Depth first, without recursion: a group may have thousands of bundles.
        path: list[tuple[Wanted, NodeId | None]] = [(bundle, None)]  # who looks for a node, which it would leave
        seen: set[NodeId] = set()
        while path:
            seeker = path[-1][0]
            free = next((site.node for site in sites if site.node not in holder and site.takes(seeker)), None)
            if free is not None:
                while path:
                    seeker, left = path.pop()
                    holder[free] = seeker
                    free = left or free
                return
            taken = next((site.node for site in sites if site.node not in seen and site.takes(seeker)), None)
            if taken is None:
                path.pop()
            else:
                seen.add(taken)
                path.append((holder[taken], taken))

    for bundle in wanted:
        find(bundle)
    return {bundle.index: node for node, bundle in holder.items()}
