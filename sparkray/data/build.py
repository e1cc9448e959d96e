"""Datasets of what the driver has in its own memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sparkray.api import put
from sparkray.data.blocks import Block
from sparkray.data.dataset import Dataset, promised
from sparkray_core.run.object_ref import ObjectRef

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def from_arrow(tables: pa.Table | Sequence[pa.Table]) -> Dataset:
    """A dataset of one block per table, stored on this node.

    Raises:
        TypeError: not tables.
        ValueError: their schemas differ.
        ObjectStoreFullError: there is no room.
    """
    import pyarrow as pa

    several = [tables] if isinstance(tables, (pa.Table, pa.RecordBatch)) else list(tables)
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
    import pyarrow as pa

    several = [frames] if isinstance(frames, pd.DataFrame) else list(frames)
    for frame in several:
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"from_pandas() takes pandas DataFrames, not {type(frame).__name__}")
    return from_arrow([pa.Table.from_pandas(frame, preserve_index=False) for frame in several])


def from_items(items: Sequence[Any], *, override_num_blocks: int | None = None) -> Dataset:
    """A dataset of rows: dicts are rows by column name, anything else is a row of one column, "item".

    Args:
        override_num_blocks: how many blocks to cut them into; 1 if not given.

    Raises:
        ValueError: fewer than one block, or items that Arrow has no common type for.
    """
    import pyarrow as pa

    count = 1 if override_num_blocks is None else override_num_blocks
    if count < 1:
        raise ValueError(f"override_num_blocks must be at least 1, not {count}")
    rows: list[dict[str, Any]] = [dict(item) if isinstance(item, Mapping) else {"item": item} for item in items]
    if not rows:
        return Dataset([], None)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: [row.get(name) for row in rows] for name in names})
    cuts = [len(rows) * index // count for index in range(count + 1)]
    return from_arrow([table.slice(first, last - first) for first, last in pairwise(cuts) if last > first])
