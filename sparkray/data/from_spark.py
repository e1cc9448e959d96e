"""`from_spark`: one pass over a Spark DataFrame, each partition into the store of the executor that computes it."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from sparkray import session
from sparkray.data import lifetimes, places
from sparkray.data.blocks import Block, schema_of
from sparkray.data.dataset import Dataset
from sparkray.data.spark_job import job, own_error
from sparkray_core.errors import NodeDiedError, ObjectStoreFullError, RayError
from sparkray_core.ids import HEAD, NodeId, ObjectId, raylet_of
from sparkray_core.messages import STORED, FreeTransfer
from sparkray_core.run.core import Core

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

DEFAULT_BLOCK_BYTES = 64 << 20

_transfers = itertools.count()
# The counters of a transfer's ids: the highest bit (no task of the driver has it), the transfer, then Spark's number of
# the attempt, which counts every attempt of every task of a SparkContext.
_TRANSFER_BIT, _TRANSFER_BITS, _ATTEMPT_BITS = 1 << 63, 23, 40


def from_spark(df: DataFrame, *, target_block_bytes: int = DEFAULT_BLOCK_BYTES) -> Dataset:
    """The rows of a Spark DataFrame as blocks in the object stores of the executors that compute them.

    One Spark job; only ids and sizes come to the driver. A partition becomes one block or more, in order. A DataFrame
    without rows becomes one empty block, so that the schema is kept.

    Args:
        target_block_bytes: a block ends before it would be larger. Also about what a Python worker of Spark holds in
            memory. An eighth of the node's store, if that is less.

    Raises:
        ObjectStoreFullError: a store has no room for its part.
        TypeError: a column is, or has in it, a year-month interval, for which pyarrow has no type.
        ValueError: target_block_bytes is below 1.
        RaySystemError: an executor has no node of this session, or a node was lost meanwhile.
        Exception: what Spark raises when the DataFrame cannot be computed. Whatever is raised, nothing stays in the
            stores.
    """
    if target_block_bytes < 1:
        raise ValueError(f"target_block_bytes must be at least 1, not {target_block_bytes}")
    _check_types(df)
    lifetimes.let_go()
    where = places.of_session()
    core = session.core()
    number = next(_transfers) % (1 << _TRANSFER_BITS)
    counter = _TRANSFER_BIT | number << _ATTEMPT_BITS
    prefix = core.me + (counter >> _ATTEMPT_BITS).to_bytes(3, "big")

    from sparkray.data.spark_worker import ANSWER, StoreOrder

    order = StoreOrder(where, prefix, tuple(df.columns), target_block_bytes)
    kept: list[ObjectId] = []
    try:
        answers = _renamed(df).mapInArrow(job("store", order), ANSWER).collect()
        _check_nodes(core, {NodeId(bytes(answer.node)) for answer in answers})
        kept = [ObjectId(bytes(answer.object)) for answer in answers]
        blocks = [_block(core, answer) for answer in answers]
    except Exception as error:
        ours = own_error(error)
        if ours is None:
            raise
        raise _explained(ours) from error
    finally:
        # Attempts that failed, that were too late, or that still run: what they store is of no use to anyone.
        for node in _live_nodes(core):
            core.send(raylet_of(node), FreeTransfer(prefix, kept))
    if answers:
        schema = schema_of(next(bytes(answer.schema) for answer in answers if answer.schema is not None))
    else:
        schema = _schema_of(df)
        table = schema.empty_table()
        blocks = [Block(core.put(table), 0, 0, 0)]
    return Dataset(blocks, schema, df.schema.json())


def _check_types(df: DataFrame) -> None:
    for field in df.schema.fields:
        if re.search(r"\binterval (year|month)\b", field.dataType.simpleString()):
            raise TypeError(
                f"column {field.name!r} is of type {field.dataType.simpleString()}, and pyarrow has no type for "
                "year-month intervals: cast them to int or string before from_spark()"
            )


def _renamed(df: DataFrame) -> DataFrame:
    """With names that Spark can move: it fails at a backtick, and mistakes equal names for each other."""
    if df.columns:
        return df.toDF(*(f"c{index}" for index in range(len(df.columns))))
    from pyspark.sql.functions import lit

    return df.select(lit(0).cast("byte").alias("c0"))  # without columns, Spark sends no rows


def _schema_of(df: DataFrame) -> pa.Schema:
    """The Arrow schema that the executors would have sent. (Spark 3.5 says UTC where they say the session's zone.)"""
    import inspect

    from pyspark.sql.pandas.types import to_arrow_schema

    options: dict[str, Any] = {}
    if "timezone" in inspect.signature(to_arrow_schema).parameters:
        options["timezone"] = df.sparkSession.conf.get("spark.sql.session.timeZone")
    return to_arrow_schema(df.schema, **options)


def _block(core: Core, answer: Any) -> Block:
    value = (STORED, answer.size, (NodeId(bytes(answer.node)),))
    return Block(core.known_object(ObjectId(bytes(answer.object)), value), 0, answer.rows, answer.bytes)


def _live_nodes(core: Core) -> set[NodeId]:
    try:
        return {NodeId(facts["node"]) for facts in core.ask(HEAD, "nodes") if facts["alive"]}
    except RayError:  # the session has ended, and its stores with it
        return set()


def _check_nodes(core: Core, used: set[NodeId]) -> None:
    lost = used - _live_nodes(core)
    if lost:
        raise NodeDiedError(
            f"{len(lost)} of the {len(used)} nodes that the DataFrame's blocks were written to ended before all blocks "
            f"were there ({', '.join(node.hex() for node in lost)}): call from_spark() again"
        )


def _explained(error: RayError) -> RayError:
    if isinstance(error, ObjectStoreFullError):
        return ObjectStoreFullError(
            f"{error}. The DataFrame does not fit: select fewer columns or rows, use more executors, or free datasets"
        )
    return error
