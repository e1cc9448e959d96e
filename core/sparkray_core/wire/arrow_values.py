"""Arrow data <-> IPC streams. pyarrow is imported by the first value that needs it, never before.

pyarrow's own pickles carry the parent's whole buffers for a slice of ten rows; an IPC stream carries the slice.
"""

from __future__ import annotations

import os
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa

# In the schema's metadata, and taken out again by `read`: this stream was a RecordBatch. Others are Tables.
_BATCH_MARK: Final = b"sparkray.record_batch"
_COPY_IN_THREADS: Final = 16 << 20  # bytes; smaller streams are copied before the threads are awake
_COPY_THREADS: Final = max(1, min(4, os.cpu_count() or 1))


class Stream:
    """A Table or RecordBatch whose IPC stream is written where it has to go, not into memory first.

    Attributes:
        size: bytes of the stream.
    """

    __slots__ = ("_data", "_schema", "size")

    def __init__(self, data: Any, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._data, self._schema = data, schema
        sink = pa.MockOutputStream()  # only counts: the columns are not touched
        self._write(sink)
        self.size: int = sink.size()

    def write_to(self, view: memoryview) -> None:
        """Write it to `view`, of exactly `size` bytes. The GIL is released meanwhile."""
        import pyarrow as pa

        sink = pa.FixedSizeBufferWriter(pa.py_buffer(view))
        if self.size >= _COPY_IN_THREADS:
            sink.set_memcopy_threads(_COPY_THREADS)
        self._write(sink)

    def write_to_file(self, fd: int, offset: int) -> None:
        """Write it by system calls, `size` bytes from `offset` on."""
        import pyarrow as pa

        file: Any = _At(fd, offset)  # pyarrow asks for what it uses of a file, its stubs for an io.IOBase
        self._write(pa.PythonFile(file, "w"))

    def read(self) -> memoryview:
        """The stream in memory of its own, read-only."""
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        self._write(sink)
        return memoryview(sink.getvalue()).cast("B").toreadonly()

    def _write(self, sink: Any) -> None:
        import pyarrow as pa

        with pa.RecordBatchStreamWriter(sink, self._schema) as writer:
            writer.write(self._data)


class _At:
    """As much of a file, written from an offset on, as pyarrow asks for."""

    closed = False

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset

    def write(self, data: Any) -> int:
        view = memoryview(data)
        left = view
        while left:  # one call writes 2 GiB at most
            written = os.pwrite(self._fd, left, self._offset)
            left, self._offset = left[written:], self._offset + written
        return len(view)

    def tell(self) -> int:
        return self._offset

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass  # the descriptor is not ours


def stream_of(value: Any) -> Stream | None:
    """The stream of a Table or RecordBatch; None for everything else, and for what only a pickle keeps whole."""
    import pyarrow as pa

    cls = type(value)
    if cls is not pa.Table and cls is not pa.RecordBatch:
        return None
    schema = value.schema
    if any(map(_is_defined_in_python, schema.types)):
        return None
    if cls is pa.RecordBatch:
        schema = schema.with_metadata({**(schema.metadata or {}), _BATCH_MARK: b""})
    try:
        return Stream(value, schema)
    except pa.ArrowException:  # a type that the IPC format has no form for
        return None


def read(stream: Any) -> Any:
    """The Table or RecordBatch of a stream: views of it, no copies."""
    import pyarrow as pa

    reader = pa.RecordBatchStreamReader(pa.py_buffer(stream))
    metadata = reader.schema.metadata
    if not metadata or _BATCH_MARK not in metadata:
        return reader.read_all()
    del metadata[_BATCH_MARK]
    return reader.read_next_batch().replace_schema_metadata(metadata or None)


def reduce(value: Any) -> Any:
    """For Arrow data inside another value: a stream if value is a slice of something larger, or else NotImplemented.

    pyarrow's pickle of what is not a slice borrows its buffers, which is one copy less than a stream.
    """
    import pyarrow as pa

    if not isinstance(value, (pa.Table, pa.RecordBatch, pa.Array, pa.ChunkedArray)):
        return NotImplemented
    try:
        own = value.nbytes
    except pa.ArrowException:  # it cannot tell for every type
        return NotImplemented
    columns = value.num_columns if isinstance(value, (pa.Table, pa.RecordBatch)) else 1
    if columns and value.get_total_buffer_size() - own <= own // 8 + 4096:  # without columns, a pickle forgets the rows
        return NotImplemented
    data: Any = value
    if isinstance(value, pa.ChunkedArray):
        rebuild, data = _read_chunked_array, pa.Table.from_arrays([value], [""])
    elif isinstance(value, pa.Array):
        rebuild, data = _read_array, pa.RecordBatch.from_arrays([value], [""])
    else:
        rebuild = read
    stream = stream_of(data)
    return NotImplemented if stream is None else (rebuild, (PickleBuffer(stream.read()),))


def _read_array(stream: Any) -> Any:
    return read(stream).column(0)


_read_chunked_array = _read_array


def _is_defined_in_python(type_: pa.DataType) -> bool:
    """Extension types written in Python: an IPC stream turns them into plain ones where they are not registered."""
    import pyarrow as pa

    if isinstance(type_, pa.ExtensionType):
        return True
    if not type_.num_fields:
        return False
    inner: list[Any]
    if isinstance(type_, (pa.StructType, pa.UnionType)):
        inner = [type_.field(index).type for index in range(type_.num_fields)]
    else:
        inner = [getattr(type_, name) for name in ("value_type", "key_type", "item_type") if hasattr(type_, name)]
    return any(map(_is_defined_in_python, inner))
