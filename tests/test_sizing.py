"""From Spark's settings to a plan: every master, every way to be impossible."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkray.sizing import (
    Host,
    NodePlan,
    Spark,
    UnfitSpark,
    Wishes,
    elect,
    host_of,
    memory_bytes,
    plan,
    show_bytes,
    store_bytes_on,
)

HOST = Host(cpus=8, memory_bytes=10 << 30)


def planned(
    master: str,
    settings: Mapping[str, str] | None = None,
    executors: int = 0,
    slots: int = 0,
    wishes: Wishes | None = None,
) -> NodePlan:
    return plan(Spark(master, settings or {}, executors, slots), HOST, wishes or Wishes())


@pytest.mark.parametrize(("master", "cores"), [("local[4]", 4), ("local", 1), ("local[*]", None)])
def test_over_spark_connect_a_local_master_is_one_executor_of_its_own_host(master: str, cores: int | None) -> None:
    for here in (True, False):
        found = plan(Spark(master, {}, 1, cores or 0, is_remote=True, same_machine=here), HOST, Wishes())
        assert (found.in_driver, found.same_machine, found.nodes, found.barrier) == (False, here, 1, True)
        assert (found.cores, found.slots_each) == (cores, cores)


def test_what_tasks_have_seen_goes_before_the_settings() -> None:
    settings = {"spark.driver.host": "localhost", "spark.executor.cores": "1"}
    assert planned("spark://h:7077", settings, executors=1, slots=1).same_machine
    assert not plan(Spark("spark://h:7077", settings, 1, 1, True, False), HOST, Wishes()).same_machine


@pytest.mark.parametrize(
    ("master", "cores"),
    [("local", 1), ("local[*]", 8), ("local[4]", 4), ("local[ 4 ]", 4), ("local[4,2]", 4), ("local[*,2]", 8)],
)
def test_local_mode_is_one_node_with_the_cores_of_the_master(master: str, cores: int) -> None:
    assert planned(master) == NodePlan(
        in_driver=True, same_machine=True, nodes=1, executors=1, cores=cores, slots_each=cores, store_bytes=None
    )


def test_local_cluster_is_a_cluster_on_one_machine() -> None:
    assert planned("local-cluster[3,2,1024]") == NodePlan(
        in_driver=False, same_machine=True, nodes=3, executors=3, cores=2, slots_each=2, store_bytes=None
    )


def test_local_cluster_has_several_executors_to_a_worker_when_they_are_small() -> None:
    found = planned("local-cluster[2,4,1024]", {"spark.executor.cores": "2", "spark.cores.max": "6"})

    assert (found.nodes, found.cores) == (3, 2)


@pytest.mark.parametrize(
    ("master", "settings", "nodes", "cores"),
    [
        ("yarn", {"spark.executor.instances": "4", "spark.executor.cores": "3"}, 4, 3),
        ("yarn", {}, 2, 1),
        ("k8s://https://host:6443", {"spark.executor.instances": "5"}, 5, 1),
        ("spark://host:7077", {"spark.cores.max": "10", "spark.executor.cores": "4"}, 2, 4),
    ],
)
def test_the_number_of_executors_is_read_off_the_settings(
    master: str, settings: dict[str, str], nodes: int, cores: int
) -> None:
    found = planned(master, settings, executors=1, slots=1)

    assert (found.nodes, found.cores, found.same_machine, found.in_driver) == (nodes, cores, False, False)


@pytest.mark.parametrize(
    ("host", "same"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.7", False), ("127.x", False)]
)
def test_who_reaches_the_driver_by_loopback_is_on_its_machine(host: str, same: bool) -> None:
    settings = {"spark.driver.host": host, "spark.cores.max": "2", "spark.executor.cores": "1"}

    assert planned("spark://127.0.0.1:7077", settings).same_machine is same


def test_without_a_setting_the_executors_that_are_there_count() -> None:
    found = planned("spark://host:7077", executors=3, slots=12)

    assert (found.nodes, found.cores, found.slots_each) == (3, 4, 4)


def test_task_cpus_make_fewer_slots_but_not_fewer_cores() -> None:
    found = planned("yarn", {"spark.executor.cores": "8", "spark.task.cpus": "4"})

    assert (found.cores, found.slots_each) == (8, 2)


def test_wishes_come_first() -> None:
    found = planned("local-cluster[3,2,1024]", wishes=Wishes(nodes=2, cores=5, store_bytes=1 << 20))

    assert (found.nodes, found.executors, found.cores, found.store_bytes) == (2, 3, 5, 1 << 20)


@pytest.mark.parametrize(
    ("master", "settings", "wishes", "says"),
    [
        ("local[4]", {}, Wishes(nodes=2), "local-cluster[2,cores,MiB]"),
        ("local-cluster[2,1,1024]", {}, Wishes(nodes=3), "so says the master, local-cluster[2,1,1024]"),
        ("yarn", {"spark.executor.instances": "2"}, Wishes(nodes=3), "spark.executor.instances=2"),
        ("yarn", {}, Wishes(nodes=3), "spark.executor.instances is not set"),
        (
            "yarn",
            {"spark.dynamicAllocation.enabled": "true", "spark.dynamicAllocation.maxExecutors": "2"},
            Wishes(nodes=3),
            "spark.dynamicAllocation.maxExecutors=2",
        ),
        ("spark://host:7077", {}, Wishes(), "set num_ray_nodes"),
        ("yarn", {"spark.executor.cores": "two"}, Wishes(), "spark.executor.cores is 'two'"),
    ],
)
def test_what_spark_cannot_host_is_told_with_the_setting_to_change(
    master: str, settings: dict[str, str], wishes: Wishes, says: str
) -> None:
    with pytest.raises(UnfitSpark) as refusal:
        planned(master, settings, wishes=wishes)

    assert says in str(refusal.value)


def test_more_nodes_than_are_there_may_still_come_when_no_setting_forbids_it() -> None:
    assert planned("spark://host:7077", executors=1, slots=4, wishes=Wishes(nodes=3)).nodes == 3


@pytest.mark.parametrize(
    ("settings", "executors", "wished", "nodes"),
    [
        ({}, 0, None, 1),
        ({}, 3, None, 3),
        ({"spark.dynamicAllocation.minExecutors": "2"}, 0, None, 2),
        ({"spark.dynamicAllocation.initialExecutors": "4", "spark.executor.instances": "3"}, 2, None, 4),
        ({"spark.dynamicAllocation.maxExecutors": "9"}, 0, 7, 7),
    ],
)
def test_with_dynamic_allocation_nodes_join_as_executors_come(
    settings: dict[str, str], executors: int, wished: int | None, nodes: int
) -> None:
    found = planned("yarn", {"spark.dynamicAllocation.enabled": "true", **settings}, executors, 4, Wishes(nodes=wished))

    assert (found.nodes, found.barrier) == (nodes, False)


def test_dynamic_allocation_does_not_matter_in_local_mode() -> None:
    assert planned("local[2]", {"spark.dynamicAllocation.enabled": "true"}).nodes == 1


@pytest.mark.parametrize("wishes", [Wishes(nodes=0), Wishes(cores=-1), Wishes(nodes=True), Wishes(cores=1.5)])  # type: ignore[arg-type]
def test_a_wish_is_a_positive_whole_number(wishes: Wishes) -> None:
    with pytest.raises(ValueError, match="must be a whole number above 0"):
        planned("local[2]", wishes=wishes)


@pytest.mark.parametrize(
    ("given_size", "size"),
    [
        (None, None),
        (7, 7),
        ("7", 7),
        ("7b", 7),
        ("2k", 2048),
        ("512m", 512 << 20),
        ("4G", 4 << 30),
        (" 1 tb ", 1 << 40),
    ],
)
def test_sizes_are_binary(given_size: int | str | None, size: int | None) -> None:
    assert memory_bytes(given_size) == size


@pytest.mark.parametrize("given_size", ["4.5g", "four", "", "g", "-1", -1, 0, "0m", True, 1.5])
def test_what_is_no_size_is_refused(given_size: int | str) -> None:
    with pytest.raises(ValueError, match="object_store_memory must be"):
        memory_bytes(given_size)


@given(st.integers(1, 1 << 50))
def test_a_size_is_shown_to_four_digits(size: int) -> None:
    number, unit = show_bytes(size).split()
    shown = float(number) * {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]

    assert abs(shown - size) <= size / 1000


def test_stores_share_the_memory_of_their_host() -> None:
    assert store_bytes_on(HOST, 1, None) == int(HOST.memory_bytes * 0.3)
    assert store_bytes_on(HOST, 3, None) == int(HOST.memory_bytes * 0.3) // 3
    assert store_bytes_on(HOST, 3, 1 << 30) == 1 << 30
    with pytest.raises(UnfitSpark, match=r"4 GiB for each node, and 3 of them share .* 10 GiB"):
        store_bytes_on(HOST, 3, 4 << 30)


@given(st.lists(st.sampled_from(["a:1", "a:2", "b:1", "c:9"]), max_size=8), st.integers(1, 4))
def test_there_is_one_launcher_on_each_of_so_many_executors_or_none_at_all(addresses: list[str], nodes: int) -> None:
    chosen = elect(addresses, nodes)

    assert len({addresses[partition] for partition in chosen}) == len(chosen)
    assert len(chosen) == (nodes if len(set(addresses)) >= nodes else 0)


def test_two_executors_on_one_host_are_two() -> None:
    assert elect(["h:1", "h:1", "h:2"], 2) == [0, 2]
    assert elect(["h:1", "h:1"], 2) == []


@pytest.mark.parametrize(("address", "host"), [("h:1", "h"), ("10.0.0.1:7078", "10.0.0.1"), ("[::1]:5", "::1")])
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host
