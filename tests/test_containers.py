"""What an executor's container has for sparkray, from Spark's settings; and slots: there, held, or never to be."""

from __future__ import annotations

import pytest

from sparkray.containers import LEAST_STORE, Container, container_of, driver_container_of, python_limit
from sparkray.sizing import Host, NodePlan, Spark, UnfitSpark, Wishes, plan
from sparkray.slots import Slots, SlotState

MIB, GIB = 1 << 20, 1 << 30


def planned(settings: dict[str, str], store: int | None = None, master: str = "yarn") -> NodePlan:
    return plan(Spark(master, settings), Host(8, 64 * GIB), Wishes(store_bytes=store))


@pytest.mark.parametrize(
    ("master", "settings", "container"),
    [
        ("yarn", {}, Container(GIB, 384 * MIB)),
        ("yarn", {"spark.executor.memory": "8g"}, Container(8 * GIB, 8 * GIB // 10)),
        ("yarn", {"spark.executor.memory": "2048"}, Container(2 * GIB, 384 * MIB)),
        ("yarn", {"spark.executor.memoryOverhead": "6g"}, Container(GIB, 6 * GIB)),
        (
            "yarn",
            {"spark.executor.memoryOverheadFactor": "0.5", "spark.executor.memory": "4g"},
            Container(4 * GIB, 2 * GIB),
        ),
        (
            "k8s://h",
            {"spark.kubernetes.memoryOverheadFactor": "0.4", "spark.executor.memory": "5g"},
            Container(5 * GIB, 2 * GIB),
        ),
        ("yarn", {"spark.executor.minMemoryOverhead": "1g"}, Container(GIB, GIB)),
        ("yarn", {"spark.executor.pyspark.memory": "3g"}, Container(GIB, 384 * MIB, 3 * GIB)),
        (
            "yarn",
            {"spark.memory.offHeap.enabled": "true", "spark.memory.offHeap.size": "1g"},
            Container(GIB, 384 * MIB, 0, GIB),
        ),
        ("spark://h:1", {"spark.executor.memory": "8g"}, None),
        ("local-cluster[2,1,1024]", {}, None),
    ],
)
def test_the_container_is_what_spark_asks_for(
    master: str, settings: dict[str, str], container: Container | None
) -> None:
    assert container_of(master, settings) == container


@pytest.mark.parametrize(
    ("settings", "container"),
    [
        ({}, Container(GIB, 384 * MIB)),
        ({"spark.driver.memory": "8g", "spark.driver.memoryOverheadFactor": "0.5"}, Container(8 * GIB, 4 * GIB)),
        ({"spark.driver.memory": "512m", "spark.driver.memoryOverhead": "600m"}, Container(512 * MIB, 600 * MIB)),
        ({"spark.driver.minMemoryOverhead": "1g", "spark.executor.memory": "9g"}, Container(GIB, GIB)),
    ],
)
def test_a_driver_on_yarn_is_in_a_container_of_its_own(settings: dict[str, str], container: Container) -> None:
    cluster = {"spark.submit.deployMode": "cluster"}
    assert driver_container_of("yarn", cluster | settings) == container
    assert driver_container_of("yarn", settings) is None
    assert driver_container_of("k8s://h", cluster | settings) is None


def test_a_driver_s_store_is_not_larger_than_its_container_s_room() -> None:
    large, none = Container(GIB, 4480 * MIB), Container(GIB, 384 * MIB)
    assert [large.store_for(asked) for asked in (None, GIB, 8 * GIB)] == [2 * GIB, GIB, 4 * GIB]
    assert [none.store_for(asked) for asked in (None, MIB, 8 * GIB)] == [LEAST_STORE, MIB, LEAST_STORE]


def test_a_size_that_is_none_is_told_with_its_setting() -> None:
    with pytest.raises(ValueError, match=r"spark\.executor\.memory is 'much', which is no size"):
        container_of("yarn", {"spark.executor.memory": "much"})


def test_the_store_is_half_of_what_the_jvm_leaves() -> None:
    found = planned({"spark.executor.memoryOverhead": "4480m"})

    assert found.store_bytes == 2 * GIB  # of 4480 MiB the JVM needs 384
    assert found.notes == ()
    assert found.container is not None
    assert (found.container.total, found.container.room) == (GIB + 4480 * MIB, 4 * GIB)


def test_a_container_without_room_is_told_with_what_to_set() -> None:
    found = planned({})

    assert found.store_bytes == 64 * MIB
    (note,) = found.notes
    assert note.endswith("Set spark.executor.memoryOverhead=512m before the SparkContext is made")


def test_a_store_that_can_never_fit_is_refused_with_what_to_set() -> None:
    with pytest.raises(UnfitSpark, match=r"object_store_memory is 4 GiB .* Set spark\.executor\.memoryOverhead=8576m"):
        planned({}, store=4 * GIB)


def test_what_is_asked_for_is_enough() -> None:
    assert planned({"spark.executor.memoryOverhead": "8576m"}, store=4 * GIB).notes == ()


@pytest.mark.parametrize(
    ("settings", "cores", "limit"),
    [
        ({}, 4, None),
        ({"spark.executor.pyspark.memory": "4g"}, 4, GIB),
        ({"spark.executor.pyspark.memory": "4g"}, None, 4 * GIB),
    ],
)
def test_the_cores_of_an_executor_share_its_python_memory(
    settings: dict[str, str], cores: int | None, limit: int | None
) -> None:
    assert python_limit(settings, cores) == limit


def test_too_little_python_memory_is_refused_before_anything_starts() -> None:
    settings = {"spark.executor.pyspark.memory": "2g", "spark.executor.cores": "2", "spark.cores.max": "2"}
    with pytest.raises(UnfitSpark, match=r"may use 1 GiB of address space.*need 2 GiB each\. Unset .* or raise it"):
        planned(settings, GIB, "spark://h:1")
    assert planned({**settings, "spark.executor.pyspark.memory": "4g"}, GIB, "spark://h:1").nodes


@pytest.mark.parametrize(
    ("slots", "needed", "state"),
    [
        (Slots(2), 2, SlotState.OK),
        (Slots(3, [(1, "a")]), 2, SlotState.OK),
        (Slots(2, [(1, "a")]), 2, SlotState.BUSY),
        (Slots(1), 2, SlotState.IMPOSSIBLE),
        (Slots(1, [(1, "a")]), 2, SlotState.IMPOSSIBLE),
        (Slots(None), 2, SlotState.OK),
        (Slots(None, [(1, "a")]), 2, SlotState.BUSY),
        (Slots(2, None), 2, SlotState.OK),
        (Slots(1, None), 2, SlotState.IMPOSSIBLE),
    ],
)
def test_slots_are_there_or_held_or_will_never_be(slots: Slots, needed: int, state: SlotState) -> None:
    assert slots.state(needed) is state
    assert slots.told(needed).startswith(state.value)


def test_who_holds_the_slots_is_told() -> None:
    assert Slots(4, [(3, "count at job.py:7"), (1, "x")]).told(2) == (
        'busy: 2 needed for a moment. Of 4 slots it uses 3 by "count at job.py:7", 1 by "x"; the start waits for them'
    )
