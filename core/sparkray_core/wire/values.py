"""User values <-> parts: what travels in messages and lies in the store.

A value is a *kind* and *parts*. Part 0 is a pickle stream, the others are the raw buffers it took out of band, in
order. An Arrow table or record batch is one IPC stream instead. The same parts take two shapes:

    inline   in a message    bytes (one-part PICKLE), else (kind, part 0, part 1, ...)
    stored   in the segment  header, then the parts, each at a multiple of 64 bytes, read in place

Buffers are borrowed from the value, not copied, until `to_inline` or `write_to`: whoever promises a snapshot of the
value calls one of the two before control returns to the user.

Refs inside a value: their `__reduce__` calls `note_ref`, their rebuilding function `found_ref`.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Sequence
from pickle import PickleBuffer, dumps, loads
from typing import Any, Final, TypeAlias

from sparkray_core.errors import ActorHandleNotFoundError, UnknownOwnerError
from sparkray_core.wire import arrow_values
from sparkray_core.wire.pickling import (
    ATOMS,
    CONTAINERS,
    PLAIN_ITEMS,
    Reduced,
    dump,
    has_reducer,
    is_plain,
    reduce_array,
)
from sparkray_core.wire.unpicklable import explain

# Plain ints: they go into messages, whose decoder refuses every class, IntEnum too.
PICKLE: Final = 0
ARROW: Final = 1
ERROR: Final = 2  # a pickle as well, of the exception that the reader is to raise
KINDS: Final = frozenset({PICKLE, ARROW, ERROR})

ALIGNMENT: Final = 64  # bytes: a cache line, and what Arrow and numpy's vector loops like best
BYTES_OUT_OF_BAND: Final = 64 << 10  # bytes; above it, one copy saved on the way in is worth a second part
COPY_WITHOUT_GIL: Final = 1 << 20  # bytes; below it (0.1 ms of copying), importing numpy is not worth it

Part: TypeAlias = "bytes | memoryview"
Inline: TypeAlias = "bytes | tuple[Any, ...]"
Copy: TypeAlias = "Callable[[list[tuple[int, Part]]], None]"

_PAGE: Final = 4096  # bytes; a large object starts at a page of the segment
_MAGIC: Final = b"spr1"
_HEADER: Final = struct.Struct("<4sIQ")  # magic, kind, number of parts; then (offset, length) of each as two u64
_SPAN: Final = struct.Struct("<QQ")


class _Here(threading.local):
    """Who, in this thread, wants to hear of refs. None: nobody."""

    noting: list[Any] | None = None
    on_ref: Callable[[Any], None] | None = None


_here = _Here()


def note_ref(ref: Any) -> bool:
    """An ObjectRef or handle is being pickled. False: not by `serialize`, so nobody will count the copy."""
    noting = _here.noting
    if noting is None:
        return False
    noting.append(ref)
    return True


def found_ref(ref: Any) -> bool:
    """An ObjectRef or handle was unpickled. False: nobody here keeps track of it."""
    on_ref = _here.on_ref
    if on_ref is None:
        return False
    on_ref(ref)
    return True


class Serialized:
    """A value, ready to travel. Immutable but for `kind`, which the sender of an exception sets to ERROR.

    Attributes:
        kind: PICKLE, ARROW or ERROR.
        refs: the ObjectRefs and handles inside, in order of pickling; one that is pickled twice may be in it twice.
        size: bytes of all parts, without padding.
    """

    __slots__ = ("_parts", "kind", "refs", "size", "stream")

    def __init__(
        self, kind: int, parts: list[Part], refs: list[Any], size: int, stream: arrow_values.Stream | None = None
    ) -> None:
        self.kind = kind
        self._parts = parts
        self.refs = refs
        self.size = size
        self.stream = stream

    @property
    def parts(self) -> list[Part]:
        """Read-only, contiguous, one byte per item. Of an ARROW value made here, not before: `write_to` needs none."""
        if self.stream is not None and not self._parts:
            self._parts.append(self.stream.read())
        return self._parts


def serialize(value: object) -> Serialized:
    """Pickle a value, with its buffers (numpy, pandas, Arrow, large bytes) borrowed, not copied.

    Functions and classes of `__main__` and of interactive use go by value, others by reference.

    Raises:
        TypeError: the value, or something in it, cannot be pickled; the text names both.
    """
    cls = type(value)
    if cls in ATOMS:
        if cls is bytes and len(value) >= BYTES_OUT_OF_BAND:  # type: ignore[arg-type]
            return _out_of_band((bytes, (PickleBuffer(value),)))  # type: ignore[arg-type]
        data = dumps(value, 5)
        return Serialized(PICKLE, [data], [], len(data))
    if cls in CONTAINERS and len(value) <= PLAIN_ITEMS and is_plain(value, 2):  # type: ignore[arg-type]
        data = dumps(value, 5)
        return Serialized(PICKLE, [data], [], len(data))
    if cls is bytearray and len(value) >= BYTES_OUT_OF_BAND:  # type: ignore[arg-type]
        return _out_of_band((bytearray, (PickleBuffer(value),)))  # type: ignore[arg-type]
    module = cls.__module__
    if module == "numpy" and (reduced := reduce_array(value)) is not NotImplemented:
        return _out_of_band(reduced)
    if module == "pyarrow.lib" and (stream := _arrow_stream(value)) is not None:
        return Serialized(ARROW, [], [], stream.size, stream)
    buffers: list[PickleBuffer] = []
    data, refs = _pickle(value, buffers)
    return _assemble(data, buffers, refs)


def serialize_in_band(value: object) -> tuple[bytes, list[Any]]:
    """One pickle with everything in it, and the refs found: for functions and classes, which are kept as one blob.

    Raises:
        TypeError: as `serialize`.
    """
    return _pickle(value, None)


def serialize_error(error: BaseException) -> Serialized:
    """Like `serialize`; whoever reads it raises it instead of returning it."""
    serialized = serialize(error)
    serialized.kind = ERROR
    return serialized


def deserialize(kind: int, parts: Sequence[Part], on_ref: Callable[[Any], None] | None = None) -> Any:
    """The value of `parts`; for ERROR the exception, not raised.

    Arrays and tables are read-only views of the parts, and keep them alive. What the parts are views of must therefore
    not be resized or closed by hand as long as the value lives.

    Args:
        on_ref: called with each ObjectRef or handle that comes to life in it.

    Raises:
        ValueError: a kind that this version does not know.
        BaseException: whatever the unpickling of the user's classes raises.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind} of serialized value is not known here; both ends must run the same sparkray")
    if kind == ARROW:
        return arrow_values.read(parts[0])
    outer = _here.on_ref
    if on_ref is None and outer is None:
        return loads(parts[0]) if len(parts) == 1 else _loads(parts)
    _here.on_ref = on_ref  # not `outer`: a value that is read within the reading of another keeps its refs to itself
    try:
        return _loads(parts)
    finally:
        _here.on_ref = outer


