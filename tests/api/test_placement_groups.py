"""Placement groups on one node. (On several: tests/cluster/test_placement.py.)"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sparkray.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from sparkray.util.placement_group import PlacementGroup, PlacementGroupID
from sparkray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from sparkray.util.state import get_placement_group as get_state
from sparkray.util.state import list_actors, list_placement_groups
from tests.waiting import wait_until

LOCAL_MODE_TOO = True


def within(group: PlacementGroup, index: int = -1, captures: bool | None = None) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index, captures)}


def actor(cls: Any) -> Any:
    """To a type checker a class that was made remote is still the class."""
    return cls


@pytest.fixture
def group(ray: Any) -> Iterator[PlacementGroup]:
    """Two bundles of one CPU each."""
    made = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert made.wait(20)
    yield made
    remove_placement_group(made)


def my_group(ray: Any) -> str | None:
    return ray.get_runtime_context().get_placement_group_id()  # type: ignore[no-any-return]


# ---------------------------------------------------------------------------------- its life
def test_ready_is_a_reference_to_the_group(ray: Any, group: PlacementGroup) -> None:
    ready = ray.get(group.ready(), timeout=20)

    assert ready == group
    assert (ready.id, ready.bundle_specs, ready.bundle_count) == (group.id, [{"CPU": 1}, {"CPU": 1}], 2)
    assert ray.wait([group.ready()], timeout=20)[1] == []
    assert not group.is_empty
    assert PlacementGroup.empty().is_empty
    assert PlacementGroupID.from_hex(group.id.hex()) == group.id


@pytest.mark.needs_workers
def test_ready_needs_nothing_of_what_is_set_aside(ray: Any, group: PlacementGroup) -> None:
    @ray.remote(num_cpus=1)
    class Holder:
        def held(self) -> int:
            return 1

    holders = [actor(Holder).options(**within(group)).remote() for _ in range(2)]
    assert ray.get([holder.held.remote() for holder in holders], timeout=30) == [1, 1]

    assert ray.get(group.ready(), timeout=20) == group


@pytest.mark.needs_workers
def test_what_is_set_aside_is_not_available_and_comes_back(ray: Any) -> None:
    wait_until(lambda: ray.available_resources().get("CPU") == 4)
    made = placement_group([{"CPU": 1}, {"CPU": 2, "special": 1}], strategy="STRICT_PACK")
    assert made.wait(20)

    wait_until(lambda: ray.available_resources().get("CPU") == 1)
    assert "special" not in ray.available_resources()
    assert not [name for name in ray.available_resources() if "group" in name]
    assert ray.cluster_resources()["CPU"] == 4

    remove_placement_group(made)
    wait_until(lambda: ray.available_resources().get("CPU") == 4)


def test_a_group_waits_for_room_and_gets_it_when_another_goes(ray: Any) -> None:
    first = placement_group([{"CPU": 3}])
    assert first.wait(20)
    second = placement_group([{"CPU": 2}, {"CPU": 1}])
    ready = second.ready()
    assert not second.wait(0.2)
    assert placement_group_table(second)["state"] == "PENDING"

    remove_placement_group(first)

    assert ray.get(ready, timeout=20) == second
    remove_placement_group(second)


def test_a_group_that_nothing_could_hold_waits_and_says_why(ray: Any) -> None:
    made = placement_group([{"CPU": 1}, {"GPU": 1}], name="hopeless")
    ref = ray.remote(lambda: 1).options(**within(made, 0)).remote()

    assert not made.wait(0.2)
    with pytest.raises(ray.exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.1)
    assert "could never hold" in placement_group_table(made)["stats"]["why"]
    assert "1 GPU" in placement_group_table(made)["stats"]["why"]

    remove_placement_group(made)
    for one in (ref, made.ready()):
        with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
            ray.get(one, timeout=20)
    with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
        made.wait(20)


@pytest.mark.needs_workers
def test_explain_tells_of_the_group_and_of_what_waits_for_it(ray: Any) -> None:
    made = placement_group([{"CPU": 64}])
    task = ray.remote(lambda: 1).options(**within(made)).remote()
    toy = ray.remote(type("Toy", (), {})).options(**within(made)).remote()

    assert ray.explain(made).state == "PENDING"
    assert "64 CPU" in str(ray.explain(made))
    waits = ray.explain(task)
    assert waits.state == "WAITS_FOR_PLACEMENT_GROUP"
    assert waits.because[0].subject == f"placement group {made.id.hex()}"
    wait_until(lambda: "waits for its placement group" in ray.explain(toy).sentence)

    remove_placement_group(made)
    wait_until(lambda: ray.explain(made).state == "REMOVED")


# ---------------------------------------------------------------------------------- what runs there
@pytest.mark.needs_workers
def test_tasks_and_actors_of_a_group_have_its_bundles_and_no_more(ray: Any, group: PlacementGroup) -> None:
    @ray.remote
    def held() -> Any:
        context = ray.get_runtime_context()
        return context.get_placement_group_id(), context.get_assigned_resources()

    @ray.remote(num_cpus=1)
    class Actor:
        def held(self) -> Any:
            context = ray.get_runtime_context()
            return context.get_placement_group_id(), context.get_assigned_resources()

    expected = (group.id.hex(), {"CPU": 1.0})
    assert ray.get([held.options(**within(group, index)).remote() for index in (-1, 0, 1)]) == [expected] * 3
    actors = [actor(Actor).options(**within(group, index)).remote() for index in (0, 1)]
    assert ray.get([one.held.remote() for one in actors]) == [expected] * 2
    third = held.options(**within(group)).remote()
    assert ray.wait([third], timeout=0.3)[1] == [third], "both bundles are taken, and it runs"
    assert ray.get(held.remote(), timeout=20) == (None, {"CPU": 1.0})
    listed = {one.actor_id: one.placement_group_id for one in list_actors()}
    assert listed[actors[0]._actor.id.hex()] == group.id.hex()

    ray.kill(actors[0])
    assert ray.get(third, timeout=20) == expected


@pytest.mark.needs_workers
def test_a_task_that_waits_lends_its_bundle_to_its_children(ray: Any, group: PlacementGroup) -> None:
    @ray.remote
    def nested(depth: int) -> int:
        return 0 if not depth else 1 + ray.get(nested.remote(depth - 1))

    assert ray.get(nested.options(**within(group, 0, True)).remote(5), timeout=60) == 5


def test_what_is_made_in_a_group_stays_there_only_if_it_captures(ray: Any, group: PlacementGroup) -> None:
    @ray.remote
    def mine() -> Any:
        return my_group(ray)

    @ray.remote(num_cpus=0)
    class Mine:
        def mine(self) -> Any:
            return my_group(ray)

    @ray.remote
    def parent() -> Any:
        inherits = ray.get_runtime_context().should_capture_child_tasks_in_placement_group
        outside = mine.options(placement_group=None).remote()
        refs = [mine.remote(), actor(Mine).remote().mine.remote(), outside]
        current = get_current_placement_group()
        return [*ray.get(refs), inherits, current and current.bundle_count]

    @ray.remote
    def grandparent() -> Any:
        return ray.get(parent.remote())

    here = group.id.hex()
    assert ray.get(parent.options(**within(group, 0, True)).remote()) == [here, here, None, True, 2]
    assert ray.get(grandparent.options(**within(group, 0, True)).remote()) == [here, here, None, True, 2]
    assert ray.get(parent.options(**within(group)).remote()) == [None, None, None, False, 2]
    assert ray.get(parent.remote()) == [None, None, None, False, None]
    assert get_current_placement_group() is None


def test_the_deprecated_options_mean_the_same(ray: Any, group: PlacementGroup) -> None:
    @ray.remote
    def mine() -> Any:
        return my_group(ray)

    assert ray.get(mine.options(placement_group=group, placement_group_bundle_index=1).remote()) == group.id.hex()
    assert ray.get(mine.options(placement_group=PlacementGroup.empty()).remote()) is None
    with pytest.raises(ValueError, match="bundle index must be -1"):
        mine.options(placement_group_bundle_index=0).remote()
    with pytest.raises(ValueError, match="deprecated"):
        mine.options(placement_group=group, **within(group)).remote()
    with pytest.raises(ValueError, match="must be a PlacementGroup"):
        mine.options(placement_group="none")


def test_what_no_bundle_could_hold_is_refused_at_once(ray: Any, group: PlacementGroup) -> None:
    @ray.remote(num_cpus=2)
    def large() -> None: ...

    @ray.remote
    class Actor: ...

    for index in (2, -2):
        with pytest.raises(ValueError, match=f"bundle index {index} is invalid"):
            actor(Actor).options(**within(group, index)).remote()
    with pytest.raises(ValueError, match="cannot fit into any bundle"):
        large.options(**within(group)).remote()
    with pytest.raises(ValueError, match="cannot fit into bundle 1"):
        actor(Actor).options(num_gpus=1, **within(group, 1)).remote()


# ---------------------------------------------------------------------------------- its end
@pytest.mark.needs_workers
def test_removal_kills_what_runs_there_and_fails_what_waits_and_what_comes_later(ray: Any) -> None:
    made = placement_group([{"CPU": 1}, {"CPU": 1}])

    @ray.remote(max_retries=0)
    def long() -> None:
        time.sleep(100)

    @ray.remote(num_cpus=1, max_restarts=-1)
    class Actor:
        def here(self) -> int:
            return 1

    lives = actor(Actor).options(**within(made, 0)).remote()
    assert ray.get(lives.here.remote(), timeout=30) == 1
    running = long.options(**within(made, 1)).remote()
    wait_until(lambda: ray.explain(running).state == "RUNNING")
    queued, waiting = long.options(**within(made)).remote(), actor(Actor).options(**within(made)).remote().here.remote()

    remove_placement_group(made)
    later, never = long.options(**within(made, 1)).remote(), actor(Actor).options(**within(made)).remote().here.remote()

    with pytest.raises(ray.exceptions.WorkerCrashedError, match="was removed"):
        ray.get(running, timeout=20)
    for ref in (queued, later):
        with pytest.raises(ray.exceptions.TaskPlacementGroupRemoved):
            ray.get(ref, timeout=20)
    for ref in (waiting, never):
        with pytest.raises(ray.exceptions.ActorPlacementGroupRemoved):
            ray.get(ref, timeout=20)
    wait_until(lambda: ray.explain(lives).state == "DEAD")
    with pytest.raises(ray.exceptions.ActorDiedError, match="was removed"):
        ray.get(lives.here.remote(), timeout=20)
    wait_until(lambda: ray.available_resources().get("CPU") == 4)
    remove_placement_group(made)  # a second time nothing happens
    assert placement_group_table(made)["state"] == "REMOVED"


@pytest.mark.needs_workers
def test_another_process_hears_of_the_removal_too(ray: Any) -> None:
    made = placement_group([{"CPU": 1}])

    @ray.remote
    class Elsewhere:
        def begin(self, group: PlacementGroup) -> Any:
            task = ray.remote(lambda: time.sleep(100)).options(**within(group))
            self.refs = [task.remote() for _ in range(2)]
            wait_until(lambda: any(ray.explain(ref).state == "RUNNING" for ref in self.refs))
            return ray.get(group.ready(), timeout=20)

        def end(self) -> list[str]:
            ray.wait(self.refs, num_returns=2, timeout=30)
            return [ray.explain(ref).facts["error"] for ref in self.refs]

    elsewhere = actor(Elsewhere).remote()
    assert ray.get(elsewhere.begin.remote(made), timeout=60) == made

    remove_placement_group(made)

    assert ray.get(elsewhere.end.remote(), timeout=60) == ["TaskPlacementGroupRemoved"] * 2


def test_an_unknown_group_is_removed_without_a_word(ray: Any) -> None:
    unknown = PlacementGroup(PlacementGroupID(b"x" * 24))
    remove_placement_group(unknown)
    assert placement_group_table(unknown) == {}


# ---------------------------------------------------------------------------------- names, tables, arguments
def test_a_name_finds_a_group_as_long_as_it_is_there(ray: Any) -> None:
    made = placement_group([{"CPU": 1}], name="mine")

    found = get_placement_group("mine")
    assert (found, found.bundle_specs) == (made, [{"CPU": 1.0}])
    with pytest.raises(ValueError, match="mine"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(made)
    with pytest.raises(ValueError, match="Failed to look up placement group with name: mine"):
        get_placement_group("mine")
    with pytest.raises(ValueError, match="non-empty"):
        get_placement_group("")
    again = placement_group([{"CPU": 1}], name="mine")
    assert again.wait(20)
    remove_placement_group(again)


def test_the_table_tells_what_there_is_and_was(ray: Any, group: PlacementGroup) -> None:
    row = placement_group_table(group)
    node = ray.get_runtime_context().get_node_id()
    assert row == {
        "placement_group_id": group.id.hex(),
        "name": "",
        "bundles": {0: {"CPU": 1.0}, 1: {"CPU": 1.0}},
        "bundles_to_node_id": {0: node, 1: node},
        "strategy": "PACK",
        "state": "CREATED",
        "stats": {"scheduling_attempt": 1, "scheduling_state": "FINISHED", "why": ""},
    }
    assert placement_group_table()[group.id.hex()] == row


@pytest.mark.needs_workers
def test_the_state_api_lists_them(ray: Any, group: PlacementGroup) -> None:
    (one,) = list_placement_groups(filters=[("placement_group_id", "=", group.id.hex())])
    assert (one.state, one.is_detached, one.creator_job_id) == ("CREATED", False, "01000000")
    assert one.bundles is not None
    assert one.bundles[1]["unit_resources"] == {"CPU": 1.0}
    assert get_state(group.id.hex()) == one
    assert get_state("ab") is None


@pytest.mark.parametrize(
    ("bundles", "more", "match"),
    [
        ([], {}, "empty list"),
        ({"CPU": 1}, {}, "must be a list"),
        ([{}], {}, "only 0 values"),
        ([{"CPU": 0}], {}, "only 0 values"),
        ([{"CPU": 1}, {"GPU": -1}], {}, "not below 0"),
        ([{"CPU": float("nan")}], {}, "finite"),
        ([{"CPU": "1"}], {}, "names by numbers"),
        ([{1: 1}], {}, "names by numbers"),
        (["CPU"], {}, "list of resource dictionaries"),
        ([{"bundle": 1}], {}, "bundles themselves"),
        ([{"CPU": 1}], {"strategy": "BEST"}, "Invalid strategy"),
        ([{"CPU": 1}], {"lifetime": "forever"}, "lifetime"),
        ([{"CPU": 1}], {"name": 7}, "string"),
        ([{"CPU": 1}], {"bundle_label_selector": [{}, {}]}, "2 of them for 1"),
        ([{"CPU": 1}], {"bundle_label_selector": [{"zone": "in("}]}, "no value of a label"),
    ],
)
def test_what_cannot_be_a_group_is_refused(ray: Any, bundles: Any, more: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        placement_group(bundles, **more)


def test_handles_travel_and_are_equal(ray: Any, group: PlacementGroup) -> None:
    found = ray.get(ray.remote(lambda group: (group, group.bundle_count)).remote(group))
    assert found == (group, 2)
    assert hash(found[0]) == hash(group)
    assert PlacementGroup.from_dict(group.to_dict()) == group
