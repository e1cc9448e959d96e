"""User values survive the way to bytes and back, read-only where they are views, with their refs counted."""

from __future__ import annotations

import collections
import copyreg
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkray_core.wire import values
from sparkray_core.wire.pickling import PLAIN_ITEMS

Way = Callable[[object], Any]


def _through_message(value: object) -> Any:
    inline = values.to_inline(values.serialize(value))
    return values.from_inline(pickle.loads(pickle.dumps(inline)))


def _through_segment(value: object) -> Any:
    serialized = values.serialize(value)
    memory = bytearray(values.segment_size(serialized))
    values.write_to(memoryview(memory), serialized)
    return values.deserialize(*values.read_from(memoryview(memory)))


@pytest.fixture(params=[_through_message, _through_segment], ids=["message", "segment"])
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


class Ref:
    """What ObjectRef does when it is pickled and unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        values.note_ref(self)
        return _found, (self.name,)


def _found(name: str) -> Ref:
    ref = Ref(name)
    values.found_ref(ref)
    return ref


def _names(refs: list[Any]) -> list[str]:
    return [ref.name for ref in refs]


# ---- round trips ----

PLAIN = [None, True, 1, -(2**80), 1.5, "x" * 100, b"y", (), (1, "a"), [1, None], {"a": 1, 2: b"x"}, {1, 2}, [[1], (2,)]]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_value_is_one_pickle_and_comes_back(value: object, way: Way) -> None:
    assert isinstance(values.to_inline(values.serialize(value)), bytes)
    assert way(value) == value


def test_class_with_cycle_and_unusual_types_comes_back(way: Way) -> None:
    loop: list[Any] = [Point(1, ["a"]), collections.OrderedDict(a=1), {"k": Point(2)}, range(3), complex(1, 2)]
    loop.append(loop)

    back = way(loop)

    assert back[:-1] == loop[:-1]
    assert back[-1] is back


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=50))
def test_any_tree_of_plain_values_comes_back(value: object) -> None:
    assert _through_message(value) == value
    assert _through_segment(value) == value


def test_list_beyond_the_limit_of_the_quick_way_comes_back(way: Way) -> None:
    value = list(range(PLAIN_ITEMS * 100))
    assert way(value) == value


@pytest.mark.parametrize("cls", [bytes, bytearray])
@pytest.mark.parametrize("size", [10, values.BYTES_OUT_OF_BAND, 3 * values.COPY_WITHOUT_GIL + 1])
def test_bytes_come_back_with_their_class_and_large_ones_are_not_copied_into_the_stream(
    cls: type, size: int, way: Way
) -> None:
    value = cls(b"ab") * (size // 2)

    back = way(value)

    assert type(back) is cls
    assert back == value
    assert len(values.serialize(value).parts) == (1 if size == 10 else 2)


def _structured() -> Any:
    return np.array([(1, 2.5, b"abc"), (3, 4.5, b"d")], dtype=[("a", "<i4"), ("b", "<f8"), ("c", "S3")])


ARRAYS: dict[str, Any] = {
    "1-d": np.arange(10),
    "0-d": np.array(3.5),
    "empty": np.zeros((0, 3)),
    "2-d": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(100).reshape(10, 10)[::2, ::3],
    "reversed": np.arange(10)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (2, 3)),
    "permuted": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "half": np.array([1.5], dtype="f2"),
    "big-endian": np.arange(3, dtype=">i8"),
    "text": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"c"]),
    "datetime": np.array(["2024-01-01", "NaT"], dtype="M8[ns]"),
    "timedelta": np.array([1, 2], dtype="m8[s]"),
    "structured": _structured(),
    "void": np.zeros(2, dtype="V5"),
    "large": np.arange(300_000),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_comes_back_the_same_and_read_only(name: str, way: Way) -> None:
    array = ARRAYS[name]

    for back in (way(array), way({"in": [array]})["in"][0]):
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)
        assert not back.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            back[...] = back
        if array.flags.f_contiguous:
            assert back.flags.f_contiguous
        assert back.flags.aligned


def test_array_travels_as_its_own_bytes_and_not_those_of_its_parent() -> None:
    parent = np.zeros(1_000_000)

    assert values.serialize(parent[:100]).size < 1_000
    assert values.serialize(parent[::10_000]).size < 1_000


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], dtype=object),
        np.array(["a", "bc"], dtype=np.dtype("U2", metadata={"m": 1})),
        np.array([], dtype="V0"),
        np.ma.masked_array([1, 2], mask=[False, True]),
        np.float64(2.5),
        np.dtype("M8[ns]"),
    ],
    ids=["objects", "metadata", "no bytes", "masked", "scalar", "dtype"],
)
@pytest.mark.filterwarnings("ignore:metadata on a dtype:UserWarning")
def test_what_is_no_plain_array_is_left_to_numpy_and_comes_back(array: Any, way: Way) -> None:
    back = way(array)

    assert type(back) is type(array)
    assert repr(back) == repr(array)


def test_array_that_is_in_a_value_twice_is_one_array_afterwards(way: Way) -> None:
    array = np.arange(3)
    first, second = way([array, array])
    assert first is second


def test_array_seen_through_a_read_only_segment_is_not_copied() -> None:
    serialized = values.serialize({"a": np.arange(100)})
    memory = bytearray(values.segment_size(serialized))
    values.write_to(memoryview(memory), serialized)

    back = values.deserialize(*values.read_from(memoryview(memory)))["a"]
    memory[-800:] = b"\1" + bytes(799)

    assert back[0] == 1
    assert back.ctypes.data % 8 == 0


def test_message_holds_a_snapshot() -> None:
    array, raw = np.zeros(3), bytearray(values.BYTES_OUT_OF_BAND)
    inlines = [values.to_inline(values.serialize(value)) for value in (array, raw)]

    array[0] = raw[0] = 1

    assert values.from_inline(inlines[0])[0] == 0
    assert values.from_inline(inlines[1])[0] == 0


def test_data_frame_comes_back(way: Way) -> None:
    frame = pd.DataFrame(
        {
            "i": [1, 2, 3],
            "f": [1.0, None, 3.0],
            "s": ["a", None, "c"],
            "t": pd.date_range("2024", periods=3, tz="UTC"),
            "c": pd.Categorical(["x", "y", "x"]),
            "n": pd.array([1, None, 3], dtype="Int64"),
            "p": pd.array(["u", None, "v"], dtype="string[pyarrow]"),
        },
        index=pd.Index(["r", "s", "t"], name="key"),
    )

    pd.testing.assert_frame_equal(way(frame), frame)
    pd.testing.assert_frame_equal(way([frame, 1])[0], frame)
    assert len(values.serialize(frame).parts) > 3


# ---- Arrow ----


def _table(rows: int) -> Any:
    return pa.table(
        {
            "i": pa.array(range(rows)),
            "s": pa.array([f"row {i}" if i % 3 else None for i in range(rows)]),
            "l": pa.array([[i, i + 1] for i in range(rows)]),
            "d": pa.array(["a", "b"] * (rows // 2)).dictionary_encode(),
            "n": pa.array([{"x": i, "y": "z"} for i in range(rows)]),
        }
    )


TABLES: dict[str, Any] = {
    "table": _table(10),
    "slice": _table(1_000).slice(17, 5),
    "no rows": _table(10).slice(0, 0),
    "no columns": pa.table({}),
    "rows without columns": _table(10).select([]),
    "metadata": _table(4).replace_schema_metadata({"k": "v"}),
    "chunks": pa.concat_tables([_table(4), _table(6)]),
    "batch": _table(10).to_batches()[0],
    "batch slice": _table(1_000).to_batches()[0].slice(17, 5),
    "batch with metadata": _table(4).replace_schema_metadata({"k": "v"}).to_batches()[0],
    "batch without rows": _table(4).to_batches()[0].slice(4),
}


@pytest.mark.parametrize("name", TABLES)
def test_arrow_table_or_batch_comes_back_with_its_class_and_metadata(name: str, way: Way) -> None:
    table = TABLES[name]

    assert values.serialize(table).kind == values.ARROW
    for back in (way(table), way({"in": table})["in"]):
        assert type(back) is type(table)
        assert back.schema.equals(table.schema, check_metadata=True)
        assert back.schema.metadata == table.schema.metadata
        assert back.equals(table)
        assert back.num_rows == table.num_rows
        back.validate(full=True)


def test_slice_of_arrow_data_travels_as_its_own_bytes_only() -> None:
    table = pa.table({"a": pa.array(range(100_000)), "s": ["abcdefgh"] * 100_000})
    column = table.column("s")
    pieces = [
        table.slice(500, 10),
        table.to_batches()[0].slice(500, 10),
        column.slice(500, 10),
        column.chunk(0)[500:510],
    ]

    for piece in pieces:
        nested = values.serialize([piece])
        assert nested.size < 2_000
        assert _through_message([piece])[0].equals(piece)
    assert values.serialize(pieces[0]).size < 2_000
    assert values.serialize(pieces[1]).size < 2_000


def test_whole_arrow_array_inside_a_value_is_borrowed_and_not_copied() -> None:
    column = pa.array(np.arange(100_000))

    parts = values.serialize([column]).parts

    assert pa.py_buffer(parts[1]).address == column.buffers()[1].address  # type: ignore[union-attr]


def test_table_read_from_a_segment_is_not_copied() -> None:
    serialized = values.serialize(pa.table({"a": pa.array(range(1_000))}))
    memory = bytearray(values.segment_size(serialized))
    values.write_to(memoryview(memory), serialized)
    start = pa.py_buffer(memory).address

    back = values.deserialize(*values.read_from(memoryview(memory)))

    buffer = back.column("a").chunk(0).buffers()[1]
    assert start <= buffer.address < start + len(memory)
    assert not buffer.is_mutable


class Celsius(pa.ExtensionType):
    """Not registered: an IPC stream would hand out plain floats."""

    def __init__(self) -> None:
        super().__init__(pa.float64(), "test.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Celsius:
        return cls()


def test_table_of_unregistered_extension_type_keeps_the_type(way: Way) -> None:
    warm = pa.ExtensionArray.from_storage(Celsius(), pa.array([20.5]))
    struct = pa.StructArray.from_arrays([warm], ["t"])
    table = pa.table({"t": warm, "in": struct, "list": pa.ListArray.from_arrays([0, 1], warm)})

    assert values.serialize(table).kind == values.PICKLE
    assert way(table).schema.equals(table.schema)
    assert isinstance(way(table).schema.field("t").type, Celsius)


# ---- functions and classes ----


def test_lambdas_and_closures_come_back(way: Way) -> None:
    offset = 10
    assert way(lambda x: x + offset)(1) == 11


def test_a_function_that_travels_by_value_keeps_the_name_of_its_file(way: Way) -> None:
    """Tracebacks show the line."""
    there = way(lambda: 1 / 0)
    assert there.__code__.co_filename == __file__
    assert there.__code__.co_firstlineno > 1


def test_functions_and_classes_of_main_travel_by_value() -> None:
    script = """
