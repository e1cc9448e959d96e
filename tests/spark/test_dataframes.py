"""DataFrames into the store and back, in one JVM: values, schemas, failures, lifetimes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from py4j.protocol import Py4JError
from pyspark import __version__ as spark_version
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkray
from sparkray import RayContext, session
from sparkray.data import Dataset, lifetimes
from sparkray.exceptions import ObjectStoreFullError, RaySystemError

LIMIT_S = 60.0
ROWS = 50_000

# One row of everything that Arrow and Spark agree about, with nulls and names that trip Spark.
WIDE = """
    select cast(id as tinyint) b, cast(id as smallint) s, cast(id as int) i, id l, cast(id as float) f, id / 3 d,
           id > 2 bo,
           cast(id / 7 as decimal(38, 18)) de, cast(id as decimal(5, 0)) small_de,
           concat('text ', id) st, cast(concat('bytes ', id) as binary) bi,
           date_add(date'1969-12-30', cast(id as int)) da,
           timestamp'1969-12-31 23:59:59.999999' + make_dt_interval(cast(id as int)) ts,
           timestamp_ntz'0001-01-01 00:00:00.000001' tn, make_dt_interval(cast(id as int), 1, 2, 3.000004) dt,
           array(id, null, 3) ar, array(array(id), null) aa, map('k', id, 'l', null) ma,
           named_struct('x', id, 'y.z`', array('q'), 'y z', named_struct('deep', timestamp'2024-06-01 12:00:00')) sr,
           cast(null as void) nu, cast(null as string) none, if(id % 2 = 0, id, null) some,
           id `dotted.name`, id `back``tick`, id `with space`, id twice, id + 1 twice
    from range(0, 7, 1, 3)
