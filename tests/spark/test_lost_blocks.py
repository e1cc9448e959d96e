"""kill -9 to an executor that has blocks: Spark runs their partitions again, and no others, or an error says why not.

One executor is killed, once, with all the datasets of this module in its node.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyspark import SparkContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset, lifetimes
from sparkray.exceptions import ObjectReconstructionFailedError
from sparkray_core.ids import NodeId, raylet_of
from sparkray_core.messages import STORED
from tests.waiting import wait_until

from .conftest import START_S

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * START_S)]
WAIT_S = 60.0
ROWS = 40_000


class Runs:
    """Notes which partitions run, and makes the second run of one other than the first."""

    def __init__(self, folder: Path, change: str = "") -> None:
        self.folder, self.change = str(folder), change
        folder.mkdir()

    def of(self, df: DataFrame) -> DataFrame:
        folder, change = self.folder, self.change

        def run(batches: Any) -> Any:  # nested, so that executors need not find this module
            import os
            import tempfile

            import pyarrow as pa
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            number = str(context.partitionId())
            again = any(name.split("-")[0] == number for name in os.listdir(folder))
            os.close(tempfile.mkstemp(prefix=f"{number}-", dir=folder)[0])
            if again and change == "fails":
                raise RuntimeError("the file is not there any more")
            for batch in batches:
                if again and change == "fewer rows":
                    yield batch.slice(1)
                elif again and change == "other order":
                    yield from pa.Table.from_batches([batch]).sort_by([("id", "descending")]).to_batches()
                else:
                    yield batch

        return df.mapInArrow(run, df.schema)

    def counts(self) -> dict[int, int]:
        numbers = [int(name.split("-")[0]) for name in os.listdir(self.folder)]
        return {number: numbers.count(number) for number in sorted(set(numbers))}


def nodes_of(dataset: Dataset) -> list[NodeId | None]:
    """Where each block lies; None: it is lost."""
    values = [ref._entry.value for ref in dataset.refs]
    return [NodeId(value[2][0]) if isinstance(value, tuple) and value[0] == STORED else None for value in values]


def lost(dataset: Dataset) -> int:
    return sum(ref._entry.value is None for ref in dataset.refs)


@dataclass
class Lost:
    """What lay on the executor that was killed, and on the other one."""

    runs: Runs
    plain: Dataset
    grouped: Dataset
    grouped_rows: list[Any]
    grouped_runs: Runs
    rdd: Dataset
    framed: Dataset
    frame: DataFrame  # of it, made before the loss
    computed: Dataset  # of a dataset that nobody holds any more
    changed: dict[str, Dataset]
    partitions: set[int]  # of `plain`, that were lost


@pytest.fixture(scope="module")
def ray(cluster_sc: SparkContext) -> Iterator[RayContext]:
    with RayContext(cluster_sc, object_store_memory="128m", start_timeout=START_S, elastic=True) as ctx:
        yield ctx
        gc.collect()
        lifetimes.let_go()
        core = session.core()
        core.kick()
        alive = [NodeId(bytes.fromhex(node["NodeID"])) for node in sparkray.nodes() if node["Alive"]]
        wait_until(
            lambda: not any(core.ask(raylet_of(node), "status")["objects"] for node in alive),
            "objects are left",
            limit=WAIT_S,
        )


@pytest.fixture(scope="module")
def spark(ray: RayContext) -> SparkSession:
    return SparkSession(ray.sc)


@pytest.fixture(scope="module")
def kept(ray: RayContext, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Lost]]:
    held = [prepared(ray, spark, tmp_path_factory.mktemp("runs"))]
    yield held
    held.clear()


def prepared(ray: RayContext, spark: SparkSession, folder: Path) -> Lost:
    numbers = spark.range(0, ROWS, 1, 8).select("id", F.rand(1).alias("x"))
    runs, grouped_runs = Runs(folder / "plain"), Runs(folder / "grouped")
    groups = numbers.groupBy((F.col("id") % 100).alias("g")).agg(F.sum("id").alias("sum"))
    read = grouped_runs.of(numbers).groupBy((F.col("id") % 100).alias("g")).agg(F.sum("id").alias("sum"))
    plain = sparkray.data.from_spark(runs.of(numbers), target_block_bytes=60_000)
    before = sparkray.data.from_spark(numbers)
    computed = before.map_batches(lambda table: table.select(["id"]), batch_format="pyarrow").materialize()
    del before
    framed = sparkray.data.from_spark(numbers.select("id"))
    made = Lost(
        runs,
        plain,
        sparkray.data.from_spark(read),
        groups.orderBy("g").collect(),
        grouped_runs,
        sparkray.data.from_rdd(ray.sc.parallelize(range(1000), 8)),
        framed,
        framed.to_spark(spark),
        computed,
        {
            change: sparkray.data.from_spark(Runs(folder / change, change).of(numbers), target_block_bytes=60_000)
            for change in ("fails", "fewer rows", "other order")
        },
        set(),
    )
    first = ray.executors[0]
    per_partition = plain.num_blocks() // 8
    there = {index // per_partition for index, node in enumerate(nodes_of(plain)) if node == first.node}
    made.partitions |= there
    assert there, "Spark gave the other executor all of it"
    assert first.node in nodes_of(framed), "Spark gave the other executor all of it"
    os.kill(first.jvm.pid, signal.SIGKILL)
    wait_until(
        lambda: lost(plain) == len(there) * per_partition, "the driver has heard that the node is gone", limit=WAIT_S
    )
    wait_until(lambda: len(ray.executors) == 3, "Spark brings the executor back, and its node has joined", limit=WAIT_S)
    return made


@pytest.fixture
def data(kept: list[Lost]) -> Lost:
    return kept[0]


def test_what_a_dataframe_names_is_made_again_before_its_tasks_want_it(data: Lost, ray: RayContext) -> None:
    wait_until(lambda: not lost(data.framed), "Spark makes the blocks again by itself", limit=WAIT_S)
    assert set(nodes_of(data.framed)) <= {one.node for one in ray.executors[1:]}
    assert lost(data.plain) == 2 * len(data.partitions)  # which nobody wants
    assert data.frame.agg(F.sum("id")).collect()[0][0] == ROWS * (ROWS - 1) // 2


def test_lost_blocks_come_back_with_the_same_rows_and_only_their_partitions_run(data: Lost) -> None:
    assert data.plain.num_blocks() == 16
    assert data.plain.to_arrow()["id"].to_pylist() == list(range(ROWS))
    assert data.runs.counts() == {number: 1 + (number in data.partitions) for number in range(8)}
    assert not lost(data.plain)


def test_what_reads_them_does_not_notice(data: Lost, spark: SparkSession) -> None:
    assert sorted(data.rdd.to_pandas()["item"]) == list(range(1000))
    assert data.computed.to_spark(spark).agg(F.sum("id")).collect()[0][0] == ROWS * (ROWS - 1) // 2


def test_what_a_shuffle_has_written_is_used_again(data: Lost) -> None:
    """The executor that was killed had half of it: what the other one has is not computed anew."""
    table = data.grouped.to_arrow().sort_by("g")
    assert table.to_pylist() == [row.asDict() for row in data.grouped_rows]
    assert sum(data.grouped_runs.counts().values()) < 16


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("fails", "failed: RuntimeError: the file is not there any more"),
        ("fewer rows", r"gave 499\d rows instead of 5000"),
        ("other order", "the same number of rows, but other ones, or in another order"),
    ],
)
def test_a_partition_that_is_not_the_same_again_is_an_error_that_says_so(data: Lost, change: str, why: str) -> None:
    with pytest.raises(ObjectReconstructionFailedError, match=f"(?s)which from_spark.. had stored, .*{why}") as caught:
        data.changed[change].to_arrow()
    assert caught.value.reason == "MAKER_FAILED"


def test_a_new_transfer_uses_the_node_that_has_joined_in_its_place(
    data: Lost, ray: RayContext, spark: SparkSession
) -> None:
    dataset = sparkray.data.from_spark(spark.range(0, ROWS, 1, 8))
    assert set(nodes_of(dataset)) == {one.node for one in ray.executors[1:]}


def test_datasets_let_go_of_what_they_need_to_be_made_again(kept: list[Lost], cluster_sc: SparkContext) -> None:
    kept.clear()
    core = session.core()

    def none_is_kept() -> bool:
        gc.collect()
        cluster_sc._jvm.java.lang.System.gc()  # type: ignore[union-attr] # for the DataFrame that was made before
        lifetimes.let_go()
        core.kick()
        return not core.owner.lineage.records

    wait_until(none_is_kept, "no record is kept", limit=WAIT_S)
