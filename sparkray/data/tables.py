"""Tables, rows and columns: what Arrow has no type for, and tables whose schemas differ.

A column of values that Arrow has no common type for holds a pickle of each; its field says so. Arrays of one shape, one
per row, are a column of Arrow's fixed-shape tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

# In the metadata of a field of type large_binary: each value is the pickle of a Python object.
_KIND, _PICKLES = b"sparkray", b"pickles"


def is_pickles(field: pa.Field[Any]) -> bool:
    return field.metadata is not None and field.metadata.get(_KIND) == _PICKLES


def is_tensor(field: pa.Field[Any]) -> bool:
    import pyarrow as pa

    return isinstance(field.type, pa.FixedShapeTensorType)


# ------------------------------------------------------------------------------------------ columns
def to_column(name: str, values: Any) -> tuple[pa.Field[Any], Any]:
    """A column of these values: a list, an array of any dimension, a pandas Series, an Arrow array."""
    import numpy as np
    import pyarrow as pa

    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return pa.field(name, values.type), values
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return _of(name, _tensors(values))
    least = 1  # dimensions of what is made tensors: of a column of lists numpy makes an object array of vectors
    if isinstance(values, np.ndarray) and values.dtype == object:
        values, least = list(values), 2
    if isinstance(values, list) and values and _of_one_shape(values, least):
        return _of(name, _tensors(np.stack(values)))
    try:
        return _of(name, pa.array(values, from_pandas=True))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, ValueError, OverflowError):
        return _pickled(name, values)


def _of(name: str, array: Any) -> tuple[pa.Field[Any], Any]:
    import pyarrow as pa

    return pa.field(name, array.type), array


def _of_one_shape(values: Sequence[Any], least: int) -> bool:
    import numpy as np

    first = values[0]
    if not isinstance(first, np.ndarray) or first.ndim < least or first.dtype == object:
        return False
    return all(isinstance(one, np.ndarray) and (one.shape, one.dtype) == (first.shape, first.dtype) for one in values)


def _tensors(array: np.ndarray[Any, Any]) -> Any:
    """One tensor per row; lists, where Arrow has no tensors of the type, or of none of the rows."""
    import numpy as np
    import pyarrow as pa

    if array.dtype.kind not in "iuf" or 0 in array.shape:
        return pa.array(array.tolist())
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def _pickled(name: str, values: Iterable[Any]) -> tuple[pa.Field[Any], Any]:
    import cloudpickle
    import pyarrow as pa

    array = pa.array([None if one is None else cloudpickle.dumps(one, 5) for one in values], pa.large_binary())
    return pa.field(name, pa.large_binary(), metadata={_KIND: _PICKLES}), array


def to_values(field: pa.Field[Any], column: Any) -> list[Any]:
    """The Python values of a column, as `take` shows them."""
    if is_pickles(field):
        return [None if one is None else pickle.loads(one) for one in column.to_pylist()]
    if is_tensor(field):
        return _rows_of(column)
    values: list[Any] = column.to_pylist()
    return values


def _rows_of(column: Any) -> list[Any]:
    """An array per row, None for a null."""
    if not column.null_count:
        return list(to_ndarray(column))
    shape, valid = tuple(column.type.shape), column.is_valid().to_pylist()
    import numpy as np

    dtype = column.type.value_type.to_pandas_dtype()
    flat = [chunk.storage.to_pylist() for chunk in column.chunks]
    rows = [row for chunk in flat for row in chunk]
    return [np.array(row, dtype).reshape(shape) if there else None for row, there in zip(rows, valid, strict=True)]


def plain(kind: pa.DataType) -> pa.DataType:
    """The type of lists that stands for one of tensors, where tensors are not known."""
    import pyarrow as pa

    if not isinstance(kind, pa.FixedShapeTensorType):
        return kind
    made: pa.DataType = kind.value_type
    for _ in kind.shape:
        made = pa.list_(made)
    return made


def without_tensors(column: Any) -> Any:
    """Tensors as lists of lists."""
    import pyarrow as pa

    if not isinstance(column.type, pa.FixedShapeTensorType):
        return column
    if len(column.type.shape) == 1:
        chunked: Any = pa.chunked_array  # takes any type, whatever its stub says
        return chunked([chunk.storage for chunk in column.chunks], column.type.storage_type)
    rows = [None if row is None else row.tolist() for row in _rows_of(column)]
    return pa.chunked_array([pa.array(rows, plain(column.type))])


def to_ndarray(column: Any) -> np.ndarray[Any, Any]:
    """All tensors of a column without nulls as one array: a view, if they are in one chunk."""
    import numpy as np

    chunks = [chunk.to_numpy_ndarray() for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]  # type: ignore[no-any-return]
    if not chunks:
        return np.empty((0, *column.type.shape), column.type.value_type.to_pandas_dtype())
    return np.concatenate(chunks)


def object_array(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    """One element per value, arrays among them left whole."""
    import numpy as np

    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


# ------------------------------------------------------------------------------------------ rows
def from_columns(columns: Mapping[Any, Any]) -> pa.Table:
    """A table of columns by name, each anything that `to_column` takes."""
    import pyarrow as pa

    made = [to_column(str(name), values) for name, values in columns.items()]
    return pa.Table.from_arrays([column for _, column in made], schema=pa.schema([field for field, _ in made]))


def from_rows(rows: Sequence[Mapping[Any, Any]]) -> pa.Table:
    """A table of dicts; what one lacks and another has is null."""
    import pyarrow as pa

    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        return without_columns(len(rows))
    table = from_columns({name: [row.get(name) for row in rows] for name in names})
    assert isinstance(table, pa.Table)
    return table


def to_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Each row as a dict. Of columns of one name the last counts, as in `pyarrow.Table.to_pylist`."""
    if not table.num_columns:
        return [{} for _ in range(table.num_rows)]
    columns = [to_values(field, column) for field, column in zip(table.schema, table.columns, strict=True)]
    names = table.column_names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def without_columns(rows: int) -> pa.Table:
    import pyarrow as pa

    return pa.table({"": pa.nulls(rows)}).select([])


