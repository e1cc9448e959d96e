"""DataFrames on two executors: each partition in its own executor's store, and tasks where the blocks lie."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset, lifetimes
from sparkray.exceptions import ObjectStoreFullError
from sparkray_core.ids import NodeId, raylet_of

LIMIT_S = 60.0
ROWS = 400_000


@pytest.fixture(scope="module")
def spark(cluster_ray: RayContext) -> SparkSession:
    return SparkSession(cluster_ray.sc)


@pytest.fixture(scope="module")
def numbers(spark: SparkSession) -> DataFrame:
    """Ten megabytes in eight partitions."""
    return spark.range(0, ROWS, 1, 8).select("id", F.rand(1).alias("x"), F.rand(2).alias("y"))


@sparkray.remote
def place(table: Any) -> tuple[str, int]:
    """Where the task ran that was given a block."""
    from sparkray_core.run import object_ref

    return object_ref.core().node.hex(), table.num_rows


def nodes_of(dataset: Dataset) -> list[NodeId]:
    """Where each block lies."""
    found = []
    for ref in dataset.refs:
        value = ref._entry.value
        assert isinstance(value, tuple)
        found.append(NodeId(value[2][0]))
    return found


def on_all_nodes(what: str) -> int:
    core = session.core()
    core.kick()
    nodes = [NodeId(bytes.fromhex(node["NodeID"])) for node in sparkray.nodes() if node["Alive"]]
    return sum(core.ask(raylet_of(node), "status")[what] for node in nodes)


def wait_until_none(what: str, nudge: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while seen := on_all_nodes(what):
        assert time.monotonic() < deadline, f"{seen} {what} on the nodes"
        nudge()
        time.sleep(0.05)


def wait_until_free() -> None:
    """Until the head, which places tasks, has heard that all CPUs are free."""
    deadline = time.monotonic() + LIMIT_S
    while (free := sparkray.available_resources()) != sparkray.cluster_resources():
        assert time.monotonic() < deadline, f"only {free} is free"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_stays_in_the_stores(spark: SparkSession) -> Iterator[None]:
    def forget() -> None:
        gc.collect()
        spark._jvm.System.gc()  # type: ignore[union-attr]
        lifetimes.let_go()

    yield
    wait_until_none("objects", forget)


def test_each_executor_keeps_what_it_computes(cluster_ray: RayContext, numbers: DataFrame) -> None:
    dataset = sparkray.data.from_spark(numbers)

    assert (dataset.count(), dataset.num_blocks()) == (ROWS, 8)
    per_node = Counter(nodes_of(dataset))
    assert set(per_node) == {executor.node for executor in cluster_ray.executors}
    assert session.core().node not in per_node


def test_a_task_runs_where_its_block_lies(numbers: DataFrame) -> None:
    dataset = sparkray.data.from_spark(numbers)
    homes = [node.hex() for node in nodes_of(dataset)]
    ran = []
    for ref in dataset.refs:
        # A worker that is still leased may be given any task: better a block that moves than a worker that idles.
        wait_until_none("leases")
        wait_until_free()
        ran.append(sparkray.get(place.remote(ref)))

    assert [node for node, _ in ran] == homes
    assert sum(rows for _, rows in ran) == ROWS


def test_the_rows_come_back_to_the_driver_and_to_spark(spark: SparkSession, numbers: DataFrame) -> None:
    dataset = sparkray.data.from_spark(numbers)
    assert dataset.to_pandas().equals(numbers.toPandas())

    mapped = dataset.map_batches(lambda batch: batch.assign(z=batch.x + batch.y), batch_format="pandas")
    back = mapped.to_spark(spark)
    assert back.filter("z != x + y").count() == 0
    assert back.orderBy("id").select("id", "x", "y").collect() == numbers.collect()


class Reader:
    """Reads 248 MiB in the store of its node: what is being read cannot go to disk."""

    def read(self) -> str:
        self.view = sparkray.get(sparkray.put(np.ones(31 << 20)))
        return sparkray.get_runtime_context().get_node_id()


@pytest.mark.slow
def test_a_full_store_ends_the_transfer_after_spark_s_retries(spark: SparkSession) -> None:
    readers = [sparkray.remote(num_cpus=1)(Reader).remote() for _ in range(2)]
    assert len(set(sparkray.get([reader.read.remote() for reader in readers]))) == 2  # one CPU each
    big = spark.range(0, 60_000, 1, 2).select(F.repeat(F.lit("x"), 1000).alias("text"))
    with pytest.raises(ObjectStoreFullError, match=r"this node's store of 256 MiB has .* is being read"):
        sparkray.data.from_spark(big)


def test_retried_attempts_leave_one_copy(numbers: DataFrame, tmp_path: Any) -> None:
    """Each partition's first attempt fails after it has stored its rows."""
    marks = str(tmp_path)

    def fail_once(batches: Any) -> Any:
        from pyspark import TaskContext

        yield from batches
        context = TaskContext.get()
        assert context is not None
        mark = os.path.join(marks, str(context.partitionId()))
        if not os.path.exists(mark):
            open(mark, "w").close()
            raise RuntimeError("not this time")

    dataset = sparkray.data.from_spark(numbers.mapInArrow(fail_once, numbers.schema), target_block_bytes=300_000)
    assert len(os.listdir(marks)) == 8
    assert dataset.to_arrow()["id"].to_pylist() == list(range(ROWS))
    gc.collect()
    assert dataset.num_blocks() == len(set(dataset.refs))


def test_executors_have_no_connection_left(
    cluster_ray: RayContext, cluster_sc: SparkContext, numbers: DataFrame
) -> None:
    """Spark keeps its Python workers for the next job; what they had of a node is closed."""
    sparkray.data.from_spark(numbers).to_spark().count()

    core = session.core()
    deadline = time.monotonic() + LIMIT_S
    for executor in cluster_ray.executors:
        while (seen := core.ask(raylet_of(executor.node), "status"))["processes"] > sum(seen["workers"].values()):
            assert time.monotonic() < deadline, f"others than workers are connected: {seen}"
            time.sleep(0.05)
