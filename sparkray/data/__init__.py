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
from sparkray.data.from_rdd import from_rdd
from sparkray.data.from_spark import from_spark
from sparkray.data.parquet import read_parquet
from sparkray.data.stages import ActorPoolStrategy, TaskPoolStrategy
from sparkray.data.streams import foreach_batch
from sparkray.data.transfer import DEFAULT_BLOCK_BYTES

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "ActorPoolStrategy",
    "BlockInfo",
    "DataContext",
    "Dataset",
    "TaskPoolStrategy",
    "foreach_batch",
    "from_arrow",
    "from_arrow_refs",
    "from_items",
    "from_numpy",
    "from_pandas",
    "from_rdd",
    "from_spark",
    "range",
    "read_parquet",
]
