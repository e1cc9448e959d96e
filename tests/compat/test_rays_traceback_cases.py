"""Cases of Ray's test_traceback, test_failure and test_baseexceptionandgroup: what an error tells of its origin."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re
import sys
import threading
from typing import Any

import pytest


def _line(function: Any, words: str) -> str:
    """The traceback's line for the one line of the function that has these words."""
    lines, first = inspect.getsourcelines(function)
    (number,) = (first + index for index, line in enumerate(lines) if words in line)
    return f'File "{__file__}", line {number}, in '


def _told(ray: Any, ref: Any) -> str:
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(ref, timeout=30)
    return re.sub(r"pid=\d+, ip=[^),]+", "pid, ip", str(caught.value))


# These functions are pickled by value, as those of scripts and notebooks are.
def _fail_below(why: object) -> None:
    def raise_it(why: object) -> None:
        raise ValueError(why)

    raise_it(why)


def test_a_traceback_has_the_user_s_files_and_lines_and_nothing_else(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        _fail_below(7)

    told = _told(ray, fail.remote())

    assert told.startswith("ray::fail() (pid, ip)\nTraceback (most recent call last):\n")
    assert told.endswith("ValueError: 7")
    assert told.count("File ") == 3
    assert _line(test_a_traceback_has_the_user_s_files_and_lines_and_nothing_else, "_fail_below(" + "7)") in told
    assert "    raise ValueError(why)" in told


def test_a_name_given_by_options_is_in_the_error(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError

    assert _told(ray, fail.options(name="special").remote()).startswith("ray::special() (pid, ip)\n")


def test_the_error_of_a_task_in_a_task_tells_of_both_without_our_frames(ray: Any) -> None:
    @ray.remote
    def inner() -> float:
        return 1 / 0

    @ray.remote
    def outer() -> Any:
        return ray.get(inner.remote())

    told = _told(ray, outer.remote())

    assert told.startswith("ray::outer() (pid, ip)\n")
    assert "RayTaskError(ZeroDivisionError): ray::inner() (pid, ip)\n" in told
    assert told.endswith("ZeroDivisionError: division by zero")
    assert told.count("File ") == 2
    assert told.count(__file__) == 2


def test_a_task_that_lacks_its_argument_tells_so_all_along_the_chain(ray: Any) -> None:
    @ray.remote
    def begin() -> None:
        raise ValueError("at the beginning")

    @ray.remote
    def middle(_: object) -> None: ...

    @ray.remote
    def end(a: object, b: object) -> None: ...

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        ray.get(end.remote(middle.remote(begin.remote()), begin.remote()), timeout=30)
    error: Any = caught.value
    told = str(error)

    assert isinstance(error, ray.exceptions.RayTaskError)
    assert error.function_name == "end"
    assert told.startswith("ray::end() ")
    assert told.count("  At least one of the input arguments for this task could not be computed:\n") == 2
    assert "ray::middle()" in told
    assert "RayTaskError(ValueError): ray::begin() " in told
    assert told.endswith("ValueError: at the beginning")
    assert str(pickle.loads(pickle.dumps(caught.value))) == told


def test_a_long_chain_without_its_first_argument_is_told_in_short(ray: Any) -> None:
    @ray.remote
    def begin() -> None:
        raise KeyError("gone")

    @ray.remote
    def link(_: object) -> None: ...

    ref = begin.remote()
    for _ in range(200):
        ref = link.remote(ref)
    with pytest.raises(KeyError) as caught:
        ray.get(ref, timeout=60)

    assert len(str(caught.value)) < 4000
    assert "ray::begin() " in str(caught.value)


def test_an_actor_s_method_that_lacks_its_argument_tells_so_too(ray: Any) -> None:
    @ray.remote
    def begin() -> None:
        raise ValueError("no argument")

    @ray.remote
    class Taker:
        def take(self, value: object) -> object:
            return value

    taker = Taker.remote()
    told = _told(ray, taker.take.remote(begin.remote()))

    assert "At least one of the input arguments for this task could not be computed:\n" in told
    assert told.endswith("ValueError: no argument")
    assert ray.get(taker.take.remote(1)) == 1


def test_a_system_s_failure_of_an_argument_stays_what_it_is(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def end_process() -> None:
        raise SystemExit

    @ray.remote
    def take(value: object) -> object:
        return value

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(take.remote(end_process.remote()), timeout=30)


def test_an_actor_s_error_tells_which_actor_by_its_repr(ray: Any) -> None:
    @ray.remote
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def fail(self) -> None:
            raise ValueError("of a method")

        def actor_id(self) -> str:
            return str(ray.get_runtime_context().get_actor_id())

        def __repr__(self) -> str:
            if not self.name:
                raise RuntimeError("no name")
            return f"Named({self.name})"

    named, nameless, talkative = (Named.remote(name) for name in ("first", "", "x" * 1000))

    first = _told(ray, named.fail.remote())
    assert first.startswith(
        f"ray::Named.fail() (pid, ip, actor_id={ray.get(named.actor_id.remote())}, repr=Named(first))\n"
    )
    assert "repr=<Named, whose repr raised RuntimeError>)\n" in _told(ray, nameless.fail.remote())
    assert len(_told(ray, talkative.fail.remote()).splitlines()[0]) < 500


def test_a_constructor_s_error_has_the_user_s_lines_only(ray: Any) -> None:
    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("from the start")

        def ping(self) -> None: ...

    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(Broken.remote().ping.remote(), timeout=30)
    told = str(caught.value)

    assert "The actor died because of an error raised in its creation task, ray::Broken.__init__() (pid=" in told
    assert told.count("File ") == 1
    assert told.count(__file__) == 1


def test_the_cause_can_be_had_and_raised_again(ray: Any) -> None:
    class Special(ValueError):
        pass

    @ray.remote(num_returns=3)
    def fail(_: float) -> None:
        raise Special("failed on purpose")

    for ref in fail.remote(1.0):
        with pytest.raises(Special, match="failed on purpose") as caught:
            ray.get(ref)
        error: Any = caught.value
        assert isinstance(error, ray.exceptions.RayTaskError)
        assert "RayTaskError(Special)" in repr(error)
        assert type(error.cause) is Special
        assert isinstance(error.as_instanceof_cause(), Special)


def test_what_cannot_be_pickled_is_refused_where_it_is_used_with_its_name(ray: Any) -> None:
    lock = threading.Lock()

    @ray.remote
    def take(value: object) -> object:
        return value

    @ray.remote
    def captures() -> object:
        return lock

    @ray.remote
    class Takes:
        def __init__(self, value: object) -> None: ...

    @ray.remote
    class Captures:
        def __init__(self) -> None:
            self.lock = lock

    for call in (lambda: take.remote(lock), captures.remote, lambda: Takes.remote(lock), Captures.remote):
        with pytest.raises(TypeError, match="lock"):
            call()
    with pytest.raises(TypeError, match="lock"):
        ray.put(lock)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions are in Python since 3.11")
def test_except_star_catches_what_a_task_raised(ray: Any) -> None:
    @ray.remote
    def one() -> None:
        raise ValueError("one")

    @ray.remote
    def group() -> None:
        raise vars(builtins)["ExceptionGroup"]("several", [ValueError("v"), TypeError("t")])  # not in 3.10

    caught: list[Any] = []
    # In a string: 3.10 could not even read the file.
    exec(
        "try:\n    ray.get(one.remote())\nexcept* ValueError as found:\n    caught.extend(found.exceptions)\n"
        "try:\n    ray.get(group.remote())\nexcept* ValueError as found:\n    caught.extend(found.exceptions)\n"
        "except* TypeError as found:\n    caught.extend(found.exceptions)\n",
        {"ray": ray, "one": one, "group": group, "caught": caught},
    )

    assert [isinstance(one, ray.exceptions.RayTaskError) for one in caught] == [True, False, False]
    assert [isinstance(one, TypeError) for one in caught] == [False, False, True]


@pytest.mark.parametrize("where", ["at once", "later", "paused"])
def test_a_base_exception_of_a_generator_is_its_last_item(ray: Any, where: str) -> None:
    class Bare(BaseException):
        pass

    @ray.remote
    def items(first: int) -> Any:
        yield from range(first)
        raise Bare("rip")

    first = 0 if where == "at once" else 4
    options = {"_generator_backpressure_num_objects": 1} if where == "paused" else {}
    made = items.options(**options).remote(first)

    assert [ray.get(next(made)) for _ in range(first)] == list(range(first))
    with pytest.raises(ray.exceptions.RayTaskError, match="rip"):
        ray.get(next(made))
    with pytest.raises(StopIteration):
        next(made)