def deserialize_with_refs(kind: int, parts: Sequence[Part]) -> tuple[Any, list[Any]]:
    """`deserialize`, and the ObjectRefs and handles found on the way."""
    refs: list[Any] = []
    return deserialize(kind, parts, refs.append), refs


def _loads(parts: Sequence[Part]) -> Any:
    if len(parts) == 1:
        return loads(parts[0])
    return loads(
        parts[0], buffers=[part if type(part) is bytes else memoryview(part).toreadonly() for part in parts[1:]]
    )


# ---- pickling ----


def _arrow_stream(value: Any) -> arrow_values.Stream | None:
    return None if has_reducer(type(value)) else arrow_values.stream_of(value)


def _out_of_band(reduced: Any) -> Serialized:
    """For what needs no cloudpickle and holds no refs."""
    buffers: list[PickleBuffer] = []
    return _assemble(dumps(Reduced(reduced), 5, buffer_callback=buffers.append), buffers, [])


def _assemble(data: bytes, buffers: list[PickleBuffer], refs: list[Any]) -> Serialized:
    if not buffers:
        return Serialized(PICKLE, [data], refs, len(data))
    parts: list[Part] = [data]
    parts += [buffer.raw().toreadonly() for buffer in buffers]
    return Serialized(PICKLE, parts, refs, sum(map(len, parts)))


