"""What Ray's own tests ask of actors that work on several calls at once, and of calls that are made again or cancelled,
where no other test of ours does. (tests/compat/README.md says which file of Ray's is covered where.)"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
)

Wait = Callable[..., None]
KINDS = ("serial", "threaded", "async")


class Gate:
    """Waits until it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.waits = 0

    async def wait(self) -> str:
        self.waits += 1
        await self.event.wait()
        return "open"

    async def open(self) -> None:
        self.event.set()

    async def waiting(self) -> int:
        return self.waits


# ---------------------------------------------------------------------------------- event loops
def test_an_async_actor_is_constructed_on_its_loop_and_never_leaves_its_thread(ray: Any) -> None:
    class OnLoop:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()
            self.thread = threading.get_ident()
            self.ticks = 0
            self.ticked = asyncio.Event()
            self.background = asyncio.create_task(self.tick())

        async def tick(self) -> None:
            while True:
                await asyncio.sleep(0.001)
                self.ticks += 1
                self.ticked.set()

        async def later(self) -> bool:
            await self.ticked.wait()
            return asyncio.get_running_loop() is self.loop and threading.get_ident() == self.thread

        def at_once(self) -> bool:
            return asyncio.get_event_loop() is self.loop and threading.get_ident() == self.thread

    actor = ray.remote(OnLoop).remote()
    assert ray.get([actor.later.remote(), actor.at_once.remote()], timeout=30) == [True, True]


def test_more_calls_at_once_than_python_can_recurse(ray: Any) -> None:
    class Batcher:
        def __init__(self, size: int) -> None:
            self.size, self.batch, self.full = size, list[int](), asyncio.Event()

        async def add(self, x: int) -> int:
            self.batch.append(x)
            if len(self.batch) >= self.size:
                self.full.set()
            await self.full.wait()
            return len(self.batch)

    size = sys.getrecursionlimit() * 4
    batcher = ray.remote(Batcher).options(max_concurrency=2 * size).remote(size)
    assert ray.get([batcher.add.remote(n) for n in range(size)], timeout=100) == [size] * size


def test_an_async_actor_of_one_call_at_a_time_ends_each_before_the_next(ray: Any) -> None:
    class Records:
        def __init__(self) -> None:
            self.history: list[str] = []

        async def work(self) -> None:
            self.history.append("begun")
            await asyncio.sleep(0)
            self.history.append("ended")

        def seen(self) -> list[str]:
            return self.history

    records = ray.remote(Records).options(max_concurrency=1).remote()
    ray.get([records.work.remote() for _ in range(10)])
    assert ray.get(records.seen.remote()) == ["begun", "ended"] * 10


def test_a_reference_can_be_awaited_again_after_a_wait_that_timed_out(ray: Any) -> None:
    gate = ray.remote(Gate).remote()

    async def main() -> list[str]:
        ref = gate.wait.remote()
        future = ref.as_future()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(future, timeout=0.05)
        assert future.cancelled()
        await gate.open.remote()
        return [await ref, await ref]

    assert asyncio.run(main()) == ["open", "open"]


def test_futures_of_values_large_and_small_and_of_failures(ray: Any) -> None:
    class Echo:
        def echo(self, value: Any) -> Any:
            return value

        def fails(self) -> None:
            raise ZeroDivisionError

    echo = ray.remote(Echo).remote()

    async def main() -> None:
        small, large = echo.echo.remote(2).as_future(), echo.echo.remote(b"x" * 300_000).as_future()
        assert tuple(await asyncio.gather(small, large)) == (2, b"x" * 300_000)
        with pytest.raises(RayTaskError):
            await echo.fails.remote().as_future()

    asyncio.run(main())
    futures = [echo.echo.remote(n).future() for n in range(50)]
    assert {future.result() for future in concurrent.futures.as_completed(futures, timeout=60)} == set(range(50))
    ray.kill(echo)

    async def of_the_dead() -> None:
        await echo.echo.remote(1)

    with pytest.raises(RayActorError):
        asyncio.run(of_the_dead())


