"""Tables of any length into batches of so many rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparkray.data import tables

if TYPE_CHECKING:
    import pyarrow as pa


class Batcher:
    """In order. Rows are copied only where a batch has rows of two tables, and then by whoever reads it."""

    def __init__(self, size: int | None) -> None:
        self._size = size

    def cut(self, several: Iterator[pa.Table], drop_last: bool) -> Iterator[pa.Table]:
        size = self._size
        if size is None:
            yield from several
            return
        gathered: list[pa.Table] = []
        rows = 0
        for table in several:
            first = 0
            while rows + table.num_rows - first >= size:
                gathered.append(tables.cut(table, first, size - rows))
                first += size - rows
                yield _one(gathered)
                gathered, rows = [], 0
            if first < table.num_rows:
                gathered.append(tables.cut(table, first))
                rows += table.num_rows - first
            del table  # or it lives on while the next one is made
        if rows and not drop_last:
            yield _one(gathered)


class Shuffler:
    """Each batch is of rows chosen at random among those that are there: a few more than `buffer`, or all."""

    def __init__(self, size: int, buffer: int, seed: int | None) -> None:
        if buffer < 1:
            raise ValueError(f"local_shuffle_buffer_size must be at least 1 row, not {buffer}")
        self._size, self._buffer, self._seed = size, max(buffer, size), seed

    def cut(self, several: Iterator[pa.Table], drop_last: bool) -> Iterator[pa.Table]:
        import numpy as np

        dice = np.random.default_rng(self._seed)
        gathered: list[pa.Table] = []
        rows = 0
        for table in several:
            gathered.append(table)
            rows += table.num_rows
            if rows < self._buffer + self._size:
                continue
            mixed = tables.taken(_one(gathered), dice.permutation(rows))
            first = 0
            while rows >= self._buffer + self._size:
                yield tables.cut(mixed, first, self._size)
                first += self._size
                rows -= self._size
            gathered = [tables.cut(mixed, first)]
        if rows:
            mixed = tables.taken(_one(gathered), dice.permutation(rows))
            yield from Batcher(self._size).cut(iter([mixed]), drop_last)


def _one(several: list[pa.Table]) -> pa.Table:
    return several[0] if len(several) == 1 else tables.concat(several)