def _pickle(value: object, buffers: list[PickleBuffer] | None) -> tuple[bytes, list[Any]]:
    """The stream and the refs found; the buffers are added to `buffers`, or with None put into the stream."""
    refs: list[Any] = []
    outer = _here.noting
    _here.noting = refs
    try:
        return dump(value, buffers), refs
    except (MemoryError, UnknownOwnerError, ActorHandleNotFoundError):  # the last two: of an earlier session
        raise
    except Exception as error:  # the user's __reduce__ and __getstate__ run in there
        raise TypeError(explain(value, error, lambda inner: dump(inner, []))) from error
    finally:
        _here.noting = outer


# ---- inline ----


def to_inline(serialized: Serialized) -> Inline:
    """The form for messages: primitives only, and a copy, so that the value may change from now on."""
    parts = serialized._parts
    if len(parts) == 1 and serialized.kind == PICKLE:
        return bytes(parts[0])  # bytes(bytes) is no copy
    return (serialized.kind, *map(bytes, serialized.parts))


def from_inline(inline: Inline, on_ref: Callable[[Any], None] | None = None) -> Any:
    """The value; see `deserialize`."""
    if type(inline) is bytes:
        outer = _here.on_ref
        if on_ref is outer:
            return loads(inline)
        _here.on_ref = on_ref
        try:
            return loads(inline)
        finally:
            _here.on_ref = outer
    return deserialize(inline[0], inline[1:], on_ref)  # type: ignore[arg-type]


def from_inline_with_refs(inline: Inline) -> tuple[Any, list[Any]]:
    """`from_inline`, and the ObjectRefs and handles found on the way."""
    refs: list[Any] = []
    return from_inline(inline, refs.append), refs


# ---- stored ----


