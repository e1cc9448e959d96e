"""DataFrames in the object store: Arrow blocks, one `ObjectRef` each.

blocks = ray.data.from_spark(df)                    # executors -> stores; the driver sees ids only
shares = [train.remote(share) for share in blocks.split(8)]
scored = blocks.map_batches(score, batch_format="pandas").to_spark(spark)
"""

from sparkray.data.build import from_arrow, from_arrow_refs, from_items, from_pandas
from sparkray.data.dataset import Dataset
from sparkray.data.from_spark import DEFAULT_BLOCK_BYTES, from_spark

__all__ = ["DEFAULT_BLOCK_BYTES", "Dataset", "from_arrow", "from_arrow_refs", "from_items", "from_pandas", "from_spark"]
