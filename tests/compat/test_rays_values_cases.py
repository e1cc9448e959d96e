"""Cases of Ray's test_serialization, test_basic and test_generators on what comes back as what it was."""

from __future__ import annotations

import collections
import dataclasses
import gc
import io
import re
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

PRIMITIVES: list[Any] = [
    0,
    0.9,
    1 << 62,
    1 << 999,
    -(1 << 100),
    b"",
    b"a",
    "a",
    string.printable,
    "\u262f",
    "\xff\xfe\x9c\x001\x000\x00",
    None,
    True,
    [],
    (),
    {},
    set(),
    frozenset({1}),
    type,
    int,
    complex(1, 2),
    range(3),
    collections.Counter("abca"),
    collections.OrderedDict([("hello", 1), ("world", 2)]),
    collections.defaultdict(list, {"hello": [1]}),
    collections.deque([1, 2, 3, "a", 3.5]),
    np.int8(3),
    np.uint64(5),
    np.float32(1.9),
    [[[[[[[[[[[[]]]]]]]]]]]],
    {"a": {"b": {"c": {"d": {}}}}},
]


@pytest.fixture(scope="module")
def both_ways(ray: Any) -> Callable[[Any], list[Any]]:
    """The value as it comes from a task that was given it, and as it was put."""

    @ray.remote
    def same(value: object) -> object:
        return value

    return lambda value: ray.get([same.remote(value), ray.put(value)])


def test_plain_values_keep_their_types_alone_and_in_containers(ray: Any, both_ways: Any) -> None:
    for value in PRIMITIVES:
        for wrapped in (value, [value], (value,), {(): value}):
            for back in both_ways(wrapped):
                assert back == wrapped
                assert type(back) is type(wrapped)
        assert [type(back[0]) for back in both_ways([value])] == [type(value)] * 2


def test_arrays_of_any_kind(both_ways: Any) -> None:
    class Marked(np.ndarray):
        pass

    arrays = [
        np.zeros([100, 100]),
        np.random.default_rng(0).normal(size=(10, 20, 30)),
        np.array(["hi", 3]),
        np.array(["hi", 3], dtype=object),
        np.array([["hi", "hi"], [1.3, 1]]),
        np.zeros(1 << 20)[::2],
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(5),
        np.arange(4).view(Marked),
        np.zeros(3, dtype=[("x", "f4"), ("y", "i8")]),
    ]
    for array in arrays:
        for back in both_ways(array):
            assert type(back).__name__ == type(array).__name__
            assert back.dtype == array.dtype
            assert np.array_equal(back, array)


def test_arrays_lie_where_vector_instructions_want_them(ray: Any) -> None:
    assert ray.get(ray.put(np.ones((10, 20, 300)))).ctypes.data % 64 == 0
    for array in ray.get(ray.put([np.ones(size) for size in range(1, 100)])):
        assert array.ctypes.data % 8 == 0


def test_objects_of_the_users_own_classes(both_ways: Any) -> None:
    point = collections.namedtuple("point", ["x", "y"])

    @dataclasses.dataclass
    class Data:
        number: int
        name: str = "n"

    class Reduced:
        def __init__(self, value: int) -> None:
            self.value = value

        @classmethod
        def of(cls, value: int) -> Reduced:
            return cls(value)

        def __reduce__(self) -> Any:
            return self.of, (self.value,)

    class Hashed:
        def __init__(self, value: int) -> None:
            self.value = value

        def __hash__(self) -> int:
            return self.value

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Hashed) and other.value == self.value

    for back in both_ways(point(11, y=22)):
        assert (back.x, back.y, type(back).__name__) == (11, 22, "point")
    for back in both_ways(Data(3)):
        assert dataclasses.asdict(back) == {"number": 3, "name": "n"}
        assert back == Data(3)
    assert [back.value for back in both_ways(Reduced(43))] == [43, 43]
    for back in both_ways({Hashed(123): Hashed(456)}):
        assert back == {Hashed(123): Hashed(456)}
    assert [str(back) for back in both_ways(ValueError("an error is a value, too"))] == ["an error is a value, too"] * 2


def test_streams_patterns_functions_and_classes(both_ways: Any) -> None:
    text = io.StringIO("Hello, world!\n")
    assert [back.readline() for back in both_ways(text)] == ["Hello, world!\n"] * 2
    assert [back.pattern for back in both_ways(re.compile(r"\d+\.\d*"))] == [r"\d+\.\d*"] * 2
    assert [back(3) for back in both_ways(lambda x: x + 1)] == [4, 4]
    assert [back().value for back in both_ways(type("Made", (), {"value": 5}))] == [5, 5]


def test_values_that_contain_themselves(both_ways: Any) -> None:
    class Node:
        other: Any = None

    around: list[Any] = []
    around.append(around)
    one, two = Node(), Node()
    one.other, two.other = two, one
    mapping: dict[str, Any] = {}
    mapping["key"] = mapping

    assert all(back[0] is back for back in both_ways(around))
    assert all(back.other.other is back for back in both_ways(one))
    assert all(back["key"] is back for back in both_ways(mapping))


