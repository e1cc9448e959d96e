"""`Dataset`: rows of one schema in Arrow blocks, which lie in the stores of the nodes that made them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparkray.data.core import promised
from sparkray.data.rows import Rows
from sparkray.data.stages import Stage, Step, TaskPoolStrategy

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Dataset", "promised"]


class Dataset(Rows):
    """An immutable list of blocks. Tasks and actors may be passed it; the blocks live as long as anyone refers to them.

    Made by `sparkray.data.from_spark` and its neighbours. What `map_batches` and its neighbours are asked for is done
    when rows are wanted, and then in one go. What `iter_batches`, `take`, `count` and `write_parquet` have computed
    they do not keep; `materialize`, `split`, `sort` and whatever else needs all blocks at once does.
    """

    def to_spark(self, spark: SparkSession | None = None) -> DataFrame:
        """A Spark DataFrame of these rows; its tasks read the blocks from the store of their own executor.

        Blocks that lie elsewhere are fetched, executor to executor. The blocks live as long as the DataFrame, or any
        that was derived from it, can still be computed. After `from_spark` the Spark schema is the one that the data
        had there; else it follows from the Arrow schema.

        Args:
            spark: the active session, if not given.

        Raises:
            RuntimeError: no session is active, or this is no driver.
            TypeError: Spark has no type for a column.
        """
        from sparkray.data.to_spark import to_spark

        return to_spark(self, spark)

    def write_parquet(
        self,
        path: str,
        *,
        filesystem: Any = None,
        partition_cols: Sequence[str] | None = None,
        mode: str = "append",
        concurrency: int | None = None,
        **arguments: Any,
    ) -> None:
        """Write the rows as Parquet files into a folder, one or more for each block, by the tasks that compute them.

        Nothing of it is stored, so what is written may be larger than all stores. A file is there whole or not at all.
        (With `partition_cols`, a task that is run again after a crash may leave a file twice.)

        Args:
            path: of the folder, on a file system that every node sees; it is made if it is not there.
            filesystem: of pyarrow, fsspec or its address; by the path, if not given.
            partition_cols: columns whose values become folders, `key=value`.
            mode: "append" (the default), "overwrite" (the files that were there go when all is written), "ignore"
                (nothing is done if the folder is there) or "error".
            concurrency: how many tasks write at once.
            arguments: of `pyarrow.parquet.write_table`: compression, row_group_size ...

        Raises:
            ValueError: a mode that there is not.
            FileExistsError: mode is "error", and the folder is there.
        """
        from sparkray.data import parquet

        if mode not in ("append", "overwrite", "ignore", "error"):
            raise ValueError(f"mode must be 'append', 'overwrite', 'ignore' or 'error', not {mode!r}")
        files, folder = parquet.filesystem_of(path, filesystem)
        there = files.get_file_info(folder).type.name != "NotFound"
        if there and mode == "ignore":
            return
        if there and mode == "error":
            raise FileExistsError(f"{path} is there already: give mode='append' or 'overwrite', or another path")
        old = parquet.files_in(files, folder) if there and mode == "overwrite" else []
        files.create_dir(folder, recursive=True)
        writer = parquet.Writer(folder, files, uuid.uuid4().hex[:8], tuple(partition_cols or ()), arguments)
        stage = Stage((Step("write_parquet", lambda: writer.write),), {}, TaskPoolStrategy(concurrency))
        for _ in self._then(stage)._each(what="write_parquet"):
            pass
        for file in old:  # the rows may have been read from them
            files.delete_file(file)
