"""`from_spark`: one pass over a Spark DataFrame, each partition into the store of the executor that computes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkray.api import put
from sparkray.data.blocks import Block, schema_of
from sparkray.data.build import wanted_blocks
from sparkray.data.dataset import Dataset
from sparkray.data.places import Places
from sparkray.data.repeater import Answer, Rerun
from sparkray.data.spark_job import job
from sparkray.data.spark_types import in_zone
from sparkray.data.transfer import DEFAULT_BLOCK_BYTES, check_block_bytes, transferred

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType


# What pyarrow has no type for, and what it has one for that Spark does not read.
NOT_BACK = ("YearMonthIntervalType", "CalendarIntervalType")


def from_spark(
    df: DataFrame,
    *,
    parallelism: int | None = None,
    override_num_blocks: int | None = None,
    target_block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> Dataset:
    """The rows of a Spark DataFrame as blocks in the object stores of the executors that compute them.

    One Spark job; only ids and sizes come to the driver. A partition becomes one block or more, in order. A DataFrame
    without rows becomes one empty block, so that the schema is kept. Blocks are of attempts that ended well: what
    retried, speculative and failed ones have stored is freed. A block that is lost with its node is made again when
    somebody wants it, by a Spark job that runs its partition and no other. For that the plan of the DataFrame is kept
    for as long as a block is, or something that was computed of one.

    Args:
        override_num_blocks: exactly so many blocks, made in the stores of the blocks that Spark's partitions gave, in
            order; they are cut and joined where they lie. `parallelism` is its older name.
        target_block_bytes: a block ends before it would be larger. Also about what a Python worker of Spark holds in
            memory. An eighth of the node's store, if that is less.

    Raises:
        ObjectStoreFullError: a store has no room for its part.
        TypeError: a column is, or has in it, an interval of months or a calendar interval, which pyarrow cannot bring
            back to Spark. No job has run.
        ValueError: target_block_bytes or a number of blocks is below 1.
        RaySystemError: an executor has no node of this session, or a node was lost meanwhile.
        Exception: what Spark raises when the DataFrame cannot be computed. Whatever is raised, nothing stays in the
            stores.
    """
    check_block_bytes(target_block_bytes)
    count = wanted_blocks(parallelism, override_num_blocks, 0)
    _check_types(df)

    def run(where: Places, prefix: bytes) -> tuple[list[Answer], Rerun | None]:
        from sparkray.data.spark_worker import ANSWER, StoreOrder

        order = StoreOrder(where, prefix, tuple(df.columns), target_block_bytes)
        frame = _renamed(df).mapInArrow(job("store", order), ANSWER)
        answers: list[Answer] = frame.collect()
        # The plan as it was run, so that what its shuffles have written is used again. Spark Connect has no partitions.
        sc = frame.sparkSession.sparkContext if hasattr(frame, "_jdf") else None
        return answers, None if sc is None else Rerun(sc, lambda: frame.rdd)

    blocks, schemas = transferred("from_spark", run)
    if blocks:
        schema = schema_of(schemas[0])
    else:
        schema = _schema_of(df)
        blocks = [Block(put(schema.empty_table()), 0, 0, 0)]
    dataset = Dataset(blocks, schema, df.schema.json())
    return dataset.repartition(count) if count and count != len(blocks) else dataset


def _check_types(df: DataFrame) -> None:
    from pyspark.errors import PySparkValueError

    try:
        fields = df.schema.fields
    except PySparkValueError:
        refused = _not_in_python(df)
        if refused is None:
            raise
        raise _not_back(*refused) from None
    for field in fields:
        if any(type(each).__name__ in NOT_BACK for each in _all(field.dataType)):
            raise _not_back(field.name, field.dataType.simpleString())


def _not_back(column: str, kind: str) -> TypeError:
    return TypeError(
        f"column {column!r} is of type {kind}, and Arrow does not bring year-month and calendar intervals back to "
        "Spark: cast them to int or string before from_spark()"
    )


def _not_in_python(df: DataFrame) -> tuple[str, str] | None:
    """The first column, and its type, for which only the JVM has a class: PySpark 3.5 lacks calendar intervals."""
    from pyspark.errors import PySparkValueError
    from pyspark.sql.types import StructType

    java_frame: Any = getattr(df, "_jdf", None)
    for field in () if java_frame is None else java_frame.schema().fields():
        kind = json.loads(field.dataType().json())
        try:
            StructType.fromJson({"fields": [{"name": "c", "type": kind, "nullable": True, "metadata": {}}]})
        except PySparkValueError:
            return field.name(), field.dataType().simpleString()
    return None


def _all(kind: DataType) -> Iterator[DataType]:
    """A type and all that are in it."""
    from pyspark.sql import types

    yield kind
    inside: list[DataType] = []
    if isinstance(kind, types.ArrayType):
        inside = [kind.elementType]
    elif isinstance(kind, types.MapType):
        inside = [kind.keyType, kind.valueType]
    elif isinstance(kind, types.StructType):
        inside = [field.dataType for field in kind.fields]
    for each in inside:
        yield from _all(each)


def _renamed(df: DataFrame) -> DataFrame:
    """With names that Spark can move: it fails at a backtick, and mistakes equal names for each other."""
    if df.columns:
        return df.toDF(*(f"c{index}" for index in range(len(df.columns))))
    return df.selectExpr("cast(0 as byte) as c0")  # without columns, Spark sends no rows


def _schema_of(df: DataFrame) -> pa.Schema:
    """The Arrow schema that the executors would have sent."""
    import inspect

    from pyspark.sql.pandas.types import to_arrow_schema

    zone = df.sparkSession.conf.get("spark.sql.session.timeZone")
    if "timezone" in inspect.signature(to_arrow_schema).parameters:
        options: dict[str, Any] = {"timezone": zone}
        return to_arrow_schema(df.schema, **options)
    return in_zone(to_arrow_schema(df.schema), str(zone))  # PySpark 3.5 says UTC