def test_a_callback_is_called_with_the_value(ray: Any, wait_until: Wait) -> None:
    seen: list[Any] = []
    gate = ray.remote(Gate).remote()
    ray.put("there")._on_completed(seen.append)
    gate.wait.remote()._on_completed(seen.append)
    wait_until(lambda: seen == ["there"])
    ray.get(gate.open.remote())
    wait_until(lambda: seen == ["there", "open"])


def test_exit_actor_does_not_wait_for_coroutines_that_run_for_ever(ray: Any) -> None:
    class Forever:
        async def loop(self) -> None:
            while True:
                await asyncio.sleep(5)

        async def exit(self) -> None:
            ray.actor.exit_actor()

    forever = ray.remote(Forever).remote()
    running = forever.loop.remote()
    for ref in (forever.exit.remote(), running):
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=30)


# ---------------------------------------------------------------------------------- threads and groups
def test_threads_of_an_actor_share_the_api(ray: Any, wait_until: Wait) -> None:
    @ray.remote(num_cpus=0)
    def small(n: int) -> int:
        return n

    @ray.remote(num_cpus=0)
    def large(n: int) -> Any:
        return np.full(50_000, n)

    class Threaded:
        def gets(self, n: int) -> tuple[int, int]:
            ref = ray.put(np.full(50_000, n))
            return ray.get(small.remote(n)), int(ray.get(large.remote(n))[0] + ray.get(ref)[-1])

    actor = ray.remote(Threaded).options(max_concurrency=5, num_cpus=1).remote()
    assert ray.get([actor.gets.remote(n) for n in range(20)], timeout=100) == [(n, 2 * n) for n in range(20)]
    ray.kill(actor)
    wait_until(lambda: ray.available_resources().get("CPU") == 4)


@pytest.mark.parametrize("how", ["kill", "exit_actor", "terminate"])
def test_threaded_actors_end_in_the_middle_of_their_calls(ray: Any, wait_until: Wait, how: str) -> None:
    gate = ray.remote(Gate).remote()

    class Busy:
        def work(self, waits: Any) -> str:
            value: str = ray.get(waits.wait.remote())
            return value

        def exit(self) -> None:
            ray.actor.exit_actor()

    actor = ray.remote(Busy).options(max_concurrency=3, num_cpus=1).remote()
    refs = [actor.work.remote(gate) for _ in range(2)]
    wait_until(lambda: ray.get(gate.waiting.remote()) == 2)
    if how == "kill":
        ray.kill(actor)
    elif how == "exit_actor":
        actor.exit.remote()
    else:
        actor.__ray_terminate__.remote()
    ray.get(gate.open.remote())

    def end_of(ref: Any) -> str:
        try:
            return str(ray.get(ref, timeout=30))
        except ActorDiedError:
            return "dead"

    ended = [end_of(ref) for ref in refs]
    assert ended == ["dead" if how == "kill" else "open"] * 2  # what has begun may end
    wait_until(lambda: ray.available_resources().get("CPU") == 4)


def test_a_group_that_is_full_holds_up_only_its_own_calls(ray: Any) -> None:
    """In threads and in coroutines; the group of a method, and of one call."""
    gate = ray.remote(Gate).remote()

    class Threads:
        @ray.method(concurrency_group="one")
        def waits(self, some: Any) -> str:
            value: str = ray.get(some.wait.remote())
            return value

        @ray.method(concurrency_group="two")
        def quick(self) -> str:
            return "quick"

        def default(self) -> str:
            return "default"

    class Coroutines:
        @ray.method(concurrency_group="one")
        async def waits(self, some: Any) -> str:
            value: str = await some.wait.remote()
            return value

        @ray.method(concurrency_group="two")
        async def quick(self) -> str:
            return "quick"

        async def default(self) -> str:
            return "default"

    for cls in (Threads, Coroutines):
        actor = ray.remote(concurrency_groups={"one": 1, "two": 1})(cls).remote()
        held = [actor.waits.remote(gate), actor.quick.options(concurrency_group="one").remote()]
        assert ray.get([actor.quick.remote(), actor.default.remote()], timeout=30) == ["quick", "default"]
        assert ray.wait(held, num_returns=2, timeout=0)[0] == []
        ray.get(gate.open.remote())
        assert ray.get(held, timeout=30) == ["open", "quick"]
        gate = ray.remote(Gate).remote()