import sys
from sparkray_core.wire import values
limit = 5
class Box:
    def __init__(self, n): self.n = n
    def double(self): return Box(min(self.n * 2, limit))
def open_box(box): return box.double().n
sys.stdout.buffer.write(values.to_inline(values.serialize((open_box, Box(4), Box))))
"""
    written = subprocess.run([sys.executable, "-c", script], env=_with_path(), capture_output=True, check=True).stdout

    function, box, cls = values.from_inline(written)

    assert function(box) == 5
    assert isinstance(box, cls)


def test_small_values_import_neither_numpy_nor_pyarrow() -> None:
    script = """
import sys
from sparkray_core.wire import values
from sparkray_core.store import allocator, segment
class Box: pass
values.from_inline(values.to_inline(values.serialize({"a": [1], "b": Box()})))
sys.exit(str({"numpy", "pyarrow", "pandas"} & set(sys.modules)) if {"numpy", "pyarrow"} & set(sys.modules) else 0)
"""
    subprocess.run([sys.executable, "-c", script], env=_with_path(), check=True)


def _with_path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}


class Tagged:
    def __init__(self, n: int) -> None:
        self.n = n


@pytest.fixture
def reducer() -> Iterator[Callable[[type, Any], None]]:
    added: list[type] = []

    def add(cls: type, reduce: Any) -> None:
        copyreg.pickle(cls, reduce)
        added.append(cls)

    yield add
    for cls in added:
        del copyreg.dispatch_table[cls]


def test_reducers_registered_with_copyreg_are_used(reducer: Any, way: Way) -> None:
    reducer(Tagged, lambda tagged: (Tagged, (tagged.n + 1,)))
    reducer(np.ndarray, lambda array: (list, (array.tolist(),)))
    reducer(pa.Table, lambda table: (dict, (table.to_pydict(),)))

    assert way([Tagged(1)])[0].n == 2
    assert way(np.arange(2)) == way([np.arange(2)])[0] == [0, 1]
    assert way(pa.table({"a": [1]})) == way([pa.table({"a": [1]})])[0] == {"a": [1]}


# ---- what cannot be pickled ----


class Model:
    def __init__(self) -> None:
        self.name = "m"
        self.guard = threading.Lock()


class Careful(Model):
    """Leaves its lock out, but not the generator."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = (i for i in range(3))

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "rows": self.rows}


