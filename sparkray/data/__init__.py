"""DataFrames in the object store: Arrow blocks, one `ObjectRef` each.

blocks = ray.data.from_spark(df)                    # executors -> stores; the driver sees ids only
shares = [train.remote(share) for share in blocks.split(8)]
scored = blocks.map_batches(score, batch_format="pandas").to_spark(spark)
"""

from sparkray.data.build import from_arrow, from_arrow_refs, from_items, from_numpy, from_pandas
from sparkray.data.build import range_ as range
from sparkray.data.context import DataContext
from sparkray.data.core import BlockInfo
from sparkray.data.dataset import Dataset
from sparkray.data.from_spark import DEFAULT_BLOCK_BYTES, from_spark
from sparkray.data.parquet import read_parquet
from sparkray.data.stages import ActorPoolStrategy, TaskPoolStrategy

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "ActorPoolStrategy",
    "BlockInfo",
    "DataContext",
    "Dataset",
    "TaskPoolStrategy",
    "from_arrow",
    "from_arrow_refs",
    "from_items",
    "from_numpy",
    "from_pandas",
    "from_spark",
    "range",
    "read_parquet",
]