"""


@pytest.fixture(scope="module")
def spark(local_ray: RayContext) -> SparkSession:
    spark = SparkSession(local_ray.sc)
    spark.conf.set("spark.sql.session.timeZone", "Europe/Athens")
    return spark


@pytest.fixture(scope="module")
def numbers(spark: SparkSession) -> DataFrame:
    """Three columns in four partitions."""
    return spark.range(0, ROWS, 1, 4).select("id", (F.col("id") % 7).cast("int").alias("k"), F.rand(1).alias("x"))


def status() -> dict[str, Any]:
    core = session.core()
    core.kick()
    return dict(core.ask(core.raylet_id, "status"))


def wait_until_stored(expected: int, nudge: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while (seen := status())["objects"] != expected or (not expected and seen["store_used"]):
        assert time.monotonic() < deadline, f"{seen['objects']} objects are in the store, not {expected}: {seen}"
        nudge()
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_stays_in_the_store(spark: SparkSession) -> Any:
    yield
    wait_until_stored(0, lambda: forget(spark))


def forget(spark: SparkSession) -> None:
    """Have Python and the JVM collect what nobody refers to."""
    gc.collect()
    spark._jvm.System.gc()  # type: ignore[union-attr]
    lifetimes.let_go()


# ------------------------------------------------------------------------------------------ there
def test_the_rows_come_in_order_and_in_blocks_of_about_the_size(numbers: DataFrame) -> None:
    dataset = sparkray.data.from_spark(numbers, target_block_bytes=100_000)

    assert dataset.count() == ROWS
    assert dataset.num_blocks() >= ROWS * 20 // 100_000
    assert dataset.schema().names == ["id", "k", "x"]
    assert dataset.to_pandas().equals(numbers.toPandas())
    sizes = [table.nbytes for table in sparkray.get(dataset.refs)]
    assert max(sizes) <= 100_000
    assert sum(sizes) == dataset.size_bytes()
    assert status()["objects"] == dataset.num_blocks()


def test_a_partition_is_one_block_if_it_fits(numbers: DataFrame) -> None:
    assert sparkray.data.from_spark(numbers).num_blocks() == 4


def test_a_batch_of_wide_rows_is_several_blocks(spark: SparkSession) -> None:
    wide = spark.range(0, 100, 1, 1).select(F.repeat(F.lit("x"), 10_000).alias("text"))
    dataset = sparkray.data.from_spark(wide, target_block_bytes=200_000)
    assert dataset.count() == 100
    assert 5 <= dataset.num_blocks() <= 10
    assert sparkray.data.from_spark(wide, target_block_bytes=1).num_blocks() == 100
    with pytest.raises(ValueError, match="at least 1"):
        sparkray.data.from_spark(wide, target_block_bytes=0)


def test_tasks_and_actors_work_on_blocks(numbers: DataFrame) -> None:
    @sparkray.remote
    def total(table: pa.Table) -> int:
        return int(table["id"].to_numpy().sum())

    class Holder:
        def __init__(self, share: Dataset) -> None:
            self.frame = share.to_pandas()

        def rows(self) -> int:
            return len(self.frame)

    dataset = sparkray.data.from_spark(numbers)
    assert sum(sparkray.get([total.remote(ref) for ref in dataset.refs])) == sum(range(ROWS))
    holder: Any = sparkray.remote(Holder)
    holders = [holder.remote(share) for share in dataset.split(2)]
    assert sum(sparkray.get([each.rows.remote() for each in holders])) == ROWS


# ------------------------------------------------------------------------------------------ and back
def test_every_type_and_name_survives_the_round_trip(spark: SparkSession) -> None:
    df = spark.sql(WIDE)
    dataset = sparkray.data.from_spark(df)
    back = dataset.to_spark(spark)

    assert dataset.schema().names == df.columns
    assert dataset.schema().field("ts").type == pa.timestamp("us", "Europe/Athens")
    assert back.schema == df.schema
    assert back.collect() == df.collect()


def test_a_dataframe_of_vectors_survives_the_round_trip(spark: SparkSession) -> None:
    df = spark.createDataFrame([(Vectors.dense([1.0, 2.0]),), (Vectors.sparse(3, {1: 2.0}),)], ["v"])
    back = sparkray.data.from_spark(df).to_spark()
    assert back.schema == df.schema
    assert back.collect() == df.collect()


@pytest.mark.skipif("not hasattr(F, 'parse_json')")
def test_variants_survive_the_round_trip(spark: SparkSession) -> None:
    df = spark.sql("""select parse_json('{"a": 1}') v""")
    back = sparkray.data.from_spark(df).to_spark()
    assert back.schema == df.schema
    assert back.selectExpr("variant_get(v, '$.a', 'int') a").collect() == [(1,)]


def test_what_arrow_has_no_type_for_is_refused(spark: SparkSession) -> None:
    for sql in ("select interval 1 month i", "select array(interval '1-2' year to month) i"):
        with pytest.raises(TypeError, match=r"column 'i' is of type .*: cast them"):
            sparkray.data.from_spark(spark.sql(sql))


def test_no_rows_keep_the_schema(spark: SparkSession) -> None:
    for df in (spark.sql(WIDE).filter("l < 0"), spark.createDataFrame([], spark.sql(WIDE).schema)):
        dataset = sparkray.data.from_spark(df)
        full = sparkray.data.from_spark(spark.sql(WIDE))
        assert (dataset.count(), dataset.num_blocks()) == (0, 1)
        assert dataset.schema() == full.schema()
        assert sparkray.get(dataset.refs[0]).schema == full.schema()
        assert dataset.to_spark().schema == df.schema
        assert dataset.to_spark().count() == 0


def test_empty_partitions_make_no_blocks(spark: SparkSession) -> None:
    df = spark.range(0, 100, 1, 10).filter("id >= 95")
    dataset = sparkray.data.from_spark(df)
    assert (dataset.num_blocks(), dataset.take(1)) == (1, [{"id": 95}])
    assert dataset.to_spark().collect() == df.collect()


def test_rows_without_columns_are_counted(numbers: DataFrame) -> None:
    df = numbers.select()
    dataset = sparkray.data.from_spark(df)
    assert dataset.count() == dataset.to_arrow().num_rows == ROWS
    assert (dataset.schema().names, dataset.take(2)) == ([], [{}, {}])
    back = dataset.to_spark()
    assert (back.columns, back.count()) == ([], ROWS)


def test_what_was_made_of_blocks_goes_to_spark_too(numbers: DataFrame) -> None:
    dataset = sparkray.data.from_spark(numbers)
    doubled = dataset.map_batches(lambda batch: batch.assign(y=batch.x * 2), batch_format="pandas").to_spark()
    assert doubled.columns == ["id", "k", "x", "y"]
    assert doubled.filter("y != x * 2").count() == 0
    assert doubled.agg(F.sum("id")).first() == (sum(range(ROWS)),)

    halves = [part.to_spark() for part in dataset.split(7)]
    assert sum(half.count() for half in halves) == ROWS


def test_what_python_made_goes_to_spark_with_types_that_it_has(spark: SparkSession) -> None:
    table = pa.table(
        {
            "ns": pa.array([1_000_000_001], pa.timestamp("ns")),
            "u": pa.array([255], pa.uint8()),
            "d": pa.array(["a"]).dictionary_encode(),
            "l": pa.array([[1]], pa.large_list(pa.uint32())),
        }
    )
    dataset = sparkray.data.from_arrow(table)  # small, so it is in no store
    back = dataset.to_spark(spark)
    assert back.schema.simpleString() == "struct<ns:timestamp_ntz,u:smallint,d:string,l:array<bigint>>"
    row = back.first()
    assert row is not None
    assert (row.ns.microsecond, row.u, row.d, row.l) == (0, 255, "a", [1])
    assert sparkray.data.from_items([{"a": 1}, {"a": None}]).to_spark().collect() == [(1,), (None,)]
    with pytest.raises(TypeError, match="no type"):
        sparkray.data.from_arrow(pa.table({"m": pa.array([None], pa.month_day_nano_interval())})).to_spark()


# ------------------------------------------------------------------------------------------ failures
def test_a_failing_partition_is_spark_s_error_and_leaves_nothing(numbers: DataFrame) -> None:
    def refuse(number: int) -> int:
        if number == ROWS - 1:
            raise ValueError("no such number")
        return number

    in_python = numbers.select(F.udf(refuse, "long", useArrow=False)("id"))
    in_the_jvm = numbers.selectExpr(f"if(id = {ROWS - 1}, raise_error('no such number'), id)")
    # Where a Python UDF fails, Spark 3.5 may tell instead that the worker after it, which is ours, got no more rows;
    # and its Python has classes for few of the JVM's errors.
    said = "no such number|Socket closed" if spark_version.startswith("3.") else "no such number"
    for failing in (in_python, in_the_jvm):
        with pytest.raises((PySparkException, Py4JError), match=said):
            sparkray.data.from_spark(failing, target_block_bytes=10_000)
        wait_until_stored(0)


def test_a_dataframe_larger_than_the_store_goes_to_disk_and_comes_back(spark: SparkSession) -> None:
    big = spark.range(0, 400_000, 1, 4).select("id", F.repeat(F.lit("x"), 1000).alias("text"))  # 400 MB; it has 256
    dataset = sparkray.data.from_spark(big, target_block_bytes=16 << 20)
    assert status()["spilled"]["spilled_bytes"] > 0

    @sparkray.remote
    def total(table: pa.Table) -> tuple[int, int]:
        ids = table["id"].to_numpy()
        return len(ids), int(ids.sum())

    parts = sparkray.get([total.remote(ref) for ref in dataset.refs])
    assert [sum(part) for part in zip(*parts, strict=True)] == [400_000, 400_000 * 399_999 // 2]


def test_a_store_full_of_what_is_being_read_is_told_with_sizes(spark: SparkSession) -> None:
    held = sparkray.get(sparkray.put(np.ones(31 << 20)))  # 248 of 256 MiB, which cannot go to disk while it is read
    big = spark.range(0, 30_000, 1, 1).select(F.repeat(F.lit("x"), 1000).alias("text"))
    with pytest.raises(
        ObjectStoreFullError, match=r"this node's store of 256 MiB has .* is being read.* The DataFrame does not fit"
    ):
        sparkray.data.from_spark(big)
    del held
    wait_until_stored(0)


def test_a_task_s_error_comes_before_any_spark_job(numbers: DataFrame) -> None:
    mapped = sparkray.data.from_spark(numbers).map_batches(lambda batch: batch["no such column"])
    with pytest.raises(KeyError):
        mapped.to_spark()


def test_workers_do_not_move_dataframes(spark: SparkSession) -> None:
    @sparkray.remote
    def convert() -> None:
        from sparkray.data import places

        places.of_session()

    with pytest.raises(RuntimeError, match="by the driver only"):
        sparkray.get(convert.remote())


def test_a_worker_without_a_node_says_so() -> None:
    from sparkray.data.places import Place, Places

    here = session.core()
    nowhere = Places((Place(here.node, here.folder + "-elsewhere", None),), here.token)
    with pytest.raises(RaySystemError, match="has no sparkray node"):
        nowhere.visit()
    assert here.token.hex() not in repr(nowhere)
    assert repr(here.token) not in repr(nowhere)


# ------------------------------------------------------------------------------------------ lifetimes
def test_blocks_live_as_long_as_a_dataframe_that_reads_them(spark: SparkSession, numbers: DataFrame) -> None:
    mapped = sparkray.data.from_spark(numbers).map_batches(lambda batch: batch)
    derived = mapped.to_spark(spark).filter("k = 3").groupBy("k").agg(F.count("*").alias("n"))
    del mapped
    for _ in range(3):
        forget(spark)
        time.sleep(0.1)

    # Not those that they were made of: lost with these, Spark would make them again.
    assert status()["objects"] == 4
    assert derived.collect() == [(3, len(range(3, ROWS, 7)))]
    del derived
    wait_until_stored(0, lambda: forget(spark))