class Angry:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not me")


def _with_closure() -> Callable[[], None]:
    lock = threading.Lock()
    return lambda: lock.release()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (threading.Lock(), "cannot serialize a value of type _thread.lock: TypeError"),
        ({"a": [1, {"b": threading.Lock()}]}, "in it, ['a'][1]['b'] is a value of type _thread.lock"),
        ([Model()], "in it, [0].guard is a value of type _thread.lock"),
        ((1, Careful()), "in it, [1].rows is a value of type generator"),
        (
            _with_closure(),
            "in it, the variable lock of _with_closure.<locals>.<lambda> is a value of type _thread.lock",
        ),
        (Angry(), "test_values.Angry: ZeroDivisionError: not me"),
        ({"deep": Angry()}, "in it, ['deep'] is a value of type"),
    ],
    ids=["itself", "nested", "attribute", "getstate", "closure", "own reduce", "in own reduce"],
)
def test_unpicklable_value_is_a_type_error_that_names_the_culprit(value: object, told: str) -> None:
    with pytest.raises(TypeError) as caught:
        values.serialize(value)

    assert told in str(caught.value)
    assert caught.value.__cause__ is not None


def test_unpicklable_item_of_a_huge_list_is_reported_in_time() -> None:
    with pytest.raises(TypeError, match="cannot serialize a value of type list"):
        values.serialize([*range(100_000), threading.Lock()])


