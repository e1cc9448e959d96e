"""A DataFrame of one number per block, whose tasks Spark would rather run on the executor that has the block."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparkray import session
from sparkray_core.ids import NodeId

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


log = logging.getLogger(__name__)


def numbered(spark: SparkSession, nodes: Sequence[Sequence[NodeId]]) -> DataFrame:
    """One partition per block, of the block's number.

    Spark waits `spark.locality.wait` (3 s) for the executor that has a block before another reads it from there. In
    local mode, in Spark Connect, and where executors could not be told apart, it places tasks as it likes.

    Args:
        nodes: that have each block.
    """
    names = _executors()
    if names and hasattr(spark, "_jsparkSession"):
        from py4j.protocol import Py4JError

        try:
            return placed(spark, [[names[node] for node in each if node in names] for each in nodes])
        except Py4JError as error:  # a session that hides its JVM, as some shared clusters have
            log.info(
                "Spark cannot be told where blocks lie, and places the tasks that read them as it likes: %s", error
            )
    return spark.range(0, len(nodes), 1, len(nodes))


def _executors() -> dict[NodeId, str]:
    """How Spark calls the executor of each node, as a place for tasks."""
    executors: Sequence[Any] = getattr(session.current(), "executors", ())
    return {
        NodeId(each.node): f"executor_{each.executor.rpartition(':')[0]}_{each.executor_id}"
        for each in executors
        if each.executor_id
    }


def placed(spark: SparkSession, places: Sequence[Sequence[str]]) -> DataFrame:
    """The same, each with the places that Spark is to prefer, as `executor_<host>_<id>`."""
    from pyspark.sql import DataFrame
    from pyspark.sql.types import IntegerType, StructField, StructType

    jvm: Any = spark._jvm
    gateway: Any = spark.sparkContext._gateway
    preferred: dict[tuple[str, ...], Any] = {}
    rows = []
    for number, where in enumerate(places):
        values = gateway.new_array(jvm.java.lang.Object, 1)
        values[0] = number  # an Integer, on the other side
        key = tuple(where)
        if key not in preferred:
            preferred[key] = jvm.PythonUtils.toSeq(list(key))
        rows.append(jvm.scala.Tuple2(jvm.org.apache.spark.sql.RowFactory.create(values), preferred[key]))
    tag = jvm.scala.reflect.ClassTag.apply(jvm.java.lang.Class.forName("java.lang.Object"))
    java_context: Any = spark.sparkContext._jsc
    rdd = java_context.sc().makeRDD(jvm.PythonUtils.toSeq(rows), tag)
    session_: Any = spark._jsparkSession
    schema = StructType([StructField("id", IntegerType(), False)])
    return DataFrame(session_.createDataFrame(rdd.toJavaRDD(), session_.parseDataType(schema.json())), spark)
