"""`inspect_serializability`, `register_serializer` and `deregister_serializer`."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from sparkray.util import deregister_serializer, inspect_serializability, register_serializer

lock = threading.Lock()


# ------------------------------------------------------------------ inspecting
def found(value: Any, **options: Any) -> list[Any]:
    good, failures = inspect_serializability(value, **options)
    assert good == (not failures)
    return sorted((failure.obj for failure in failures), key=repr)


def test_what_can_be_sent_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect_serializability({"a": [1, lambda: 2]}, name="it") == (True, set())
    assert "Checking Serializability of {'a'" in capsys.readouterr().out


def test_the_culprit_is_found() -> None:
    inner = threading.Lock()

    def uses_global() -> Any:
        return lock

    def uses_variable() -> Any:
        return inner

    class Uses:
        def method(self) -> Any:
            return inner

    class Has:
        def __init__(self) -> None:
            self.good = 1
            self.bad = [{"x": inner}]

    assert found(lock) == [lock]
    assert found(uses_global) == [lock]
    assert found(uses_variable) == [inner]
    assert found(Uses) == [inner]
    assert found(Uses()) == [inner]
    assert found(Has(), depth=4) == [inner]


def test_all_culprits_are_found() -> None:
    first, second = threading.Lock(), io.TextIOWrapper(io.BytesIO())
    assert set(map(id, found({"a": first, "b": [second, 3]}))) == {id(first), id(second)}


def test_the_way_there_is_told() -> None:
    value = {"a": [1, lock]}
    out = io.StringIO()
    _, [failure] = inspect_serializability(value, name="value", print_file=out)
    assert failure.path == ("value", "['a']", "[1]")
    assert failure.name == "[1]"
    assert failure.parent is value["a"]
    assert "value -> ['a'] -> [1]" in repr(failure)
    assert "cannot pickle '_thread.lock' object" in out.getvalue()
    assert repr(failure) in out.getvalue()


def test_depth_limits_the_search() -> None:
    value = [[[lock]]]
    assert found(value, depth=0) == [value]
    assert found(value, depth=1) == [value[0]]
    assert found(value, depth=3) == [lock]


def test_odd_objects_do_not_stop_it() -> None:
    class Odd:
        def __reduce__(self) -> Any:
            raise RuntimeError("no")

        def __repr__(self) -> str:
            raise RuntimeError("no name")

    class OddDict(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError("no items")

    odd = Odd()
    _, failures = inspect_serializability([odd])
    assert [failure.obj is odd for failure in failures] == [True]
    ring: list[Any] = [lock]
    ring.append(ring)
    assert found(ring) == [lock]
    assert len(found(OddDict(x=lock))) == 1


# ------------------------------------------------------------------ registering
class Connection:
    """As of a database: of no use elsewhere, but another of the same kind can be made there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


def test_a_registered_class_travels_until_it_is_deregistered(ray: Any) -> None:
    class Connection:
        def __init__(self, url: str) -> None:
            self.url = url
            self.lock = threading.Lock()

    @ray.remote
    def url_of(connection: Any) -> str:
        return str(connection.url)

    with pytest.raises(TypeError, match="lock"):
        ray.put(Connection("a"))
    register_serializer(Connection, serializer=lambda connection: connection.url, deserializer=Connection)
    try:
        assert ray.get(url_of.remote(Connection("b"))) == "b"
        assert ray.get(url_of.remote(connection=Connection("c"))) == "c"
        back = ray.get(ray.put([Connection("d")]))[0]
        assert (type(back).__name__, back.url) == ("Connection", "d")
    finally:
        deregister_serializer(Connection)
    with pytest.raises(TypeError, match="lock"):
        ray.put(Connection("a"))
    deregister_serializer(Connection)


def test_it_can_be_registered_where_instances_are_sent_from(ray: Any) -> None:
    class Connection:
        def __init__(self, url: str) -> None:
            self.url = url
            self.lock = threading.Lock()

    @ray.remote
    def make() -> Any:
        register_serializer(Connection, serializer=lambda connection: connection.url, deserializer=Connection)
        return Connection("made there")

    assert ray.get(make.remote()).url == "made there"


def test_the_last_registration_holds_and_refs_inside_are_kept(ray: Any) -> None:
    class Box:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

    register_serializer(Box, serializer=lambda box: None, deserializer=Box)
    register_serializer(Box, serializer=lambda box: box.ref, deserializer=Box)
    try:

        @ray.remote
        def look(box: Any) -> Any:
            return ray.get(box.ref)

        assert ray.get(look.remote(Box(ray.put("inside")))) == "inside"
    finally:
        deregister_serializer(Box)


def test_classes_with_a_quick_way_of_their_own_are_heeded(ray: Any) -> None:
    import pyarrow as pa

    def to_list(value: Any) -> Any:
        return value.tolist() if isinstance(value, np.ndarray) else value.to_pydict()

    table = pa.table({"x": [1, 2]})
    for cls, value, expected in ((np.ndarray, np.arange(3), "[0, 1, 2]"), (pa.Table, table, "{'x': [1, 2]}")):
        register_serializer(cls, serializer=to_list, deserializer=repr)
        try:
            assert ray.get(ray.put(value)) == expected
            assert ray.get(ray.put({"in": value})) == {"in": expected}
        finally:
            deregister_serializer(cls)
        assert type(ray.get(ray.put(value))) is cls


def test_pickle_and_copy_are_not_changed(ray: Any) -> None:
    class Plain:
        pass

    register_serializer(Connection, serializer=lambda connection: 1 / 0, deserializer=Connection)
    register_serializer(Plain, serializer=lambda plain: 1 / 0, deserializer=lambda _: Plain())
    try:
        with pytest.raises(TypeError, match="lock"):
            pickle.dumps(Connection("a"))
        assert type(copy.copy(Plain())) is Plain
        with pytest.raises(TypeError, match="ZeroDivisionError"):
            ray.put(Plain())
    finally:
        deregister_serializer(Connection)
        deregister_serializer(Plain)