def test_endlessly_deep_value_is_a_type_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="cannot serialize a value of type list"):
        values.serialize(deep)


def test_unpicklable_function_is_told_in_band_too() -> None:
    with pytest.raises(TypeError, match="in it, the variable lock of"):
        values.serialize_in_band(_with_closure())
    assert not values.note_ref(Ref("y"))


# ---- refs ----


def test_refs_are_told_to_the_sender_and_to_the_reader() -> None:
    second = Ref("y")
    serialized = values.serialize({"a": [Ref("x"), np.arange(3)], "f": lambda: second})

    value, found = values.deserialize_with_refs(serialized.kind, serialized.parts)

    assert _names(serialized.refs) == ["x", "y"]
    assert _names(found) == ["x", "y"]
    assert value["a"][0] is found[0]
    assert _names(values.from_inline_with_refs(values.to_inline(values.serialize([Ref("z")])))[1]) == ["z"]


def test_everything_is_in_the_stream_in_band() -> None:
    array, ref = np.arange(3), Ref("x")

    data, refs = values.serialize_in_band(lambda: (array, ref))
    back = values.from_inline(data)()

    assert _names(refs) == ["x"]
    np.testing.assert_array_equal(back[0], array)
    assert back[1].name == "x"


@pytest.mark.parametrize(
    "value",
    [((1, Ref("x")), {}), ((1,), {"k": Ref("x")}), [[[Ref("x")]]], [[[[Ref("x")]]]], {"a": {"b": [Ref("x")]}}],
    ids=["args", "kwargs", "deep", "deeper", "dicts"],
)
def test_quick_way_for_plain_containers_overlooks_no_ref(value: object) -> None:
    assert _names(values.serialize(value).refs) == ["x"]


