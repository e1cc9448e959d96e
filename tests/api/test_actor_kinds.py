"""Async and threaded actors, concurrency groups, names and lifetimes, ends on purpose."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sparkray.exceptions import ActorAlreadyExistsError, ActorDiedError, RayActorError
from sparkray_core.run import object_ref
from tests.waiting import wait_until

LOCAL_MODE_TOO = True


@pytest.mark.needs_workers
def test_an_async_actor_runs_its_coroutines_at_once(ray: Any) -> None:
    class Meeting:
        def __init__(self, guests: int) -> None:
            self.guests = guests
            self.here = 0
            self.all_here = asyncio.Event()

        async def arrive(self) -> int:
            self.here += 1
            if self.here == self.guests:
                self.all_here.set()
            await self.all_here.wait()
            return self.here

        def count(self) -> int:
            return self.here

    meeting = ray.remote(Meeting).remote(100)
    assert ray.get([meeting.arrive.remote() for _ in range(100)], timeout=30) == [100] * 100
    assert ray.get(meeting.count.remote()) == 100


@pytest.mark.needs_workers
def test_an_async_actor_awaits_references_of_tasks_and_other_actors(ray: Any) -> None:
    @ray.remote
    def slow(x: int) -> int:
        time.sleep(0.05)
        return x

    class Adder:
        async def add(self, refs: list[Any]) -> int:
            return sum(await asyncio.gather(*refs))

        async def spawn(self, n: int) -> int:
            return sum(await asyncio.gather(*(slow.remote(i) for i in range(n))))

        async def fail(self) -> None:
            raise KeyError("in a coroutine")

    adder = ray.remote(Adder).remote()
    assert ray.get(adder.add.remote([slow.remote(i) for i in range(5)]), timeout=30) == 10
    assert ray.get(adder.spawn.remote(10), timeout=30) == 45
    with pytest.raises(KeyError, match="in a coroutine"):
        ray.get(adder.fail.remote(), timeout=30)


def test_an_async_actor_may_block_in_get(ray: Any) -> None:
    class Blocking:
        async def get(self, ref: list[Any]) -> Any:
            return ray.get(ref[0])

    assert ray.get(ray.remote(Blocking).remote().get.remote([ray.put(3)]), timeout=30) == 3

    @ray.remote
    def later() -> str:
        time.sleep(0.2)
        return "later"

    assert ray.get(ray.remote(Blocking).remote().get.remote([later.remote()]), timeout=30) == "later"


@pytest.mark.needs_workers
def test_max_concurrency_bounds_an_async_actor(ray: Any) -> None:
    class Bounded:
        def __init__(self) -> None:
            self.now = self.most = 0

        async def enter(self) -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1

        async def seen(self) -> int:
            return self.most

    bounded = ray.remote(max_concurrency=3)(Bounded).remote()
    ray.get([bounded.enter.remote() for _ in range(20)], timeout=30)
    assert ray.get(bounded.seen.remote()) == 3


@pytest.mark.needs_workers
def test_a_threaded_actor_runs_as_many_calls_at_once_as_it_may(ray: Any) -> None:
    class Gate:
        def __init__(self) -> None:
            self.barrier = threading.Barrier(4)

        def meet(self) -> int:
            return self.barrier.wait(20)

        def nested(self, refs: list[Any]) -> Any:
            return ray.get(refs[0])

    gate = ray.remote(max_concurrency=4)(Gate).remote()
    assert sorted(ray.get([gate.meet.remote() for _ in range(4)], timeout=30)) == [0, 1, 2, 3]
    assert ray.get(gate.nested.remote([ray.put("inner")]), timeout=30) == "inner"


@pytest.mark.needs_workers
def test_concurrency_groups_have_limits_of_their_own(ray: Any) -> None:
    class Grouped:
        def __init__(self) -> None:
            self.is_open = threading.Event()

        @ray.method(concurrency_group="io")
        def read(self) -> str:
            assert self.is_open.wait(60)
            return threading.current_thread().name

        def open(self) -> None:
            self.is_open.set()

        def compute(self) -> str:
            return threading.current_thread().name

    grouped = ray.remote(concurrency_groups={"io": 2, "compute": 1})(Grouped).remote()
    slow = [grouped.read.remote() for _ in range(2)]
    assert "default" in ray.get(grouped.compute.remote(), timeout=30)
    assert "compute" in ray.get(grouped.compute.options(concurrency_group="compute").remote(), timeout=30)
    ray.get(grouped.open.remote(), timeout=30)
    assert all("io" in name for name in ray.get(slow, timeout=30))
    with pytest.raises(ValueError, match="no concurrency group 'nothing'"):
        ray.get(grouped.compute.options(concurrency_group="nothing").remote(), timeout=30)


def test_method_options_give_the_number_of_returns(ray: Any) -> None:
    class Pairs:
        @ray.method(num_returns=2)
        def pair(self) -> tuple[int, int]:
            return 1, 2

    assert ray.get(ray.remote(Pairs).remote().pair.remote()) == [1, 2]


class Named:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def get(self) -> int:
        return self.value

    def pid(self) -> int:
        return os.getpid()

    def exit(self) -> None:
        import sparkray

        sparkray.actor.exit_actor()

    def system_exit(self) -> None:
        raise SystemExit(0)


@pytest.fixture
def named_class(ray: Any) -> Any:
    # By value: the workers cannot import this test module.
    return ray.remote(type("Named", (), {**Named.__dict__, "__module__": "__main__"}))


def test_a_named_actor_is_found_by_its_name_and_the_name_is_free_after_its_death(ray: Any, named_class: Any) -> None:
    first = named_class.options(name="box").remote(1)
    assert ray.get(ray.get_actor("box").get.remote(), timeout=30) == 1
    with pytest.raises(ActorAlreadyExistsError, match="box"):
        named_class.options(name="box").remote(2)
    with pytest.raises(ValueError, match="box"):
        named_class.options(name="box").remote(2)
    again = named_class.options(name="box", get_if_exists=True).remote(3)
    assert again is first

    @ray.remote
    def look() -> int:
        return int(ray.get(ray.get_actor("box").get.remote()))

    assert ray.get(look.remote(), timeout=30) == 1
    ray.kill(first)
    with pytest.raises(RayActorError):
        ray.get(first.get.remote(), timeout=30)
    second = named_class.options(name="box").remote(4)
    assert ray.get(ray.get_actor("box").get.remote(), timeout=30) == 4
    del second


def test_names_are_looked_up_in_their_namespace(ray: Any, named_class: Any) -> None:
    from sparkray.actor_handle import list_named_actors

    actor = named_class.options(name="x", namespace="elsewhere").remote(1)
    with pytest.raises(ValueError, match="Failed to look up actor with name 'x'"):
        ray.get_actor("x")
    assert ray.get(ray.get_actor("x", namespace="elsewhere").get.remote(), timeout=30) == 1
    assert {"name": "x", "namespace": "elsewhere"} in list_named_actors(all_namespaces=True)
    assert "x" not in list_named_actors()
    with pytest.raises(ValueError, match="not empty"):
        ray.get_actor("")
    with pytest.raises(ValueError, match="needs a name"):
        named_class.options(get_if_exists=True).remote()
    del actor


@pytest.mark.needs_workers
def test_who_is_told_that_a_handle_died_does_not_find_it_alive(
    ray: Any, named_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The side thread looks at once when it is woken, and would take it for one that came back: it lived for ever."""

    class Pump:
        asleep = True

        def wake(self) -> None:
            found.append(entry.weak())

    found: list[object] = []
    actor = named_class.remote(1)
    ray.get(actor.get.remote(), timeout=30)
    entry = actor._entry
    with monkeypatch.context() as patched:
        patched.setattr(object_ref, "current", SimpleNamespace(pump=Pump()))
        del actor
    object_ref.core().kick()
    assert found
    assert set(found) == {None}


