"""Actors through the public API, on real processes."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from sparkray.exceptions import ActorDiedError, RayActorError
from tests.waiting import is_running, wait_until

LOCAL_MODE_TOO = True


class Counter:
    """Counts, and tells where it lives."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("inside")

    def pair(self) -> tuple[int, int]:
        return 1, 2

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def counter_class(ray: Any) -> Any:
    # By value: the workers cannot import this test module.
    cls = type("Counter", (), {**Counter.__dict__, "__module__": "__main__"})
    return ray.remote(cls)


def test_an_actor_keeps_its_state_and_the_order_of_calls(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote(10)
    assert ray.get([counter.increment.remote() for _ in range(500)]) == list(range(11, 511))
    assert ray.get(counter.increment.remote(by=-10)) == 500


def test_an_actor_survives_what_its_methods_raise(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote()
    with pytest.raises(KeyError, match="inside"):
        ray.get(counter.fail.remote())
    assert ray.get(counter.increment.remote()) == 1


def test_unknown_methods_and_direct_calls_are_refused_at_once(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        counter.nothing.remote()
    with pytest.raises(TypeError, match=r"increment\.remote"):
        counter.increment()
    with pytest.raises(TypeError, match=r"\.remote\(\)"):
        counter_class()
    with pytest.raises(TypeError, match="too many positional"):
        counter_class.remote(1, 2)


def test_a_method_may_return_several_references(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote()
    first, second = counter.pair.options(num_returns=2).remote()
    assert ray.get([second, first]) == [2, 1]


def test_a_handle_can_be_passed_to_tasks_and_actors(ray: Any, counter_class: Any) -> None:
    @ray.remote
    def increment(handle: Any, times: int) -> int:
        return int(ray.get([handle.increment.remote() for _ in range(times)])[-1])

    counter = counter_class.remote()
    assert sorted(ray.get([increment.remote(counter, 10) for _ in range(3)]))[-1] == 30
    assert ray.get(increment.remote(counter, 1)) == 31


def test_calls_wait_for_their_arguments_in_order(ray: Any, counter_class: Any) -> None:
    @ray.remote
    def slow(value: int) -> int:
        time.sleep(0.2)
        return value

    counter = counter_class.remote()
    refs = [counter.increment.remote(slow.remote(100)), counter.increment.remote()]
    assert ray.get(refs) == [100, 101]


def test_a_constructor_that_raises_makes_every_call_fail_with_its_traceback(ray: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("not today")

        def method(self) -> None: ...

    with pytest.raises(ActorDiedError, match="not today"):
        ray.get(ray.remote(Broken).remote().method.remote(), timeout=30)


@pytest.mark.needs_workers
def test_kill_ends_the_actor_and_fails_its_calls(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote()
    pid = ray.get(counter.pid.remote())
    running = counter.sleep.remote(60)
    ray.kill(counter)

    with pytest.raises(RayActorError):
        ray.get(running, timeout=30)
    with pytest.raises(ActorDiedError, match=r"ray\.kill"):
        ray.get(counter.increment.remote(), timeout=30)
    wait_until(lambda: not is_running(pid))
    with pytest.raises(ValueError, match="actor handle"):
        ray.kill("counter")


@pytest.mark.needs_workers
def test_an_actor_whose_worker_is_killed_is_restarted_as_often_as_allowed(ray: Any, counter_class: Any) -> None:
    counter = counter_class.options(max_restarts=1).remote(5)
    first = ray.get(counter.pid.remote())
    os.kill(first, signal.SIGKILL)

    def answer() -> int:
        try:
            pid: int = ray.get(counter.pid.remote(), timeout=30)
            return pid
        except RayActorError:
            return int(first)

    wait_until(lambda: answer() != first, limit=30)
    assert ray.get(counter.increment.remote()) == 6  # the constructor ran again
    os.kill(ray.get(counter.pid.remote()), signal.SIGKILL)
    with pytest.raises(RayActorError):
        ray.get([counter.sleep.remote(1), counter.increment.remote()], timeout=30)
    with pytest.raises(ActorDiedError):
        ray.get(counter.increment.remote(), timeout=30)


@pytest.mark.needs_workers
def test_an_actor_ends_with_its_last_handle_after_the_calls_made(ray: Any, counter_class: Any) -> None:
    counter = counter_class.remote()
    pid = ray.get(counter.pid.remote())
    last = counter.increment.remote()
    del counter

    assert ray.get(last) == 1
    wait_until(lambda: not is_running(pid))
    assert ray.get(counter_class.remote(7).increment.remote(), timeout=30) == 8


@pytest.mark.needs_workers
def test_an_actor_s_resources_are_held_for_life_and_come_back(ray: Any) -> None:
    class Holder:
        def ping(self) -> str:
            return "here"

    @ray.remote(resources={"special": 1})
    def other() -> str:
        return "ran"

    holder = ray.remote(resources={"special": 1})(Holder).remote()
    assert ray.get(holder.ping.remote(), timeout=30) == "here"
    ref = other.remote()
    assert ray.wait([ref], timeout=0.3) == ([], [ref])
    ray.kill(holder)
    assert ray.get(ref, timeout=30) == "ran"


def test_actors_call_each_other(ray: Any, counter_class: Any) -> None:
    class Front:
        def __init__(self, back: Any) -> None:
            self.back = back

        def call(self) -> int:
            return int(ray.get(self.back.increment.remote()))

    front = ray.remote(Front).remote(counter_class.remote(41))
    assert ray.get(front.call.remote(), timeout=30) == 42


def test_more_actors_than_cpus(ray: Any, counter_class: Any) -> None:
    actors = [counter_class.remote(i) for i in range(12)]
    assert ray.get([actor.increment.remote() for actor in actors], timeout=60) == list(range(1, 13))