def test_refs_pickled_by_others_are_not_noted() -> None:
    assert not values.note_ref(Ref("x"))
    assert not values.found_ref(Ref("x"))
    back = pickle.loads(pickle.dumps(Ref("x")))
    assert isinstance(back, Ref)
    assert values.from_inline(values.to_inline(values.serialize([Ref("x")])))[0].name == "x"


class Putting:
    """Its pickling serializes another value, as `put` in a `__reduce__` does; its unpickling reads one."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def __reduce__(self) -> Any:
        inner = values.serialize([Ref("inner")])
        self.kept.append(inner)
        return _read_inner, (values.to_inline(inner),)


def _read_inner(inline: values.Inline) -> Any:
    return values.from_inline(inline)


def test_serialize_within_serialize_keeps_the_refs_apart() -> None:
    kept: list[Any] = []

    serialized = values.serialize([Ref("before"), Putting(kept), Ref("after")])
    _, found = values.deserialize_with_refs(serialized.kind, serialized.parts)

    assert _names(serialized.refs) == ["before", "after"]
    assert _names(kept[0].refs) == ["inner"]
    assert _names(found) == ["before", "after"]


def _explode() -> None:
    raise ZeroDivisionError("when read")


class ExplodesWhenRead:
    def __reduce__(self) -> Any:
        return _explode, ()


def test_no_collector_is_left_behind_by_an_exception() -> None:
    for value in ([Ref("x"), Angry()], [Ref("x"), threading.Lock()]):
        with pytest.raises(TypeError):
            values.serialize(value)
        assert not values.note_ref(Ref("y"))

    serialized = values.serialize([Ref("x"), ExplodesWhenRead()])
    with pytest.raises(ZeroDivisionError, match="when read"):
        values.deserialize_with_refs(serialized.kind, serialized.parts)
    assert not values.found_ref(Ref("y"))


def test_collectors_of_other_threads_are_not_ours() -> None:
    heard: list[bool] = []

    class Spawning:
        def __reduce__(self) -> Any:
            thread = threading.Thread(target=lambda: heard.append(values.note_ref(Ref("other"))))
            thread.start()
            thread.join()
            return str, ()

    assert values.serialize([Spawning()]).refs == []
    assert heard == [False]


# ---- kinds, forms, damage ----


def test_error_comes_back_as_a_value_marked_error() -> None:
    serialized = values.serialize_error(ZeroDivisionError("x"))
    inline = values.to_inline(serialized)

    assert isinstance(inline, tuple)
    assert inline[0] == values.ERROR
    assert repr(values.from_inline(inline)) == "ZeroDivisionError('x')"


def test_inline_form_is_made_of_primitives() -> None:
    inline = values.to_inline(values.serialize([np.arange(3), pa.table({"a": [1]})]))
    assert {type(item) for item in inline} == {int, bytes}


@pytest.mark.parametrize("value", [1, [np.arange(5), np.arange(7)], pa.table({"a": [1]}), b"x" * 3_000_000], ids=type)
def test_stored_form_is_aligned_and_takes_the_size_that_was_told(value: object) -> None:
    serialized = values.serialize(value)
    size = values.segment_size(serialized)
    memory = bytearray(size + 100)
    values.write_to(memoryview(memory), serialized)

    kind, parts = values.read_from(memoryview(memory)[:size])

    start = np.frombuffer(memory, np.uint8).ctypes.data
    assert kind == serialized.kind
    assert [bytes(part) for part in parts] == [bytes(part) for part in serialized.parts]
    assert sum(map(len, parts)) == serialized.size
    assert [(np.frombuffer(part, np.uint8).ctypes.data - start) % 64 for part in parts] == [0] * len(parts)
    assert all(part.readonly for part in parts)
    assert memory[size:] == bytes(100)


def test_too_small_a_view_is_refused_untouched() -> None:
    serialized = values.serialize([np.arange(10)])
    memory = bytearray(b"\7" * (values.segment_size(serialized) - 1))

    with pytest.raises(ValueError, match="the space given to it has"):
        values.write_to(memoryview(memory), serialized)

    assert set(memory) == {7}


def test_half_written_value_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    serialized = values.serialize([np.arange(values.COPY_WITHOUT_GIL)])
    memory = memoryview(bytearray(values.segment_size(serialized)))
    values.write_to(memory, serialized)
    values.read_from(memory)

    monkeypatch.setattr(values, "_copy", lambda into, part: exit())
    with pytest.raises(SystemExit):
        values.write_to(memory, serialized)

    with pytest.raises(ValueError, match="no stored value here"):
        values.read_from(memory)


@pytest.mark.parametrize(
    "damage",
    [
        lambda memory: memory[:10],
        lambda memory: bytes(len(memory)),
        lambda memory: b"nope" + memory[4:],
        lambda memory: memory[:4] + b"\x09" + memory[5:],
        lambda memory: memory[:8] + b"\xff" * 8 + memory[16:],
        lambda memory: memory[:16] + b"\xff" * 8 + memory[24:],
        lambda memory: memory[:-1],
        lambda memory: memory[:8] + bytes(8) + memory[16:],
    ],
    ids=["short", "zeros", "magic", "kind", "count", "offset", "cut", "no parts"],
)
def test_damaged_stored_value_is_refused(damage: Callable[[bytes], bytes]) -> None:
    serialized = values.serialize([np.arange(10)])
    memory = bytearray(values.segment_size(serialized))
    values.write_to(memoryview(memory), serialized)

    with pytest.raises(ValueError, match=r"no stored value here|the stored value is damaged"):
        values.read_from(memoryview(damage(bytes(memory))))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 7 of serialized value"):
        values.deserialize(7, [b""])


def test_a_large_part_lies_in_its_page_where_it_lies_at_its_source() -> None:
    base = np.arange((4 << 20) // 8, dtype=np.int64)
    for shift in (0, 1, 8, 100, 511):
        array = base[shift : shift + (2 << 20) // 8]
        serialized = values.serialize([array, b"x" * 70_000, array[::-1].copy()])
        memory = np.zeros(values.segment_size(serialized) + 4096, np.uint8)
        start = -memory.ctypes.data % 4096
        view = memoryview(memory.data)[start:]
        values.write_to(view, serialized)

        kind, parts = values.read_from(view)

        for part, source in zip(parts, serialized.parts, strict=True):
            if len(part) >= values.COPY_WITHOUT_GIL:
                ahead = (_address(part) - _address(source)) % 4096
                assert ahead == 0 or ahead > 4096 - values.ALIGNMENT
        again = values.deserialize(kind, parts)
        assert np.array_equal(again[0], array)
        assert np.array_equal(again[2], array[::-1])


def _address(part: Any) -> int:
    return int(np.frombuffer(part, np.uint8).ctypes.data)