def _spans(serialized: Serialized) -> tuple[list[tuple[int, int]], int]:
    """(offset, length) of each part, and the bytes of everything.

    A large part lies in its page where it lies at its source. Where it would lie a few bytes further on, a processor
    takes the next load for one of the bytes that were just stored, so the C library does not write past the caches:
    at a third of the speed.
    """
    parts: Sequence[Part] = serialized.parts if serialized.stream is None else ()
    lengths = [len(part) for part in parts] if serialized.stream is None else [serialized.size]
    end = _HEADER.size + _SPAN.size * len(lengths)
    spans = []
    for index, length in enumerate(lengths):
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        if length >= COPY_WITHOUT_GIL and parts:
            offset += (_address(parts[index]) // ALIGNMENT * ALIGNMENT - offset) % _PAGE
        spans.append((offset, length))
        end = offset + length
    return spans, end


def _address(part: Part) -> int:
    import numpy as np

    return int(np.frombuffer(part, np.uint8).ctypes.data)


def segment_size(serialized: Serialized) -> int:
    """Bytes that `write_to` needs: the parts, the header and the padding between."""
    return _spans(serialized)[1]


def write_to(view: memoryview, serialized: Serialized, copy: Copy | None = None) -> None:
    """Write the stored form to the start of `view`, which is writable and itself 64-byte aligned. May release the GIL.

    The header is written last: what a killed writer leaves behind is no value.

    Args:
        copy: takes the parts of `COPY_WITHOUT_GIL` bytes and more, each with its offset in `view`; for who knows a
            faster way than numpy in one thread.

    Raises:
        ValueError: `view` is smaller than `segment_size`; nothing was written.
    """
    spans, size = _spans(serialized)
    if len(view) < size:
        raise ValueError(f"the value takes {size} bytes, the space given to it has {len(view)}")
    view[: _HEADER.size] = bytes(_HEADER.size)
    if serialized.stream is not None:
        offset, length = spans[0]
        serialized.stream.write_to(view[offset : offset + length])
    else:
        large: list[tuple[int, Part]] = []
        for (offset, length), part in zip(spans, serialized.parts, strict=True):
            if length < COPY_WITHOUT_GIL:
                view[offset : offset + length] = part
            elif copy is None:
                _copy(view[offset : offset + length], part)
            else:
                large.append((offset, part))
        if copy is not None and large:
            copy(large)
    for index, span in enumerate(spans):
        _SPAN.pack_into(view, _HEADER.size + index * _SPAN.size, *span)
    _HEADER.pack_into(view, 0, _MAGIC, serialized.kind, len(spans))


def write_to_file(fd: int, start: int, serialized: Serialized) -> None:
    """Write the stored form into a file, at `start`, which is a multiple of 64, by system calls.

    For a process that writes much once and ends: pages that nobody has written to yet cost half the CPU this way (0.4
    instead of 0.9 s per GB), and are never counted as memory of this process. Otherwise as `write_to`.

    Raises:
        OSError: ENOSPC, where the file is on a disk.
    """
    spans, _ = _spans(serialized)
    _write_at(fd, bytes(_HEADER.size), start)
    if serialized.stream is not None:
        serialized.stream.write_to_file(fd, start + spans[0][0])
    else:
        for (offset, _), part in zip(spans, serialized.parts, strict=True):
            _write_at(fd, part, start + offset)
    _write_at(fd, b"".join(_SPAN.pack(*span) for span in spans), start + _HEADER.size)
    _write_at(fd, _HEADER.pack(_MAGIC, serialized.kind, len(spans)), start)


def _write_at(fd: int, part: Part, offset: int) -> None:
    view = memoryview(part)
    while view:  # one call writes 2 GiB at most
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _copy(into: memoryview, part: Part) -> None:
    import numpy as np

    np.copyto(np.frombuffer(into, np.uint8), np.frombuffer(part, np.uint8))


def read_from(view: memoryview) -> tuple[int, list[memoryview]]:
    """The kind and the parts of a stored value, as read-only views of `view`: nothing is copied.

    Raises:
        ValueError: there is no value at the start of `view`, or it is larger than `view`.
    """
    if len(view) < _HEADER.size:
        raise ValueError(f"no stored value here: {len(view)} bytes are fewer than its header has")
    magic, kind, count = _HEADER.unpack_from(view)
    if magic != _MAGIC or kind not in KINDS:
        raise ValueError(
            f"no stored value here: it starts with {bytes(view[:8])!r}; it was freed, or never written to its end"
        )
    first = _HEADER.size + _SPAN.size * count
    if count < 1 or first > len(view):
        raise ValueError(f"the stored value is damaged: {count} parts in {len(view)} bytes")
    view = view.toreadonly()
    parts = []
    for offset, length in _SPAN.iter_unpack(view[_HEADER.size : first]):
        if not first <= offset <= offset + length <= len(view):
            raise ValueError(f"the stored value is damaged: a part at {offset} + {length} of {len(view)} bytes")
        parts.append(view[offset : offset + length])
    return kind, parts


__all__ = [
    "ARROW",
    "ERROR",
    "PICKLE",
    "Inline",
    "Part",
    "Serialized",
    "deserialize",
    "deserialize_with_refs",
    "found_ref",
    "from_inline",
    "from_inline_with_refs",
    "note_ref",
    "read_from",
    "segment_size",
    "serialize",
    "serialize_error",
    "serialize_in_band",
    "to_inline",
    "write_to",
    "write_to_file",
]
