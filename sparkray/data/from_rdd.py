"""`from_rdd`: one pass over an RDD, each partition into the store of the executor that computes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sparkray.data import tables
from sparkray.data.blocks import schema_of
from sparkray.data.build import wanted_blocks
from sparkray.data.dataset import Dataset
from sparkray.data.places import Places
from sparkray.data.repeater import Answer, Rerun
from sparkray.data.spark_job import job
from sparkray.data.transfer import DEFAULT_BLOCK_BYTES, check_block_bytes, transferred

if TYPE_CHECKING:
    from pyspark import RDD


def from_rdd(
    rdd: RDD[Any],
    *,
    parallelism: int | None = None,
    override_num_blocks: int | None = None,
    target_block_bytes: int = DEFAULT_BLOCK_BYTES,
) -> Dataset:
    """The records of an RDD as blocks in the object stores of the executors that compute them.

    A dict, `Row` or named tuple is a row by its names; any other record is a row of one column, "item". Values that
    Arrow has no common type for are kept as the Python objects that they are. The arguments, what is raised, and what
    is left behind are as in `from_spark`; an RDD without records has no schema.
    """
    check_block_bytes(target_block_bytes)
    count = wanted_blocks(parallelism, override_num_blocks, 0)

    def run(where: Places, prefix: bytes) -> tuple[list[Answer], Rerun]:
        from sparkray.data.spark_worker import StoreOrder

        order = StoreOrder(where, prefix, (), target_block_bytes)
        stored = rdd.mapPartitions(job("store_rows", order))
        return [SimpleNamespace(**answer) for answer in stored.collect()], Rerun(rdd.context, lambda: stored)

    blocks, schemas = transferred("from_rdd", run)
    dataset = Dataset(blocks, tables.unite([schema_of(schema) for schema in schemas]))
    return dataset.repartition(count) if count and count != len(blocks) else dataset
