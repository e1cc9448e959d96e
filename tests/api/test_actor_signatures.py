"""What does not fit a method's signature is told by `.remote()`, in whatever process and however it got the handle."""

from __future__ import annotations

import functools
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import sparkray
from sparkray.actor_facts import facts_of
from sparkray.options import Options
from sparkray.signature import Signature

LOCAL_MODE_TOO = True


class Plain:
    """Methods of every shape."""

    def none(self) -> str:
        return "none"

    def two(self, a: int, b: int = 1) -> tuple[int, int]:
        return a, b

    def named(self, a: int, *, key: int) -> tuple[int, int]:
        return a, key

    def by_position(self, a: int, /, b: int = 2) -> tuple[int, int]:
        return a, b

    def anything(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return len(args), len(kwargs)

    def bare(*args: Any) -> int:
        return len(args)

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def of_class(cls, a: int) -> int:
        return a

    @sparkray.method(num_returns=2)
    def several(self, a: int) -> tuple[int, int]:
        return a, a

    def items(self, n: int) -> Any:
        yield from range(n)

    async def later(self, a: int) -> int:
        return a

    partial = functools.partialmethod(two, 5)


TOO_MANY, MISSING, UNEXPECTED = "too many positional arguments", "missing a required", "unexpected keyword"
WRONG: list[tuple[str, Callable[[Any], Any], str]] = [
    ("too many for none", lambda h: h.none.remote(1), TOO_MANY),
    ("too few", lambda h: h.two.remote(), MISSING),
    ("too many", lambda h: h.two.remote(1, 2, 3), TOO_MANY),
    ("unknown name", lambda h: h.two.remote(1, c=2), UNEXPECTED),
    ("given twice", lambda h: h.two.remote(1, a=2), "multiple values for argument 'a'"),
    ("no name", lambda h: h.named.remote(1), MISSING),
    ("named by position", lambda h: h.named.remote(1, 2), TOO_MANY),
    ("positional by name", lambda h: h.by_position.remote(a=1), "positional"),
    ("static", lambda h: h.static.remote(), MISSING),
    ("class method", lambda h: h.of_class.remote(1, 2), TOO_MANY),
    ("several returns", lambda h: h.several.remote(), MISSING),
    ("a generator", lambda h: h.items.remote(), MISSING),
    ("a coroutine", lambda h: h.later.remote(1, 2), TOO_MANY),
    ("with options", lambda h: h.two.options(name="renamed").remote(), MISSING),
    ("a reference", lambda h: h.none.remote(sparkray.put(1)), TOO_MANY),
    ("built in", lambda h: h.__ray_ready__.remote(1), TOO_MANY),
    ("built in call", lambda h: h.__ray_call__.remote(), MISSING),
]


@pytest.fixture(scope="module")
def handle(ray: Any) -> Any:
    return ray.remote(Plain).options(name="signatures").remote()


def test_arguments_that_do_not_fit_are_refused_at_once(handle: Any) -> None:
    for name, call, told in WRONG:
        with pytest.raises(TypeError) as caught:
            call(handle)
        assert told in str(caught.value), name


def test_arguments_that_fit_are_let_through(ray: Any, handle: Any) -> None:
    fitting = [
        (handle.none.remote(), "none"),
        (handle.two.remote(1), (1, 1)),
        (handle.two.remote(b=2, a=1), (1, 2)),
        (handle.named.remote(1, key=2), (1, 2)),
        (handle.by_position.remote(1, b=3), (1, 3)),
        (handle.anything.remote(1, 2, c=3), (2, 1)),
        (handle.bare.remote(1, 2), 3),
        (handle.static.remote(4), 4),
        (handle.of_class.remote(4), 4),
        (handle.partial.remote(), (5, 1)),
        (handle.__ray_call__.remote(lambda self, a, key: (a, key), 1, key=2), (1, 2)),
    ]
    assert ray.get([ref for ref, _ in fitting]) == [value for _, value in fitting]


def test_what_cannot_be_known_in_the_caller_is_told_by_the_actor(ray: Any, handle: Any) -> None:
    with pytest.raises(TypeError):
        ray.get(handle.partial.remote(1, 2, 3))


def test_handles_that_travelled_know_their_signatures(ray: Any, handle: Any) -> None:
    """In arguments, in values, returned, put, and found by name."""

    def refused(some: Any) -> str:
        try:
            some.two.remote(1, 2, 3)
        except TypeError as error:
            return str(error)
        return "let through"

    @ray.remote
    def passed(direct: Any, inside: list[Any]) -> list[str]:
        return [refused(direct), refused(inside[0]), refused(ray.get_actor("signatures"))]

    @ray.remote
    def gives_back(inside: list[Any]) -> Any:
        return inside[0]

    told = ray.get(passed.remote(handle, [handle]))
    returned, put, found = (
        ray.get(gives_back.remote([handle])),
        ray.get(ray.put([handle]))[0],
        ray.get_actor("signatures"),
    )
    assert [*told, refused(returned), refused(put), refused(found)] == [TOO_MANY] * 6


def test_an_actor_knows_its_own(ray: Any) -> None:
    @ray.remote
    class Me:
        def other(self, a: int) -> int:
            return a

        def ask(self) -> str:
            try:
                ray.get_runtime_context().current_actor.other.remote()
            except TypeError as error:
                return str(error)
            return "let through"

    made: Any = Me
    assert "missing a required" in ray.get(made.remote().ask.remote())


def test_two_classes_of_one_name_are_not_mixed_up(ray: Any) -> None:
    def one_argument(self: Any, a: int) -> int:
        return a

    def two_arguments(self: Any, a: int, b: int) -> int:
        return a + b

    one, two = (ray.remote(type("Same", (), {"m": m})).remote() for m in (one_argument, two_arguments))
    assert ray.get([one.m.remote(1), two.m.remote(1, 2)]) == [1, 3]
    with pytest.raises(TypeError, match=TOO_MANY):
        one.m.remote(1, 2)


def test_a_class_without_a_constructor_takes_no_arguments(ray: Any) -> None:
    with pytest.raises(TypeError, match=TOO_MANY):
        ray.remote(Plain).remote(1)


def test_a_refused_call_leaves_no_trace(ray: Any, handle: Any) -> None:
    """It takes no place in the order of calls, nor of those that may be under way."""
    limited = ray.remote(Plain).options(max_pending_calls=1).remote()
    for _ in range(3):
        with pytest.raises(TypeError):
            limited.two.remote()
    assert ray.get(limited.two.remote(1)) == (1, 1)


SHAPES: list[Callable[..., Any]] = [
    lambda: 0,
    lambda a, b=1, *c, d, e=2, **f: 0,
    lambda a, /, b: 0,
    lambda *, a: 0,
]


def test_signatures_judge_after_the_wire_as_python_does() -> None:
    names = [(), ("a",), ("b",), ("d",), ("a", "d"), ("a", "z")]
    for function, given, count in itertools.product(SHAPES, names, range(4)):
        travelled = Signature.from_wire(pickle.loads(pickle.dumps(Signature.of(function).to_wire())))
        args, kwargs = (0,) * count, dict.fromkeys(given, 0)
        assert _fits(travelled.check, args, kwargs) == _fits(functools.partial(_apply, function), args, kwargs)


def _apply(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _fits(call: Callable[..., Any], args: Any, kwargs: Any) -> bool:
    try:
        call(args, kwargs)
    except TypeError:
        return False
    return True


def test_facts_of_a_class_are_small_and_the_same_for_equal_classes() -> None:
    one, _ = facts_of(Plain, Options())
    two, _ = facts_of(Plain, Options())
    assert one is two
    assert len(one.wired) < 1500