def test_an_order_that_cannot_be_kept_is_refused(ray: Any) -> None:
    class Coroutine:
        async def m(self) -> None: ...

    class Plain:
        def m(self) -> None: ...

    for make in (
        lambda: ray.remote(Coroutine).options(allow_out_of_order_execution=False).remote(),
        lambda: ray.remote(allow_out_of_order_execution=False)(Coroutine).remote(),
        lambda: ray.remote(max_concurrency=2)(Plain).options(allow_out_of_order_execution=False).remote(),
        lambda: ray.remote(max_concurrency=2, allow_out_of_order_execution=False)(Plain).remote(),
    ):
        with pytest.raises(ValueError, match="order"):
            make()


# ---------------------------------------------------------------------------------- made again
class Wrong(Exception):
    pass


class Trouble:
    """Each run of `act` does the next of the actions; the runs are counted in a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def act(self, actions: list[str]) -> int:
        runs = len(Path(self.path).read_text()) if os.path.exists(self.path) else 0
        with open(self.path, "a") as path:
            path.write("x")
        action = actions[runs] if runs < len(actions) else "return"
        if action == "exit":
            os._exit(0)
        if action == "raise":
            raise Wrong
        return runs


class AsyncTrouble(Trouble):
    async def act(self, actions: list[str]) -> int:  # type: ignore[override]
        return Trouble.act(self, actions)


def make_trouble(ray: Any, kind: str, path: Path, restarts: int) -> Any:
    cls = AsyncTrouble if kind == "async" else Trouble
    threads = {"max_concurrency": 2} if kind == "threaded" else {}
    return ray.remote(cls).options(max_restarts=restarts, **threads).remote(str(path))


@pytest.mark.parametrize(
    ("actions", "ends"),
    [
        (["exit", "raise"], 2),
        (["raise", "exit"], 2),
        (["exit", "raise", "raise"], Wrong),
        (["raise", "raise", "exit"], ActorUnavailableError),
        (["raise", "exit", "exit"], ActorDiedError),
    ],
)
def test_retries_after_deaths_and_exceptions_are_counted_together(
    ray: Any, tmp_path: Path, actions: list[str], ends: Any
) -> None:
    """Two retries and one restart; three runs in any case, in each kind of actor."""
    actors = {kind: make_trouble(ray, kind, tmp_path / kind, restarts=1) for kind in KINDS}
    refs = {
        kind: actor.act.options(max_task_retries=2, retry_exceptions=[Wrong]).remote(actions)
        for kind, actor in actors.items()
    }
    for ref in refs.values():
        if isinstance(ends, int):
            assert ray.get(ref, timeout=60) == ends
        else:
            with pytest.raises(ends):
                ray.get(ref, timeout=60)
    assert [(tmp_path / kind).read_text() for kind in KINDS] == ["xxx"] * 3


def test_a_generator_that_is_made_again_yields_each_item_once(ray: Any) -> None:
    class Yields:
        def __init__(self) -> None:
            self.steps = iter([1, Wrong, 1, Wrong, 1, Wrong, 1, 2, 3])
            self.taken = 0

        async def items(self) -> Any:
            for step in self.steps:
                self.taken += 1
                if step is Wrong:
                    raise Wrong
                yield step

        async def count(self) -> int:
            return self.taken

    yields = ray.remote(Yields).remote()
    items = yields.items.options(max_task_retries=3, retry_exceptions=[Wrong], num_returns="streaming").remote()
    assert [ray.get(item) for item in items] == [1, 2, 3]
    assert ray.get(yields.count.remote()) == 9
    once = ray.remote(Yields).remote()
    items = once.items.options(max_task_retries=3).remote()  # no exception was named
    assert ray.get(next(items)) == 1
    with pytest.raises(Wrong):
        ray.get(next(items))
    with pytest.raises(StopIteration):
        next(items)


def test_a_call_that_needs_the_result_of_one_that_is_made_again_gets_it(ray: Any) -> None:
    class Chain:
        def __init__(self) -> None:
            self.runs = 0

        @ray.method(max_task_retries=1, retry_exceptions=[Wrong])
        def first(self) -> int:
            self.runs += 1
            if self.runs == 1:
                raise Wrong
            return self.runs

        def second(self, value: int) -> int:
            return value + 1

    chain = ray.remote(Chain).remote()
    assert ray.get(chain.second.remote(chain.first.remote()), timeout=30) == 3


# ---------------------------------------------------------------------------------- cancelled
def test_calls_of_async_actors_are_cancelled_wherever_they_are(ray: Any, wait_until: Wait) -> None:
    """Running; behind another in the actor; waiting for an argument; waiting for the actor; at its end."""

    class Cancelled:
        def __init__(self) -> None:
            self.seen: list[str] = []

        async def runs(self, waits: Any) -> None:
            self.seen.append("runs")
            try:
                await waits.wait.remote()
            except asyncio.CancelledError:
                self.seen.append("cancelled")
                raise

        async def quick(self, _: Any = None) -> str:
            self.seen.append("quick")
            return "quick"

        def what(self) -> list[str]:
            return self.seen

    gate = ray.remote(Gate).remote()
    actor = ray.remote(Cancelled).options(max_concurrency=1).remote()
    done = actor.quick.remote()
    assert ray.get(done) == "quick"
    ray.cancel(done)
    assert ray.get(done) == "quick"

    running, queued = actor.runs.remote(gate), actor.quick.remote()
    unready = actor.quick.remote(gate.wait.remote())
    wait_until(lambda: ray.get(gate.waiting.remote()) == 2)
    for ref in (unready, queued, running):
        ray.cancel(ref)
        with pytest.raises(TaskCancelledError):
            ray.get(ref, timeout=30)
    assert ray.get(actor.what.remote(), timeout=30) == ["quick", "runs", "cancelled"]

    unborn = ray.remote(Gate).options(resources={"special": 1})
    first, second = unborn.remote(), unborn.remote()  # there is room for one
    ray.get(first.waiting.remote())
    waiting = second.wait.remote()
    ray.cancel(waiting)
    with pytest.raises(TaskCancelledError):
        ray.get(waiting, timeout=30)
    del first
    assert ray.get(second.waiting.remote(), timeout=30) == 0


# ---------------------------------------------------------------------------------- lifetimes
@pytest.mark.parametrize("lifetime", [None, "non_detached", "detached"])
def test_who_outlives_the_actor_that_made_it(ray: Any, wait_until: Wait, lifetime: str | None) -> None:
    class Child:
        def ready(self) -> bool:
            return True

    class Owner:
        def make(self) -> Any:
            self.child = ray.remote(Child).options(lifetime=lifetime).remote()
            ray.get(self.child.ready.remote())
            return self.child

        def die(self) -> None:
            os._exit(1)

    owner = ray.remote(Owner).remote()
    child = ray.get(owner.make.remote())
    with pytest.raises(ActorDiedError):
        ray.get(owner.die.remote())
    if lifetime == "detached":
        assert ray.get(child.ready.remote(), timeout=30)
        ray.kill(child)
        return

    def dead() -> bool:
        try:
            ray.get(child.ready.remote())
        except RayActorError:
            return True
        return False

    wait_until(dead)
