"""Tables <-> what a user's function of `map_batches` takes and gives: pandas, pyarrow, or a dict of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

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
) -> pa.Table:
    """Call the function on each batch of the table's rows, and join what it returns.

    Args:
        batch_size: rows; the last batch may be shorter. None: all of them at once.
        zero_copy: batches may be read-only views of the store; else the function may write to them.

    Raises:
        TypeError: the function returned something that is no batch.
    """
    import pyarrow as pa

    made = [to_table(function(batch), function) for batch in _batches(table, batch_format, batch_size, zero_copy)]
    return made[0] if len(made) == 1 else pa.concat_tables(made, promote_options="default")


def _batches(table: pa.Table, batch_format: str | None, batch_size: int | None, zero_copy: bool) -> Iterator[Any]:
    size = batch_size or table.num_rows
    for first in range(0, table.num_rows, size):
        yield to_batch(table.slice(first, min(size, table.num_rows - first)), batch_format, zero_copy)


def to_batch(table: pa.Table, batch_format: str | None, zero_copy: bool = False) -> Any:
    if batch_format == "pandas":
        return table.to_pandas(split_blocks=zero_copy)  # else columns of one type are put together, which copies them
    if batch_format == "pyarrow" or batch_format is None:
        return table
    return {name: _array(column, zero_copy) for name, column in zip(table.column_names, table.columns, strict=True)}


def _array(column: pa.ChunkedArray[Any], zero_copy: bool) -> Any:
    """Arrow and numpy agree on one chunk of numbers without nulls; all else is a copy anyhow."""
    array = column.chunk(0).to_numpy(zero_copy_only=False) if column.num_chunks == 1 else column.to_numpy()
    return array if zero_copy or array.flags.writeable else array.copy()


def to_table(batch: Any, function: Callable[[Any], Any]) -> pa.Table:
    """What the user's function returned, whichever of the formats it has."""
    import pyarrow as pa

    if isinstance(batch, pa.Table):
        return batch
    if isinstance(batch, pa.RecordBatch):
        return pa.Table.from_batches([batch])
    if isinstance(batch, Mapping):
        return pa.table({str(name): _column(values) for name, values in batch.items()})
    import pandas as pd

    if isinstance(batch, pd.DataFrame):
        return pa.Table.from_pandas(batch, preserve_index=False)
    name = getattr(function, "__name__", repr(function))
    raise TypeError(
        f"{name} must return a pandas.DataFrame, a pyarrow.Table or a dict of column names and arrays, "
        f"not {type(batch).__name__}"
    )


def _column(values: Any) -> Any:
    if getattr(values, "ndim", 1) > 1:  # Arrow's arrays have one dimension; a row becomes a list
        return list(values)
    return values
