"""Which nodes the bundles of a placement group get."""

from __future__ import annotations

from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkray_core.ids import NodeId
from sparkray_core.model.gangs import STRATEGIES, Site, Wanted, place
from sparkray_core.model.resources import fits, from_floats, plus
from sparkray_core.testing.builders import node_id

LETTERS = "abcdef"


def sites(*cpus: float, labels: dict[str, dict[str, str]] | None = None) -> list[Site]:
    return [
        Site(node_id(letter), joined, from_floats({"CPU": count}), (labels or {}).get(letter, {}))
        for joined, (letter, count) in enumerate(zip(LETTERS, cpus, strict=False))
    ]


def bundles(*cpus: float) -> list[Wanted]:
    return [Wanted(index, from_floats({"CPU": count})) for index, count in enumerate(cpus)]


def shown(chosen: dict[int, NodeId] | None) -> str | None:
    """The nodes' letters, in the order of the bundles."""
    return None if chosen is None else "".join(chosen[index].decode()[-1] for index in sorted(chosen))


@pytest.mark.parametrize(
    ("strategy", "free", "wanted", "expected"),
    [
        ("PACK", [2, 4], [2, 2], "bb"),
        ("PACK", [2, 2], [1, 1, 1], "aab"),
        ("PACK", [1, 1], [1, 1, 1], None),
        ("STRICT_PACK", [2, 4], [2, 2], "bb"),
        ("STRICT_PACK", [2, 2], [2, 2], None),
        ("SPREAD", [4, 4], [1, 1], "ab"),
        ("SPREAD", [4, 2], [1, 1, 1], "aba"),
        ("SPREAD", [4, 0], [1, 1], "aa"),
        ("STRICT_SPREAD", [4, 2], [1, 2], "ba"),
        ("STRICT_SPREAD", [4, 4], [1, 1, 1], None),
    ],
)
def test_each_strategy_places_as_it_says(
    strategy: str, free: list[float], wanted: list[float], expected: str | None
) -> None:
    assert shown(place(bundles(*wanted), sites(*free), strategy)) == expected


def test_bundles_that_are_left_join_the_group_s_nodes_or_keep_away_from_them() -> None:
    here = sites(4, 4)
    here[1].bundles = 1
    one = [Wanted(1, {"CPU": 1000})]

    assert shown(place(one, here, "PACK")) == "b"
    assert shown(place(one, here, "SPREAD")) == "a"
    assert shown(place(one, here, "STRICT_SPREAD")) == "a"
    assert place(one, here[1:], "STRICT_SPREAD") is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bundle_goes_only_where_its_labels_allow(strategy: str) -> None:
    here = sites(4, 4, 4, labels={"c": {"zone": "x"}})
    wanted = [Wanted(0, {"CPU": 1000}, (("zone", "in", ("x", "y")),))]

    assert shown(place(wanted, here, strategy)) == "c"
    assert place(wanted, here[:2], strategy) is None


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=1, max_size=4),
    st.sampled_from(STRATEGIES),
)
def test_all_or_nothing_never_too_much_and_what_can_be_spread_strictly_is(
    free: list[float], wanted: list[float], strategy: str
) -> None:
    here, some = sites(*free), bundles(*wanted)

    chosen = place(some, here, strategy)

    assert here == sites(*free), "what was given is not changed"
    by_node = {site.node: site for site in here}
    if chosen is not None:
        assert set(chosen) == set(range(len(some)))
        for node in set(chosen.values()):
            total: dict[str, int] = {}
            for bundle in some:
                if chosen[bundle.index] == node:
                    total = plus(total, bundle.resources)
            assert fits(total, by_node[node].free)
        assert strategy != "STRICT_PACK" or len(set(chosen.values())) == 1
        assert strategy != "STRICT_SPREAD" or len(set(chosen.values())) == len(some)
        if strategy == "PACK" and any(sum(wanted) <= count for count in free):
            assert len(set(chosen.values())) == 1
    possible = {
        "STRICT_PACK": any(sum(wanted) <= count for count in free),
        "STRICT_SPREAD": any(
            all(fits(bundle.resources, site.free) for bundle, site in zip(some, order, strict=True))
            for order in permutations(here, len(some))
        ),
    }
    if strategy in possible:
        assert (chosen is not None) == possible[strategy]
    elif chosen is not None:
        assert any(_fit_at(some, at) for at in product(here, repeat=len(some)))


def _fit_at(some: list[Wanted], at: tuple[Site, ...]) -> bool:
    totals: dict[NodeId, dict[str, int]] = {}
    for bundle, site in zip(some, at, strict=True):
        totals[site.node] = plus(totals.get(site.node, {}), bundle.resources)
    return all(fits(totals[site.node], site.free) for site in at)


def test_a_thousand_bundles_on_two_thousand_nodes_find_their_places() -> None:
    here = [Site(NodeId(n.to_bytes(8, "big")), n, {"CPU": 1000 * (1 + n % 2)}, {}) for n in range(2000)]
    wanted = [Wanted(n, {"CPU": 1000 * (1 + n % 2)}) for n in range(1000)]

    chosen = place(wanted, here, "STRICT_SPREAD")

    assert chosen is not None
    assert len(set(chosen.values())) == 1000