@pytest.mark.needs_workers
def test_a_named_actor_goes_with_its_last_handle_and_a_detached_one_stays(ray: Any, named_class: Any) -> None:
    @ray.remote
    def create() -> int:
        kept = named_class.options(name="stays", lifetime="detached").remote(5)
        gone = named_class.options(name="goes").remote(6)
        return int(ray.get(kept.get.remote()) + ray.get(gone.get.remote()))

    assert ray.get(create.remote(), timeout=30) == 11

    def is_gone() -> bool:
        try:
            ray.get_actor("goes")
        except ValueError:
            return True
        return False

    wait_until(is_gone)
    stays = ray.get_actor("stays")
    assert ray.get(stays.get.remote(), timeout=30) == 5
    ray.kill(stays)


@pytest.mark.parametrize("end", ["exit", "system_exit", "__ray_terminate__"])
def test_an_actor_that_ends_itself_is_not_restarted(ray: Any, named_class: Any, end: str) -> None:
    actor = named_class.options(max_restarts=-1).remote(1)
    assert ray.get(actor.__ray_ready__.remote(), timeout=30) is True
    getattr(actor, end).remote()

    def is_dead() -> bool:
        try:
            ray.get(actor.get.remote(), timeout=30)
        except ActorDiedError:
            return True
        return False

    wait_until(is_dead)


def test_an_async_actor_can_end_itself_too(ray: Any) -> None:
    class Leaver:
        async def work(self) -> int:
            return 1

        async def leave(self) -> None:
            ray.actor.exit_actor()

    leaver = ray.remote(Leaver).remote()
    assert ray.get(leaver.work.remote(), timeout=30) == 1
    with pytest.raises(ActorDiedError):
        ray.get(leaver.leave.remote(), timeout=30)


def test_exit_actor_is_refused_outside_an_actor(ray: Any) -> None:
    with pytest.raises(TypeError, match="outside of an actor"):
        ray.actor.exit_actor()


def test_ray_call_runs_a_function_on_the_instance(ray: Any, named_class: Any) -> None:
    actor = named_class.remote(20)
    assert ray.get(actor.__ray_call__.remote(lambda self, x: self.value + x, 1), timeout=30) == 21


@pytest.mark.needs_workers
def test_shutdown_hook_runs_when_an_actor_ends_gently(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "hook"

    class Hooked:
        def ping(self) -> None: ...

        def __ray_shutdown__(self) -> None:
            mark.write_text("ran")

    hooked = ray.remote(Hooked).remote()
    ray.get(hooked.ping.remote(), timeout=30)
    del hooked
    wait_until(mark.exists)


def test_sys_exit_in_a_task_is_a_crashed_worker(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(ray.exceptions.WorkerCrashedError, match="exit code 3"):
        ray.get(leave.remote(), timeout=30)
