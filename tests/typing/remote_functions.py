"""What mypy and pyright make of remote functions. Not run: `make check` reads it, and an `assert_type` that does not
hold is an error there; so is a `type: ignore` that is not needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import sparkray as ray
from sparkray import DynamicObjectRefGenerator, ObjectRef, ObjectRefGenerator

if TYPE_CHECKING:
    from typing_extensions import assert_type


@ray.remote
def add(a: int, b: int = 2) -> int:
    return a + b


@ray.remote(num_cpus=2, name="named")
def name(*parts: str, sep: str = "") -> str:
    return sep.join(parts)


@ray.remote
async def fetch(url: str) -> bytes:
    return url.encode()


@ray.remote
def nothing() -> None: ...


@ray.remote
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@ray.remote(num_returns="streaming", num_cpus=1)
def words(text: str) -> Generator[str, None, None]:
    yield from text.split()


@ray.remote
async def ticks() -> AsyncIterator[float]:
    yield 1.0


@ray.remote(num_returns=2)
def pair() -> tuple[int, str]:
    return 1, "a"


@ray.remote(num_returns="dynamic")
def parts() -> Iterator[int]:
    yield 1


class Counter:
    def __init__(self, start: int) -> None:
        self.value = start


def a_call_gives_a_reference_to_what_the_function_returns() -> None:
    assert_type(add.remote(1), ObjectRef[int])
    assert_type(add.remote(1, b=3), ObjectRef[int])
    assert_type(name.remote("a", "b", sep="-"), ObjectRef[str])
    assert_type(nothing.remote(), ObjectRef[None])
    assert_type(ray.remote(len).remote([]), ObjectRef[int])
    assert_type(ray.remote(num_cpus=0)(len).remote([]), ObjectRef[int])
    wrong: str = ray.get(add.remote(1))  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    del wrong


def a_coroutine_function_gives_what_it_returns_when_awaited() -> None:
    assert_type(fetch.remote("a"), ObjectRef[bytes])


def a_reference_may_stand_for_any_argument() -> None:
    assert_type(add.remote(add.remote(1)), ObjectRef[int])
    assert_type(add.remote(1, b=add.remote(1)), ObjectRef[int])


def options_keep_the_type_but_for_the_number_of_returns() -> None:
    assert_type(add.options(num_cpus=2).remote(1), ObjectRef[int])
    assert_type(numbers.options(name="other").remote(1), ObjectRefGenerator[int])
    assert_type(add.options(num_returns=2).remote(1), Any)


def generators_give_references_one_by_one() -> None:
    assert_type(numbers.remote(3), ObjectRefGenerator[int])
    assert_type(words.remote("a b"), ObjectRefGenerator[str])
    assert_type(ticks.remote(), ObjectRefGenerator[float])
    assert_type(next(numbers.remote(3)), ObjectRef[int])
    assert_type([ray.get(ref) for ref in words.remote("a b")], list[str])
    assert_type(numbers.remote(3).completed(), ObjectRef[None])
    assert_type(ray.get(numbers.remote(3)), ObjectRefGenerator[int])


async def generators_give_references_one_by_one_to_coroutines() -> None:
    assert_type([await ref async for ref in ticks.remote()], list[float])


def several_returns() -> None:
    first, second = pair.remote()
    assert_type(first, Any)
    del second
    assert_type(parts.remote(), ObjectRef[DynamicObjectRefGenerator])


def get_put_and_wait() -> None:
    assert_type(ray.get(add.remote(1)), int)
    assert_type(ray.get([add.remote(1), add.remote(2)]), list[int])
    mixed: Sequence[object] = ray.get([add.remote(1), name.remote("a")])
    del mixed
    assert_type(ray.put("a"), ObjectRef[str])
    ready, rest = ray.wait([add.remote(1), add.remote(2)])
    assert_type(ready, list[ObjectRef[int]])
    assert_type(rest, list[ObjectRef[int]])
    streams, _ = ray.wait([numbers.remote(1)])
    assert_type(streams, list[ObjectRefGenerator[int]])


async def await_a_reference() -> None:
    assert_type(await add.remote(1), int)


def a_class_gives_handles() -> None:
    counter = ray.remote(Counter)  # mypy takes a class for what it was before it was decorated; pyright does not
    assert_type(counter.remote(1), ray.ActorHandle[Counter])
    assert_type(ray.remote(max_restarts=1)(Counter).options(name="a").remote(1), ray.ActorHandle[Counter])
