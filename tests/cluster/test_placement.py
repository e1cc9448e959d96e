"""Placement groups, strategies and labels on a session of several nodes, which all are on this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.cluster_utils import Cluster
from sparkray.util import placement_group, placement_group_table, remove_placement_group
from sparkray.util.placement_group import PlacementGroup
from sparkray.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from tests.cluster.conftest import program
from tests.waiting import wait_until

pytestmark = pytest.mark.slow  # three nodes are started, and one more

HEAD_LABELS, EU_LABELS, US_LABELS = {"role": "head"}, {"zone": "eu", "disk": "fast"}, {"zone": "us"}


def node_with(**labels: str) -> str:
    """The id of the live node with these labels."""
    found = [node for node in sparkray.nodes() if node["Alive"] and labels.items() <= node["Labels"].items()]
    assert len(found) == 1, found
    return str(found[0]["NodeID"])


@pytest.fixture(scope="module")
def cluster(module_base_folder: Path) -> Iterator[Cluster]:
    """A head with one CPU and two nodes with two; this process has joined."""
    head = {"num_cpus": 1, "labels": HEAD_LABELS}
    with Cluster(initialize_head=True, head_node_args=head) as made:
        made.add_node(num_cpus=2, labels=EU_LABELS, resources={"eu": 1})
        made.add_node(num_cpus=2, labels=US_LABELS)
        made.connect(namespace="placing")
        made.wait_for_nodes()
        yield made


@pytest.fixture
def nodes(cluster: Cluster) -> dict[str, str]:
    """The ids of the three; nothing is used there any more of what the test before this one used."""
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)
    return {"head": node_with(role="head"), "eu": node_with(zone="eu"), "us": node_with(zone="us")}


@sparkray.remote
def where() -> str:
    return str(sparkray.get_runtime_context().get_node_id())


class _Where:
    def here(self) -> str:
        return str(sparkray.get_runtime_context().get_node_id())

    def group(self) -> Any:
        return sparkray.get_runtime_context().get_placement_group_id()


Where: Any = sparkray.remote(_Where)


def within(group: PlacementGroup, index: int = -1) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)}


# ---------------------------------------------------------------------------------- placement groups
@pytest.mark.parametrize(
    ("strategy", "bundles", "places"),
    [
        ("STRICT_SPREAD", [{"CPU": 1}] * 3, 3),
        ("SPREAD", [{"CPU": 1}] * 4, 3),
        ("PACK", [{"CPU": 1}] * 2, 1),
        ("PACK", [{"CPU": 2}, {"CPU": 2}], 2),
        ("STRICT_PACK", [{"CPU": 1}] * 2, 1),
    ],
)
def test_bundles_lie_as_the_strategy_says_and_work_goes_there(
    nodes: dict[str, str], strategy: str, bundles: list[dict[str, float]], places: int
) -> None:
    group = placement_group(bundles, strategy=strategy)
    assert group.wait(20), placement_group_table(group)

    lie = placement_group_table(group)["bundles_to_node_id"]
    assert len(set(lie.values())) == places
    tasks = [where.options(**within(group, index)).remote() for index in range(len(bundles))]
    actors = [Where.options(**within(group, index)).remote() for index in range(len(bundles))]
    assert sparkray.get(tasks, timeout=60) == [lie[index] for index in range(len(bundles))]
    assert sparkray.get([actor.here.remote() for actor in actors], timeout=60) == list(lie.values())
    anywhere = sparkray.get([where.options(**within(group)).remote() for _ in range(6)], timeout=60)
    assert set(anywhere) <= set(lie.values())

    remove_placement_group(group)
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)


@pytest.mark.parametrize(
    ("strategy", "bundles"), [("STRICT_SPREAD", [{"CPU": 1}] * 4), ("STRICT_PACK", [{"CPU": 2}] * 2)]
)
def test_what_a_strict_strategy_cannot_place_waits_and_holds_nothing(
    nodes: dict[str, str], strategy: str, bundles: list[dict[str, float]]
) -> None:
    group = placement_group(bundles, strategy=strategy)
    assert not group.wait(0.3)
    assert f"by {strategy}" in placement_group_table(group)["stats"]["why"]
    assert sparkray.available_resources()["CPU"] == 5
    remove_placement_group(group)


def test_bundles_follow_labels(nodes: dict[str, str]) -> None:
    selectors = [{"zone": "us"}, {"zone": "!us", "role": "!head"}]
    group = placement_group([{"CPU": 1}, {"CPU": 1}], bundle_label_selector=selectors)
    assert group.wait(20)
    assert placement_group_table(group)["bundles_to_node_id"] == {0: nodes["us"], 1: nodes["eu"]}
    remove_placement_group(group)


def test_all_or_nothing_when_one_bundle_has_no_room_yet(nodes: dict[str, str]) -> None:
    holder = Where.options(num_cpus=2, label_selector={"zone": "us"}).remote()
    assert sparkray.get(holder.here.remote(), timeout=30) == nodes["us"]
    group = placement_group([{"CPU": 2}, {"CPU": 2}])
    waiting = where.options(**within(group, 0)).remote()
    assert sparkray.wait([waiting], timeout=0.5)[0] == []

    sparkray.kill(holder)

    assert group.wait(20)
    assert sparkray.get(waiting, timeout=20) in nodes.values()
    remove_placement_group(group)


def test_groups_go_with_their_driver_unless_they_are_detached(cluster: Cluster) -> None:
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)
    source = """
        import sparkray as ray
        from sparkray.util import placement_group
        ray.init(address="auto", namespace="placing")
        lives = {"mine": None, "ours": "detached"}
        groups = [placement_group([{"CPU": 1}], name=name, lifetime=life) for name, life in lives.items()]
        assert all(group.wait(20) for group in groups)
        print(groups[0].id.hex())
    """
    (mine,) = program(source)

    wait_until(lambda: placement_group_table()[mine]["state"] == "REMOVED")
    ours = sparkray.util.get_placement_group("ours")
    assert ours.wait(20)
    assert sparkray.get(where.options(**within(ours, 0)).remote(), timeout=30)
    wait_until(lambda: sparkray.available_resources().get("CPU") == 4)
    remove_placement_group(ours)
    with pytest.raises(ValueError, match="mine"):
        sparkray.util.get_placement_group("mine")
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)


def test_a_group_that_lost_a_node_is_placed_again_with_its_actor(cluster: Cluster, nodes: dict[str, str]) -> None:
    extra = cluster.add_node(num_cpus=1, labels={"zone": "moon"})
    lost = extra.node_id
    selectors = [{"zone": "in(moon, eu)"}, {"zone": "us"}]
    blocker = Where.options(num_cpus=2, label_selector={"zone": "eu"}).remote()
    assert sparkray.get(blocker.here.remote(), timeout=30) == nodes["eu"]
    group = placement_group([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD", bundle_label_selector=selectors)
    assert group.wait(20)
    moved = Where.options(num_cpus=1, max_restarts=1, max_task_retries=-1, **within(group, 0)).remote()
    stays = Where.options(num_cpus=1, **within(group, 1)).remote()
    assert sparkray.get([moved.here.remote(), stays.here.remote()], timeout=30) == [lost, nodes["us"]]

    cluster.remove_node(extra, allow_graceful=False)
    wait_until(lambda: placement_group_table(group)["state"] == "RESCHEDULING")
    assert "died" in str(placement_group_table(group)) or "no room" in str(placement_group_table(group))
    sparkray.kill(blocker)

    wait_until(lambda: placement_group_table(group)["state"] == "CREATED")
    assert sparkray.get([moved.here.remote(), stays.here.remote()], timeout=60) == [nodes["eu"], nodes["us"]]
    assert sparkray.get(moved.group.remote(), timeout=30) == group.id.hex()
    remove_placement_group(group)


# ---------------------------------------------------------------------------------- strategies
def test_affinity_to_a_node_holds_even_if_others_idle(nodes: dict[str, str]) -> None:
    for name, node in nodes.items():
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        tasks = [where.options(scheduling_strategy=strategy).remote() for _ in range(4)]
        assert sparkray.get(tasks, timeout=60) == [node] * 4, name
        actor = Where.options(scheduling_strategy=strategy).remote()
        assert sparkray.get(actor.here.remote(), timeout=30) == node


def test_affinity_to_a_node_that_is_not_there_fails_at_once_or_is_soft(nodes: dict[str, str]) -> None:
    hard, soft = (NodeAffinitySchedulingStrategy("ab" * 8, soft=soft) for soft in (False, True))
    with pytest.raises(sparkray.exceptions.TaskUnschedulableError, match="abab"):
        sparkray.get(where.options(scheduling_strategy=hard).remote(), timeout=20)
    with pytest.raises(sparkray.exceptions.ActorUnschedulableError, match="abab"):
        sparkray.get(Where.options(scheduling_strategy=hard).remote().here.remote(), timeout=20)
    assert sparkray.get(where.options(scheduling_strategy=soft).remote(), timeout=20) in nodes.values()
    fails = NodeAffinitySchedulingStrategy(nodes["us"], False, _fail_on_unavailable=True)
    spills = NodeAffinitySchedulingStrategy(nodes["us"], False, _spill_on_unavailable=True)
    holder = Where.options(num_cpus=2, label_selector={"zone": "us"}).remote()
    assert sparkray.get(holder.here.remote(), timeout=30) == nodes["us"]
    with pytest.raises(sparkray.exceptions.TaskUnschedulableError, match="no room"):
        sparkray.get(where.options(scheduling_strategy=fails).remote(), timeout=20)
    assert sparkray.get(where.options(scheduling_strategy=spills).remote(), timeout=20) != nodes["us"]


def test_spread_takes_turns(nodes: dict[str, str]) -> None:
    spread = [where.options(scheduling_strategy="SPREAD").remote() for _ in range(12)]
    assert set(sparkray.get(spread, timeout=60)) == set(nodes.values())
    wait_until(lambda: sparkray.available_resources().get("CPU") == 5)  # what is full is passed over
    actors = [Where.options(scheduling_strategy="SPREAD").remote() for _ in range(3)]
    assert set(sparkray.get([actor.here.remote() for actor in actors], timeout=60)) == set(nodes.values())


@pytest.mark.parametrize(
    ("strategy", "allowed"),
    [
        (NodeLabelSchedulingStrategy(hard={"zone": In("us", "mars")}), {"us"}),
        (NodeLabelSchedulingStrategy(hard={"zone": NotIn("us")}), {"head", "eu"}),
        (NodeLabelSchedulingStrategy(hard={"zone": Exists()}), {"eu", "us"}),
        (NodeLabelSchedulingStrategy(hard={"zone": DoesNotExist()}), {"head"}),
        (NodeLabelSchedulingStrategy(hard={"zone": Exists()}, soft={"disk": In("fast")}), {"eu"}),
        (NodeLabelSchedulingStrategy(hard={"zone": In("us")}, soft={"disk": In("fast")}), {"us"}),
        (NodeLabelSchedulingStrategy(soft={"role": In("head")}), {"head"}),
    ],
)
def test_label_strategies_choose_nodes(nodes: dict[str, str], strategy: Any, allowed: set[str]) -> None:
    task = where.options(scheduling_strategy=strategy, num_cpus=0)
    actor = Where.options(scheduling_strategy=strategy, num_cpus=0).remote()

    found = sparkray.get([actor.here.remote(), *(task.remote() for _ in range(3))], timeout=60)

    assert set(found) <= {nodes[name] for name in allowed}


def test_selectors_choose_nodes_and_fall_back(nodes: dict[str, str]) -> None:
    def at(**options: Any) -> str:
        return str(sparkray.get(where.options(**options).remote(), timeout=30))

    assert at(label_selector={"zone": "us"}) == nodes["us"]
    assert at(label_selector={"zone": "!us", "role": "!head"}) == nodes["eu"]
    assert at(label_selector={"zone": "in(eu, mars)"}) == nodes["eu"]
    assert at(label_selector={"zone": "!in(eu, us)"}) == nodes["head"]
    assert at(label_selector={"ray.io/node-id": nodes["us"]}) == nodes["us"]
    assert at(scheduling_strategy="SPREAD", label_selector={"zone": "us"}) == nodes["us"]
    fallbacks = [{"label_selector": {"zone": "mars"}}, {"label_selector": {"disk": "fast"}}]
    assert at(label_selector={"zone": "moon-base"}, fallback_strategy=fallbacks) == nodes["eu"]
    holder = Where.options(num_cpus=2, label_selector={"zone": "us"}).remote()
    assert sparkray.get(holder.here.remote(), timeout=30) == nodes["us"]
    busy = [{"label_selector": {"zone": "eu"}}]
    assert at(label_selector={"zone": "us"}, fallback_strategy=busy) == nodes["eu"], "the first has no room just now"


def test_nodes_can_be_asked_for_by_their_resources_and_told_by_their_labels(nodes: dict[str, str]) -> None:
    assert sparkray.get(where.options(resources={"node:__internal_head__": 0.001}).remote()) == nodes["head"]
    assert sparkray.cluster_resources()["node:__internal_head__"] == 1.0
    assert sparkray.cluster_resources()["node:127.0.0.1"] == 3.0  # all are on this host
    labels = {node["NodeID"]: node["Labels"] for node in sparkray.nodes()}
    for name, given in (("head", HEAD_LABELS), ("eu", EU_LABELS), ("us", US_LABELS)):
        assert labels[nodes[name]] == {**given, "ray.io/node-id": nodes[name]}

    @sparkray.remote(label_selector={"zone": "eu"})
    def mine() -> Any:
        return sparkray.get_runtime_context().get_node_labels()

    assert sparkray.get(mine.remote(), timeout=30) == {**EU_LABELS, "ray.io/node-id": nodes["eu"]}
