"""Datasets of what the driver has in its own memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sparkray.api import put
from sparkray.data import tables
from sparkray.data.blocks import Block, Source
from sparkray.data.dataset import Dataset, promised
from sparkray.data.execution import capacity
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


def from_arrow(given: pa.Table | Sequence[pa.Table]) -> Dataset:
    """A dataset of one block per table, stored on this node.

    Raises:
        TypeError: not tables.
        ValueError: their schemas differ.
        ObjectStoreFullError: there is no room.
    """
    import pyarrow as pa

    several = [given] if isinstance(given, (pa.Table, pa.RecordBatch)) else list(given)
    several = [pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table for table in several]
    for table in several:
        if not isinstance(table, pa.Table):
            raise TypeError(f"from_arrow() takes pyarrow Tables, not {type(table).__name__}")
        if not table.schema.equals(several[0].schema):
            raise ValueError(f"the tables' schemas differ:\n{several[0].schema}\nand\n{table.schema}")
    blocks = [Block(put(table), 0, table.num_rows, table.nbytes) for table in several]
    return Dataset(blocks, several[0].schema if several else None)


def from_arrow_refs(refs: ObjectRef[pa.Table] | Sequence[ObjectRef[pa.Table]]) -> Dataset:
    """A dataset of the tables that tasks and actors return; it may be made before they are there.

    Raises:
        TypeError: not references. (One that stands for no table is told of when rows are asked for.)
    """
    several = [refs] if isinstance(refs, ObjectRef) else list(refs)
    for ref in several:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"from_arrow_refs() takes ObjectRefs of pyarrow Tables, not {type(ref).__name__}")
    return Dataset([promised(ref) for ref in several])


def from_pandas(frames: pd.DataFrame | Sequence[pd.DataFrame]) -> Dataset:
    """A dataset of one block per frame, stored on this node. Indexes are dropped.

    Raises:
        TypeError: not DataFrames, or a column that Arrow has no type for.
        ValueError, ObjectStoreFullError: as `from_arrow`.
    """
    import pandas as pd

    several = [frames] if isinstance(frames, pd.DataFrame) else list(frames)
    for frame in several:
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"from_pandas() takes pandas DataFrames, not {type(frame).__name__}")
    return from_arrow([tables.from_frame(frame) for frame in several])


def from_items(
    items: Sequence[Any], *, parallelism: int | None = None, override_num_blocks: int | None = None
) -> Dataset:
    """A dataset of rows: dicts are rows by column name, anything else is a row of one column, "item".

    Values that Arrow has no common type for are kept as the Python objects that they are.

    Args:
        override_num_blocks: how many blocks to cut them into; 1 if not given. `parallelism` is its older name.

    Raises:
        ValueError: fewer than one block.
    """
    rows: list[Mapping[Any, Any]] = [item if isinstance(item, Mapping) else {"item": item} for item in items]
    count = wanted_blocks(parallelism, override_num_blocks, 1)
    if not rows:
        return Dataset([], None)
    return from_arrow(_in_parts(tables.from_rows(rows), count))


def from_numpy(arrays: np.ndarray[Any, Any] | Sequence[np.ndarray[Any, Any]]) -> Dataset:
    """A dataset of one column, "data", and one block per array; of an array of several dimensions each row is one.

    Raises:
        TypeError: not arrays.
        ObjectStoreFullError: there is no room.
    """
    import numpy as np

    several = [arrays] if isinstance(arrays, np.ndarray) else list(arrays)
    for array in several:
        if not isinstance(array, np.ndarray) or not array.ndim:
            raise TypeError(f"from_numpy() takes numpy arrays of one dimension or more, not {type(array).__name__}")
    made = [tables.from_columns({"data": array}) for array in several]
    schema = tables.unite([table.schema for table in made])
    return from_arrow([tables.fit(table, schema) for table in made])


def range_(
    n: int, *, parallelism: int | None = None, concurrency: int | None = None, override_num_blocks: int | None = None
) -> Dataset:
    """A dataset of the numbers 0 to n - 1 in a column "id", made when they are needed.

    Args:
        override_num_blocks: two for each CPU, if not given. `parallelism` is its older name.
        concurrency: accepted for Ray's sake.
    """
    import pyarrow as pa

    if n < 0:
        raise ValueError(f"range() takes a number of rows, not {n}")
    cpus, _ = capacity()
    count = wanted_blocks(parallelism, override_num_blocks, max(1, min(int(cpus) * 2, n // 1000)))
    cuts = [n * index // count for index in range(count + 1)]
    pieces = [Source(_Numbers(first, last), last - first) for first, last in pairwise(cuts) if last > first or not n]
    return Dataset(pieces, pa.schema([("id", pa.int64())]))


@dataclass(frozen=True, slots=True)
class _Numbers:
    first: int
    last: int

    def read(self) -> pa.Table:
        import numpy as np

        return tables.from_columns({"id": np.arange(self.first, self.last, dtype=np.int64)})


def wanted_blocks(parallelism: int | None, override_num_blocks: int | None, otherwise: int) -> int:
    given = override_num_blocks if override_num_blocks is not None else parallelism
    if given is None or (override_num_blocks is None and given == -1):
        return otherwise
    if given < 1:
        raise ValueError(f"override_num_blocks must be at least 1, not {given}")
    return given


def _in_parts(table: pa.Table, count: int) -> list[pa.Table]:
    rows = table.num_rows
    cuts = [rows * index // count for index in range(count + 1)]
    return [tables.cut(table, first, last - first) for first, last in pairwise(cuts) if last > first]
