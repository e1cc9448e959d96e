"""Tables <-> what a user's function of `map_batches` takes and gives: pandas, pyarrow, or a dict of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sparkray.data import tables

if TYPE_CHECKING:
    import pyarrow as pa

# Ray's names. Its default is numpy.
FORMATS = ("default", "numpy", "pandas", "pyarrow")


def check_format(name: str | None) -> None:
    """Raises `ValueError` for a format that there is not. None means a block as it is, a pyarrow.Table."""
    if name is not None and name not in FORMATS:
        raise ValueError(f"batch_format must be one of {', '.join(map(repr, FORMATS))} or None, not {name!r}")


def apply(
    function: Callable[[Any], Any],
    table: pa.Table,
    batch_format: str | None,
    batch_size: int | None,
    zero_copy: bool = False,
    name: str | None = None,
) -> pa.Table:
    """Call the function on each batch of the table's rows, and join what it returns, or yields.

    Args:
        batch_size: rows; the last batch may be shorter. None: all of them at once.
        zero_copy: batches may be read-only views of the store; else the function may write to them.
        name: the function's, for the error.

    Raises:
        TypeError: the function returned something that is no batch.
    """
    if name is None:
        name = str(getattr(function, "__name__", ""))
    made: list[pa.Table] = []
    for batch in _batches(table, batch_format, batch_size, zero_copy):
        returned = function(batch)
        several = returned if isinstance(returned, Iterator) else (returned,)
        made += [to_table(one, name) for one in several]
    return made[0] if len(made) == 1 else tables.concat(made)


def _batches(table: pa.Table, batch_format: str | None, batch_size: int | None, zero_copy: bool) -> Iterator[Any]:
    size = batch_size or table.num_rows
    for first in range(0, table.num_rows, size):
        yield to_batch(tables.cut(table, first, size), batch_format, zero_copy)


def to_batch(table: pa.Table, batch_format: str | None, zero_copy: bool = False) -> Any:
    if batch_format == "pandas":
        return tables.to_frame(table, split_blocks=zero_copy)  # else columns of one type are put together: a copy
    if batch_format == "pyarrow" or batch_format is None:
        return table
    return {
        field.name: _array(field, column, zero_copy) for field, column in zip(table.schema, table.columns, strict=True)
    }


def _array(field: pa.Field[Any], column: pa.ChunkedArray[Any], zero_copy: bool) -> Any:
    """Arrow and numpy agree on one chunk of numbers or tensors without nulls; all else is a copy anyhow."""
    if tables.is_tensor(field) and not column.null_count:
        array = tables.to_ndarray(column)
    elif tables.is_tensor(field) or tables.is_pickles(field):
        array = tables.object_array(tables.to_values(field, column))
    elif column.num_chunks == 1:
        array = column.chunk(0).to_numpy(zero_copy_only=False)
    else:
        array = column.to_numpy()
    return array if zero_copy or array.flags.writeable else array.copy()


def to_table(batch: Any, name: str) -> pa.Table:
    """What the user's function of this name returned, whichever of the formats it has."""
    import pyarrow as pa

    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    if isinstance(batch, Mapping):
        return tables.from_columns(batch)
    import pandas as pd

    if isinstance(batch, pd.DataFrame):
        return tables.from_frame(batch)
    raise TypeError(
        f"{name} must return a pandas.DataFrame, a pyarrow.Table or a dict of column names and arrays, "
        f"not {type(batch).__name__}"
    )
