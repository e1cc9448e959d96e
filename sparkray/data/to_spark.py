"""`Dataset.to_spark`: a Spark DataFrame whose tasks read the blocks from the stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sparkray import session
from sparkray.data import places
from sparkray.data.blocks import Block
from sparkray.data.dataset import Dataset
from sparkray.data.lifetimes import keep_alive
from sparkray.data.spark_job import job
from sparkray.data.spark_placing import numbered
from sparkray.data.spark_types import spark_arrow_schema
from sparkray_core.ids import NodeId
from sparkray_core.messages import STORED, Value
from sparkray_core.model.entries import bare
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType


def to_spark(dataset: Dataset, spark: SparkSession | None) -> DataFrame:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import StructType

    spark = spark or SparkSession.getActiveSession()
    if spark is None:
        raise RuntimeError("no SparkSession is active here: pass one, to_spark(spark)")
    blocks = [block for block in dataset._blocks() if block.rows]
    arrow = spark_arrow_schema(_schema(dataset))
    if dataset._spark_schema is not None:
        schema = StructType.fromJson(json.loads(dataset._spark_schema))
    else:
        schema = _schema_of(arrow)
    if not blocks:
        return spark.createDataFrame([], schema)
    moved, sent = _renamed(schema, arrow)
    frame = _read(spark, blocks, moved, sent, _schema(dataset))
    if not schema.fields:
        return frame.select()
    return frame.toDF(*schema.names)


def _schema(dataset: Dataset) -> pa.Schema:
    """With the metadata of the fields, which mark a struct as a variant, say."""
    assert dataset._schema is not None
    return dataset._schema


def _schema_of(arrow: pa.Schema) -> StructType:
    from pyspark.errors import PySparkTypeError
    from pyspark.sql.pandas.types import from_arrow_schema

    try:
        return from_arrow_schema(arrow, prefer_timestamp_ntz=True)
    except PySparkTypeError as error:
        raise TypeError(f"Spark has no type for a column of {arrow}: {error}") from error


def _renamed(schema: StructType, arrow: pa.Schema) -> tuple[StructType, pa.Schema]:
    """With names that Spark can move, and one column at least: Spark drops the rows of none."""
    import pyarrow as pa
    from pyspark.sql.types import ByteType, StructField, StructType

    if not schema.fields:
        return StructType([StructField("c0", ByteType())]), pa.schema([("c0", pa.int8())])
    names = [f"c{index}" for index in range(len(schema.fields))]
    fields = [
        StructField(name, old.dataType, old.nullable, old.metadata)
        for name, old in zip(names, schema.fields, strict=True)
    ]
    return StructType(fields), pa.schema([old.with_name(name) for name, old in zip(names, arrow, strict=True)])


def _read(
    spark: SparkSession, blocks: list[Block], schema: StructType, arrow: pa.Schema, stored: pa.Schema
) -> DataFrame:
    from sparkray.data.spark_worker import LoadOrder, Piece

    core = session.core()
    refs = [block.ref for block in blocks]
    pieces = []
    for block, value in zip(blocks, _values(core, refs), strict=True):
        nodes: tuple[NodeId, ...] = ()
        if isinstance(value, tuple) and value[0] == STORED:
            _, _, nodes = value
            value = None
        pieces.append(Piece(block.ref._entry.id, tuple(nodes), value, block.start, block.rows))
    order = LoadOrder(
        places.of_session(), tuple(pieces), _bytes(arrow), _bytes(stored), core.settings.lost_block_wait_s
    )
    frame = numbered(spark, [piece.nodes for piece in pieces])
    frame = frame.mapInArrow(job("load", order), schema)
    keep_alive(frame, refs)
    return frame


def _bytes(schema: pa.Schema) -> bytes:
    return schema.serialize().to_pybytes()


def _values(core: Core, refs: list[ObjectRef[Any]]) -> list[Value | None]:
    """Where each block is, or what, if it is small. Raises what it holds, if that is a failure."""
    entries = [ref._entry for ref in refs]
    core.wait(entries, len(entries), None)
    found: list[Value | None] = []
    for entry in entries:
        value = entry.value
        assert value is not None
        value = bare(value)
        if not isinstance(value, bytes) and value[0] != STORED:
            core.load(entry)
        found.append(value)
    return found
