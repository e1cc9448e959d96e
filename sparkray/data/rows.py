"""The rows of a dataset, in the process that asks for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkray.api import get
from sparkray.data import batches, tables
from sparkray.data.ahead import ahead
from sparkray.data.batching import Batcher, Shuffler
from sparkray.data.core import tables_of
from sparkray.data.rearranging import Rearranging

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS_AT_A_TIME = 1024  # that iter_rows turns into Python objects


class Rows(Rearranging):
    """Reading. Blocks of this node are read in place; others are fetched, each once."""

    def to_arrow(self) -> pa.Table:
        """All rows as one table: views of the blocks that lie on this node, copies of those that do not.

        Raises:
            ObjectLostError: the node that had a block is gone.
            RayTaskError: the task that was to make a block raised.
        """
        return self._joined(tables_of(self._blocks()))

    def to_pandas(self, limit: int | None = None) -> pd.DataFrame:
        """All rows as one DataFrame, in this process's memory. Raises like `to_arrow`.

        Args:
            limit: `ValueError` if there are more rows than that.
        """
        if limit is not None and (rows := self.count()) > limit:
            raise ValueError(f"the dataset has {rows} rows, more than the limit of {limit}: take limit({limit}) of it")
        return tables.to_frame(self.to_arrow())

    def take(self, limit: int = 20) -> list[dict[str, Any]]:
        """The first rows, as dicts. Only the blocks that they lie in are computed and read."""
        if limit < 0:
            raise ValueError(f"limit must not be negative, it is {limit}")
        rows: list[dict[str, Any]] = []
        if limit:
            for table in self._tables(at_first=1, what="take"):
                rows += tables.to_rows(tables.cut(table, 0, limit - len(rows)))
                if len(rows) >= limit:
                    break
        return rows

    def take_all(self, limit: int | None = None) -> list[dict[str, Any]]:
        """All rows, as dicts.

        Args:
            limit: `ValueError` if there are more.
        """
        rows: list[dict[str, Any]] = []
        for table in self._tables(what="take_all"):
            if limit is not None and len(rows) + table.num_rows > limit:
                raise ValueError(f"the dataset has more rows than the limit of {limit}")
            rows += tables.to_rows(table)
        return rows

    def take_batch(self, batch_size: int = 20, *, batch_format: str | None = "default") -> Any:
        """The first rows as one batch. Raises `ValueError` if there are none."""
        batches.check_format(batch_format)
        found: list[pa.Table] = []
        rows = 0
        for table in self._tables(at_first=1, what="take_batch"):
            found.append(tables.cut(table, 0, batch_size - rows))
            rows += found[-1].num_rows
            if rows >= batch_size:
                break
        if not rows:
            raise ValueError("the dataset has no rows")
        return batches.to_batch(tables.concat(found), batch_format)

    def show(self, limit: int = 20) -> None:
        """Print the first rows, one dict a line."""
        for row in self.take(limit):
            sys.stdout.write(f"{row}\n")

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Each row as a dict. Blocks are computed a few ahead, as many as fit in a part of the store."""
        for table in ahead(self._tables(what="iter_rows"), 1):
            for first in range(0, table.num_rows, ROWS_AT_A_TIME):
                yield from tables.to_rows(tables.cut(table, first, ROWS_AT_A_TIME))

    def iter_batches(
        self,
        *,
        prefetch_batches: int = 1,
        batch_size: int | None = 256,
        batch_format: str | None = "default",
        drop_last: bool = False,
        local_shuffle_buffer_size: int | None = None,
        local_shuffle_seed: int | None = None,
        _collate_fn: Any = None,
    ) -> Iterator[Any]:
        """Batches of rows, across blocks, in order.

        Blocks are computed a few ahead, as many as fit in a part of the store, and let go of when they were read: a
        dataset may be larger than the store.

        Args:
            prefetch_batches: batches that a thread of this process has ready; 0: none, and no thread.
            batch_size: rows; only the last batch has fewer. None: a block is a batch.
            batch_format: as in `map_batches`.
            drop_last: leave a shorter last batch out.
            local_shuffle_buffer_size: rows, at least, among which those of a batch are chosen at random.
            local_shuffle_seed: makes that repeatable.

        Raises:
            ValueError: a size below 1, or a format that there is not.
        """
        batches.check_format(batch_format)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 row, not {batch_size}")
        if local_shuffle_buffer_size is not None and batch_size is None:
            raise ValueError("local_shuffle_buffer_size needs a batch_size")
        if prefetch_batches < 0:
            raise ValueError(f"prefetch_batches must not be negative, it is {prefetch_batches}")
        batcher: Batcher | Shuffler = Batcher(batch_size)
        if local_shuffle_buffer_size is not None and batch_size is not None:
            batcher = Shuffler(batch_size, local_shuffle_buffer_size, local_shuffle_seed)

        def formatted() -> Iterator[Any]:
            for table in batcher.cut(self._tables(what="iter_batches"), drop_last):
                batch = batches.to_batch(table, batch_format)
                yield batch if _collate_fn is None else _collate_fn(batch)

        return ahead(formatted(), prefetch_batches)

    def to_pandas_refs(self) -> list[Any]:
        """One reference per block, each a DataFrame."""
        return self._converted("to_pandas", tables.to_frame)

    def to_numpy_refs(self, *, column: str | None = None) -> list[Any]:
        """One reference per block, each a dict of arrays by column; or one column's array."""

        def convert(table: pa.Table) -> Any:
            batch = batches.to_batch(table, "numpy", zero_copy=True)
            return batch if column is None else batch[column]

        if column is not None and self._schema is not None and column not in self._schema.names:
            raise KeyError(f"there is no column {column!r}; there are {', '.join(map(repr, self._schema.names))}")
        return self._converted("to_numpy", convert)

    def _converted(self, name: str, convert: Any) -> list[Any]:
        from sparkray.options import Options
        from sparkray.remote_function import RemoteFunction

        task: RemoteFunction[..., Any] = RemoteFunction(lambda table: convert(table), Options(name=name))
        return [task.remote(ref) for ref in self.refs]

    def _tables(self, at_first: int | None = None, what: str = "blocks") -> Iterator[pa.Table]:
        """The blocks that have rows, one after the other, with the columns of all."""
        schema = self._schema
        for block in self._each(at_first, what):
            if block.rows:
                table = block.of(get(block.ref))
                yield table if schema is None else tables.fit(table, schema)
