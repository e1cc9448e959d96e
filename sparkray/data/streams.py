"""Structured Streaming into datasets: a micro-batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparkray.data.dataset import Dataset
from sparkray.data.from_spark import from_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def foreach_batch(handler: Callable[[Dataset, int], Any], **options: Any) -> Callable[[DataFrame, int], None]:
    """What `DataStreamWriter.foreachBatch` takes: each micro-batch becomes a dataset, and `handler` is called with it.

        query = stream.writeStream.foreachBatch(ray.data.foreach_batch(handler)).start()

    The dataset is released when the handler returns. Spark runs a micro-batch again after a failure, with the same
    number: who must not do a thing twice remembers the numbers that are done. What the handler raises ends the query,
    and `query.exception()` tells of it.

    Args:
        handler: takes the dataset and the number of the micro-batch.
        options: those of `from_spark`.
    """

    def take(df: DataFrame, number: int) -> None:
        with from_spark(df, **options) as dataset:
            handler(dataset, number)

    return take
