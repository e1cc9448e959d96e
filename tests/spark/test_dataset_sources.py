"""What else comes from Spark: RDDs, streams, so many blocks as one wants; and what is refused before a job runs."""

from __future__ import annotations

import gc
import os
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset, lifetimes, spark_placing

LIMIT_S = 60


@pytest.fixture(scope="module")
def spark(local_ray: RayContext) -> SparkSession:
    return SparkSession(local_ray.sc)


def stored() -> int:
    core = session.core()
    core.kick()
    return int(core.ask(core.raylet_id, "status")["objects"])


@pytest.fixture(autouse=True)
def nothing_stays_in_the_store(spark: SparkSession) -> Iterator[None]:
    yield
    deadline = time.monotonic() + LIMIT_S
    while seen := stored():
        assert time.monotonic() < deadline, f"{seen} objects are in the store"
        gc.collect()
        spark._jvm.System.gc()  # type: ignore[union-attr]
        lifetimes.let_go()
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------ RDDs
def test_the_records_of_an_rdd_come_in_order_whatever_they_are(spark: SparkSession) -> None:
    sc = spark.sparkContext
    dicts = sparkray.data.from_rdd(sc.parallelize([{"a": n, "b": str(n)} for n in range(1000)], 3))
    assert (dicts.count(), dicts.num_blocks(), dicts.columns()) == (1000, 3, ["a", "b"])
    assert dicts.take_all() == [{"a": n, "b": str(n)} for n in range(1000)]
    assert sparkray.data.from_rdd(sc.range(10, numSlices=2)).take_all() == [{"item": n} for n in range(10)]
    rows = sparkray.data.from_rdd(sc.parallelize([Row(a=1, b=Row(c=2)), Row(a=2, b=Row(c=3))], 1))
    assert rows.take_all() == [{"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 3}}]
    points = sc.parallelize(range(2), 1).map(lambda n: _point(n))
    assert sparkray.data.from_rdd(points).take_all() == [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
    odd = sc.parallelize([1, "one", 1j, None, {2, 3}], 5)
    assert [row["item"] for row in sparkray.data.from_rdd(odd).take_all()] == [1, "one", 1j, None, [2, 3]]
    arrays = sc.parallelize(range(4), 2).map(lambda n: {"v": np.full((2, 2), n)})
    assert sparkray.data.from_rdd(arrays).take_batch(4)["v"].sum(axis=(1, 2)).tolist() == [0, 4, 8, 12]


def _point(n: int) -> Any:
    Point: Any = namedtuple("Point", "x y")
    return Point(n, n)


def test_an_rdd_is_cut_into_blocks_and_may_be_empty(spark: SparkSession) -> None:
    texts = spark.sparkContext.range(3000, numSlices=1).map(lambda n: "x" * 1000)
    dataset = sparkray.data.from_rdd(texts, target_block_bytes=500_000)
    assert dataset.num_blocks() >= 6
    assert max(block.bytes for block in dataset.blocks) <= 500_000
    assert dataset.count() == 3000
    empty = sparkray.data.from_rdd(spark.sparkContext.parallelize([], 2))
    assert (empty.count(), empty.num_blocks(), empty.columns()) == (0, 0, [])


def test_a_failing_partition_of_an_rdd_is_spark_s_error_and_leaves_nothing(spark: SparkSession) -> None:
    def refuse(n: int) -> int:
        if n == 49_999:
            raise ValueError("no such number")
        return n

    failing = spark.sparkContext.range(50_000, numSlices=1).map(refuse)
    with pytest.raises(Exception, match="no such number"):
        sparkray.data.from_rdd(failing, target_block_bytes=10_000)


# ------------------------------------------------------------------------------------------ DataFrames
@pytest.mark.slow
def test_as_many_blocks_as_are_wanted_in_order(spark: SparkSession) -> None:
    df = spark.range(0, 1000, 1, 4).withColumn("day", F.make_dt_interval(F.col("id").cast("int")))
    for how, count in [({"parallelism": 2}, 2), ({"override_num_blocks": 7}, 7), ({}, 4)]:
        dataset = sparkray.data.from_spark(df, **how)
        assert dataset.num_blocks() == count
        assert [row["id"] for row in dataset.take_all()] == list(range(1000))
        assert dataset.to_spark(spark).schema == df.schema
    with pytest.raises(ValueError, match="at least 1"):
        sparkray.data.from_spark(df, override_num_blocks=0)


def test_types_that_do_not_come_back_are_refused_before_a_job_runs(spark: SparkSession) -> None:
    sc = spark.sparkContext
    sc.setJobGroup("refused", "none of its jobs may run")
    try:
        for sql in (
            "make_interval(1, 2)",
            "array(make_interval(1, 2))",
            "named_struct('s', map('k', interval '1-2' year to month))",
            "interval 1 month",
        ):
            with pytest.raises(TypeError, match=r"column 'i' is of type .*: cast them"):
                sparkray.data.from_spark(spark.sql(f"select id, {sql} i from range(10)"))
        assert list(sc.statusTracker().getJobIdsForGroup("refused")) == []
        fine = spark.sql("select named_struct('interval', 1, 'b', interval 1 day) i")
        assert sparkray.data.from_spark(fine).to_spark(spark).collect() == fine.collect()
    finally:
        sc.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sql", ["time'12:34:56.789'", "parse_json('[1]')", "map(1, array(named_struct('d', date'2024-02-29')))"]
)
def test_newer_types_survive_the_round_trip(spark: SparkSession, sql: str) -> None:
    try:
        df = spark.sql(f"select {sql} v")
        df.schema  # noqa: B018  is analysed now
        df.collect()
    except (PySparkException, ValueError) as error:
        pytest.skip(f"this Spark does not know it: {type(error).__name__}")
    back = sparkray.data.from_spark(df).to_spark(spark)
    assert back.schema == df.schema
    assert [str(row) for row in back.collect()] == [str(row) for row in df.collect()]


def test_what_functions_and_filters_left_goes_back_with_its_types(spark: SparkSession) -> None:
    df = spark.sql("select id, make_dt_interval(cast(id as int)) d, cast(id as char(5)) c from range(0, 100, 1, 4)")
    kept = sparkray.data.from_spark(df).filter(lambda row: row["id"] >= 98)
    back = kept.to_spark(spark)
    assert back.schema == df.schema
    assert back.collect() == df.filter("id >= 98").collect()
    tensors = sparkray.data.from_numpy(np.arange(8.0).reshape(2, 2, 2)).to_spark(spark)
    assert tensors.schema.simpleString() == "struct<data:array<array<double>>>"
    assert tensors.collect()[1].data == [[4.0, 5.0], [6.0, 7.0]]
    mixed = sparkray.data.from_items([{"a": 1}]).union(sparkray.data.from_items([{"a": 2.5, "b": "x"}]))
    assert mixed.to_spark(spark).collect() == [(1.0, None), (2.5, "x")]


def test_spark_would_rather_read_a_block_where_it_lies(spark: SparkSession) -> None:
    df = spark_placing.placed(spark, [["executor_here_1"], [], ["executor_there_2"]])
    assert [row.id for row in df.collect()] == [0, 1, 2]
    java_frame: Any = df._jdf
    rdd = java_frame.queryExecution().toRdd()
    while not rdd.dependencies().isEmpty():  # Spark asks those that it is computed from, too
        rdd = rdd.dependencies().head().rdd()
    assert [rdd.preferredLocations(each).mkString(",") for each in rdd.partitions()] == [
        "executor_here_1",
        "",
        "executor_there_2",
    ]


def test_the_driver_holds_none_of_what_it_moves(spark: SparkSession) -> None:
    import psutil

    df = spark.range(0, 100_000, 1, 4).select("id", F.repeat(F.lit("x"), 1000).alias("text"))  # 100 MB
    sparkray.data.from_spark(df.limit(1))
    gc.collect()
    before = psutil.Process(os.getpid()).memory_info().rss
    dataset = sparkray.data.from_spark(df)
    assert dataset.size_bytes() > 100_000_000
    assert psutil.Process(os.getpid()).memory_info().rss - before < 30_000_000


# ------------------------------------------------------------------------------------------ streams
def test_each_micro_batch_becomes_a_dataset(spark: SparkSession, tmp_path: Any) -> None:
    source, seen = str(tmp_path / "in"), {}
    spark.range(0, 10, 1, 1).write.json(source)

    def take(dataset: Dataset, number: int) -> None:
        seen[number] = sorted(row["id"] for row in dataset.map(lambda row: row).take_all())

    stream = spark.readStream.schema("id long").json(source)
    writer = stream.writeStream.foreachBatch(sparkray.data.foreach_batch(take, override_num_blocks=2))
    writer = writer.option("checkpointLocation", str(tmp_path / "checkpoint")).trigger(availableNow=True)
    assert writer.start().awaitTermination(LIMIT_S)
    spark.range(10, 15, 1, 1).write.mode("append").json(source)
    assert writer.start().awaitTermination(LIMIT_S)
    assert seen == {0: list(range(10)), 1: [10, 11, 12, 13, 14]}


def test_what_a_handler_raises_ends_the_stream(spark: SparkSession, tmp_path: Any) -> None:
    source = str(tmp_path / "in")
    spark.range(3).write.json(source)

    def fail(dataset: Dataset, number: int) -> None:
        raise KeyError("no such handler")

    stream = spark.readStream.schema("id long").json(source)
    query = stream.writeStream.foreachBatch(sparkray.data.foreach_batch(fail)).trigger(availableNow=True).start()
    with pytest.raises(PySparkException, match="no such handler"):
        query.awaitTermination(LIMIT_S)
