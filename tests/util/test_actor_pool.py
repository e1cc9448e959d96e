"""`ActorPool` on real actors."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from sparkray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError
from sparkray.util import ActorPool


@pytest.fixture
def new_actor(ray: Any) -> Any:
    class Worker:
        def double(self, value: int) -> int:
            return 2 * value

        def slowly(self, value: float) -> float:
            time.sleep(value)
            return value

        def inverse(self, value: int) -> float:
            return 1 / value

        def pair(self, value: int) -> tuple[int, int]:
            return value, -value

        def die(self, _: Any = None) -> None:
            os._exit(1)

    return ray.remote(Worker).remote


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def slowly(actor: Any, value: float) -> Any:
    return actor.slowly.remote(value)


def test_results_come_in_the_order_of_submission(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    for value in (0.2, 0.1, 0.0, 0.05):
        pool.submit(slowly, value)

    got = []
    while pool.has_next():
        got.append(pool.get_next())

    assert got == [0.2, 0.1, 0.0, 0.05]
    with pytest.raises(StopIteration):
        pool.get_next()


def test_unordered_results_come_as_they_are_done(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    pool.submit(slowly, 0.6)
    pool.submit(slowly, 0.0)
    pool.submit(slowly, 0.1)

    assert [pool.get_next_unordered() for _ in range(3)] == [0.0, 0.1, 0.6]
    with pytest.raises(StopIteration):
        pool.get_next_unordered()


def test_map_keeps_the_order_and_is_lazy_about_results(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    results = pool.map(double, range(50))
    assert next(results) == 0
    assert list(results) == [2 * value for value in range(1, 50)]
    assert list(pool.map(double, iter([]))) == []


def test_map_unordered_gives_all_results(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    assert sorted(pool.map_unordered(double, range(200))) == [2 * value for value in range(200)]


def test_each_actor_does_one_thing_at_a_time(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    began = time.monotonic()
    assert list(pool.map(slowly, [0.2] * 4)) == [0.2] * 4
    assert time.monotonic() - began >= 0.4


def test_a_new_map_drops_what_nobody_took(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    pool.submit(double, 1000)
    abandoned = pool.map(double, [2000, 3000, 4000])
    assert next(abandoned) == 4000
    assert list(pool.map(double, [1, 2])) == [2, 4]
    assert sorted(pool.map_unordered(double, [1, 2])) == [2, 4]


def test_get_next_times_out_and_can_be_asked_again(new_actor: Any) -> None:
    pool = ActorPool([new_actor()])
    pool.submit(slowly, 0.4)
    with pytest.raises(TimeoutError):
        pool.get_next(timeout=0.01)
    with pytest.raises(TimeoutError):
        pool.get_next_unordered(timeout=0.01)
    assert pool.get_next(timeout=30) == 0.4
    assert not pool.has_next()


@pytest.mark.parametrize("take", ["get_next", "get_next_unordered"])
def test_a_result_that_is_late_can_be_given_up(new_actor: Any, take: str) -> None:
    used = []

    def noted(actor: Any, value: float) -> Any:
        used.append(actor)
        return slowly(actor, value)

    pool = ActorPool([new_actor(), new_actor()])
    pool.submit(noted, 0.5)
    with pytest.raises(TimeoutError, match="has been ignored"):
        getattr(pool, take)(timeout=0.01, ignore_if_timedout=True)
    assert not pool.has_next()
    assert pool.has_free()
    pool.submit(noted, 0.0)
    assert pool.get_next(timeout=30) == 0.0
    first, second = used
    assert first is not second  # which was not busy


def test_get_next_after_unordered_is_refused_when_the_order_is_through(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    pool.submit(slowly, 0.5)
    pool.submit(slowly, 0.0)
    assert pool.get_next_unordered() == 0.0
    with pytest.raises(ValueError, match=r"get_next\(\) after get_next_unordered"):
        pool.get_next()
    assert pool.get_next_unordered() == 0.5
    pool.submit(double, 1)
    assert pool.get_next() == 2


def test_methods_of_several_returns(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])

    def both(actor: Any, value: int) -> Any:
        return actor.pair.options(num_returns=2).remote(value)

    assert list(pool.map(both, range(3))) == [[0, 0], [1, -1], [2, -2]]
    assert sorted(pool.map_unordered(both, range(3))) == [[0, 0], [1, -1], [2, -2]]


def test_after_an_error_the_rest_is_still_there(new_actor: Any) -> None:
    pool = ActorPool([new_actor()])
    results = pool.map(lambda actor, value: actor.inverse.remote(value), [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert isinstance(caught.value, RayTaskError)
    assert pool.get_next() == 0.5
    assert not pool.has_next()
    assert pool.has_free()


def test_pop_idle_and_push(new_actor: Any) -> None:
    first, second = new_actor(), new_actor()
    pool = ActorPool([first])
    pool.submit(double, 1)
    assert not pool.has_free()
    assert pool.pop_idle() is None
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(first)
    pool.push(second)
    assert pool.has_free()
    with pytest.raises(ValueError, match="already belongs"):
        pool.push(second)
    assert pool.pop_idle() is second
    assert pool.get_next() == 2
    assert pool.pop_idle() is first
    assert pool.pop_idle() is None
    assert not pool.has_free()


def test_a_pushed_actor_takes_what_waits_in_line(new_actor: Any) -> None:
    pool = ActorPool([])
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert pool.has_next()
    pool.push(new_actor())
    assert [pool.get_next(), pool.get_next()] == [2, 4]


def test_an_actor_that_died_leaves_the_pool(new_actor: Any) -> None:
    pool = ActorPool([new_actor(), new_actor()])
    pool.submit(lambda actor, value: actor.die.remote(value), 0)
    with pytest.raises(ActorDiedError):
        pool.get_next()
    assert list(pool.map(double, range(10))) == [2 * value for value in range(10)]
    assert pool.pop_idle() is not None
    assert pool.pop_idle() is None


def test_with_no_actor_left_each_value_in_line_is_answered_by_an_error(new_actor: Any) -> None:
    pool = ActorPool([new_actor()])
    pool.submit(lambda actor, value: actor.die.remote(value), 0)
    pool.submit(double, 1)
    pool.submit(double, 2)
    errors = 0
    while pool.has_next():
        with pytest.raises(ActorDiedError):
            pool.get_next()
        errors += 1
    assert errors == 3


def test_a_function_that_raises_keeps_the_actor_in_the_pool(new_actor: Any) -> None:
    pool = ActorPool([new_actor()])
    with pytest.raises(AttributeError, match="nothing"):
        pool.submit(lambda actor, value: actor.nothing.remote(value), 1)
    with pytest.raises(TypeError, match="must return"):
        pool.submit(lambda actor, value: value, 1)
    pool.submit(double, 1)
    pool.submit(lambda actor, value: actor.nothing.remote(value), 2)  # when the actor is free, so in get_next
    pool.submit(double, 3)
    assert pool.get_next() == 2
    with pytest.raises(AttributeError, match="nothing"):
        pool.get_next()
    assert pool.get_next() == 6
    assert pool.has_free()


def test_a_pool_can_be_used_in_a_task(ray: Any, new_actor: Any) -> None:
    actors = [new_actor(), new_actor()]

    @ray.remote
    def total(actors: list[Any]) -> int:
        pool = ActorPool(actors)
        return sum(pool.map_unordered(lambda actor, value: actor.double.remote(value), range(20)))

    assert ray.get(total.remote(actors)) == 380


def test_get_next_does_not_take_what_get_timed_out_on(ray: Any, new_actor: Any) -> None:
    pool = ActorPool([new_actor()])
    pool.submit(slowly, 0.2)
    [ref] = pool._jobs[0].refs
    with pytest.raises(GetTimeoutError):
        ray.get(ref, timeout=0.01)
    assert pool.get_next() == 0.2