def test_classes_of_one_name_made_in_a_task_stay_apart(ray: Any) -> None:
    @ray.remote(num_returns=2)
    def make() -> Any:
        def first() -> Any:
            return type("Same", (), {"method_0": lambda self: 0})()

        def second() -> Any:
            return type("Same", (), {"method_1": lambda self: 1})()

        return first(), second()

    for _ in range(3):
        first, second = ray.get(make.remote())
        assert (first.method_0(), second.method_1()) == (0, 1)
        assert not hasattr(first, "method_1")
        assert not hasattr(second, "method_0")


def test_a_class_of_the_driver_is_known_to_a_task_that_waits(ray: Any) -> None:
    class Late:
        def __init__(self, value: int) -> None:
            self.value = value

    @ray.remote
    def make(value: int) -> Late:
        return Late(value)

    @ray.remote
    def through(value: int) -> Any:
        return ray.get(make.remote(value))

    assert ray.get(through.remote(10)).value == 10


def test_small_arrays_that_an_actor_keeps_are_not_overwritten(ray: Any) -> None:
    @ray.remote
    def zeros() -> Any:
        return np.zeros(1000, np.uint8)

    @ray.remote
    class Keeper:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def add(self, array: Any) -> int:
            self.kept.append(array)
            return sum(int(one.sum()) for one in self.kept)

    keeper = Keeper.remote()
    assert ray.get([keeper.add.remote(zeros.remote()) for _ in range(100)]) == [0] * 100


def test_small_and_large_values_between_tasks_and_actors_directly_and_inside(ray: Any) -> None:
    @ray.remote
    class Actor:
        def make(self, size: int) -> Any:
            return np.full(size, 3)

        def take(self, value: Any) -> int:
            return int((ray.get(value[0]) if isinstance(value, list) else value).sum())

    @ray.remote
    def make(size: int) -> Any:
        return np.full(size, 3)

    @ray.remote
    def take(value: Any) -> int:
        return int((ray.get(value[0]) if isinstance(value, list) else value).sum())

    source, target = Actor.remote(), Actor.remote()
    for size in (1, 1 << 20):
        made = [source.make.remote(size), make.remote(size)]
        given: list[Any] = [*made, *([ref] for ref in made)]
        answers = [taker.remote(value) for value in given for taker in (take, target.take)]
        assert ray.get(answers) == [3 * size] * 8


@pytest.mark.parametrize("large", [False, True])
def test_a_generator_with_a_fixed_number_of_returns(ray: Any, large: bool) -> None:
    @ray.remote(max_retries=0)
    def items(count: int, fails: bool = False) -> Any:
        for index in range(count):
            yield np.full(1 << 18 if large else 1, index)
        if fails:
            raise LookupError("after the last")

    def values(returns: int, *arguments: Any) -> list[int]:
        refs = items.options(num_returns=returns).remote(*arguments)
        return [int(one[0]) for one in ray.get(refs if returns > 1 else [refs])]

    assert values(3, 3) == [0, 1, 2]
    assert values(1, 1) == [0]
    assert values(3, 4) == [0, 1, 2]
    with pytest.raises(ValueError, match="Task returned 2 objects, but num_returns=3"):
        values(3, 2)
    first, second, third = items.options(num_returns=3).remote(1, True)
    assert ray.get(first)[0] == 0
    for ref in (second, third):
        with pytest.raises(LookupError):
            ray.get(ref)


@pytest.mark.filterwarnings("ignore:num_returns='dynamic' is deprecated")
def test_a_dynamic_generator_s_references_are_an_argument_like_others(ray: Any) -> None:
    @ray.remote(num_returns="dynamic")
    def items(count: int) -> Any:
        for index in range(count):
            yield [index]

    @ray.remote
    def read(refs: Any) -> list[int]:
        return [ray.get(ref)[0] for ref in refs]

    made = items.remote(5)
    assert ray.get(read.remote(made)) == [0, 1, 2, 3, 4]
    assert ray.get(read.remote(ray.get(made))) == [0, 1, 2, 3, 4]
    assert len(ray.get(items.remote(0))) == 0


def test_calls_of_an_actor_leave_no_cycles_behind(ray: Any) -> None:
    @ray.remote
    class Watched:
        def __init__(self) -> None:
            gc.collect()
            gc.freeze()
            gc.set_debug(gc.DEBUG_SAVEALL)

        def call(self, fails: bool) -> None:
            if fails:
                raise ValueError("on purpose")

        def items(self, fails: bool) -> Any:
            yield 1
            if fails:
                raise ValueError("on purpose")

        def cycles(self) -> list[str]:
            gc.collect()
            found = [repr(one)[:200] for one in gc.garbage]
            gc.set_debug(0)
            gc.garbage.clear()
            return found

    for options in ({}, {"max_concurrency": 3}):
        watched = Watched.options(**options).remote()
        for index in range(20):
            refs = [watched.call.remote(index % 2 == 0), *watched.items.remote(index % 2 == 0)]
            ray.wait(refs, num_returns=len(refs))
            for ref in refs:
                try:
                    ray.get(ref)
                except ValueError:  # noqa: PERF203
                    assert index % 2 == 0
        assert ray.get(watched.cycles.remote()) == []