def cut(table: pa.Table, start: int, rows: int | None = None) -> pa.Table:
    """Rows [start, start + rows), as far as there are any; without copying."""
    if table.num_columns:
        return table.slice(start, rows)
    left = max(0, table.num_rows - start)  # Arrow cuts columns, and then has no rows
    return without_columns(left if rows is None else min(rows, left))


def taken(table: pa.Table, indices: np.ndarray[Any, Any]) -> pa.Table:
    """The rows of these numbers, in this order."""
    return table.take(indices) if table.num_columns else without_columns(len(indices))


# ------------------------------------------------------------------------------------------ pandas
def to_frame(table: pa.Table, split_blocks: bool = False) -> pd.DataFrame:
    """
    Args:
        split_blocks: columns stay apart, so that numbers without nulls are views; else they can be written to.
    """
    odd = [index for index, field in enumerate(table.schema) if is_pickles(field) or is_tensor(field)]
    if not odd:
        return table.to_pandas(split_blocks=split_blocks)
    import pandas as pd

    plain = [index for index in range(table.num_columns) if index not in odd]
    frame = table.select(plain).to_pandas(split_blocks=split_blocks)
    for index in odd:
        values = pd.Series(to_values(table.schema.field(index), table.column(index)), dtype=object)
        frame.insert(index, table.column_names[index], values, allow_duplicates=True)
    return frame


def from_frame(frame: pd.DataFrame) -> pa.Table:
    """Without the index."""
    import pyarrow as pa

    odd = [index for index in range(frame.shape[1]) if _holds_arrays(frame.iloc[:, index])]
    if not odd:
        try:
            return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            odd = list(range(frame.shape[1]))  # by column, so that only the odd ones are pickled
        except ValueError:  # duplicate names
            odd = list(range(frame.shape[1]))
    fields, columns = [], []
    for index, name in enumerate(frame.columns):
        series = frame.iloc[:, index]
        field, column = to_column(str(name), list(series) if series.dtype == object else series)
        fields.append(field)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _holds_arrays(series: pd.Series[Any]) -> bool:
    import numpy as np

    return series.dtype == object and len(series) > 0 and isinstance(series.iloc[0], np.ndarray)


# ------------------------------------------------------------------------------------------ several tables
def unite(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The schema that all of these fit: columns of all, wider types; pickles where no type fits.

    Blocks without rows may have no columns, and one without values has not got its column's type.
    """
    import pyarrow as pa

    several = [schema for schema in schemas if len(schema)]
    if not several:
        return pa.schema([])
    if all(schema.equals(several[0]) for schema in several):
        return several[0]
    try:
        return pa.unify_schemas(several)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    try:
        if not any(is_pickles(field) or is_tensor(field) for schema in several for field in schema):
            return pa.unify_schemas(several, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    return pa.schema([_united(name, several) for name in dict.fromkeys(name for one in several for name in one.names)])


def _united(name: str, schemas: Sequence[pa.Schema]) -> pa.Field[Any]:
    import pyarrow as pa

    fields = [schema.field(name) for schema in schemas if name in schema.names]
    if not any(is_pickles(field) for field in fields):
        lists = [pa.field(name, plain(field.type)) if is_tensor(field) else field for field in fields]
        try:
            united = pa.unify_schemas([pa.schema([field]) for field in lists], promote_options="permissive")
            return united.field(0) if any(field.type != fields[0].type for field in fields) else fields[0]
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            pass
    return pa.field(name, pa.large_binary(), metadata={_KIND: _PICKLES})


def concat(tables: Sequence[pa.Table], schema: pa.Schema | None = None) -> pa.Table:
    """One table of all rows, with `schema` or with the one that all fit. Copies only columns whose types differ."""
    import pyarrow as pa

    schema = unite([table.schema for table in tables]) if schema is None else schema
    filled = [table for table in tables if table.num_rows]
    if not filled:
        return schema.empty_table()
    if len(schema) == 0:  # the rows of a table without columns do not survive a concatenation
        return without_columns(sum(table.num_rows for table in filled))
    return pa.concat_tables([fit(table, schema) for table in filled])


def fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of a schema that `unite` made of its own and others."""
    import pyarrow as pa

    if table.schema.equals(schema):
        return table  # (what Arrow copies of a table without columns has no rows)
    if table.schema.names == schema.names:
        sources: list[int | None] = list(range(len(schema)))
    else:
        sources = [table.schema.get_field_index(name) for name in schema.names]
        sources = [None if index is None or index < 0 else index for index in sources]
    columns = []
    for index, field in zip(sources, schema, strict=True):
        if index is None:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
            continue
        own, column = table.schema.field(index), table.column(index)
        if is_pickles(field) and not is_pickles(own):
            column = pa.chunked_array([_pickled(field.name, to_values(own, column))[1]])
        elif not own.type.equals(field.type):
            column = without_tensors(column).cast(field.type)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)
