"""Cancelling tasks and calls: waiting, running, asleep, nested, in actors."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading
import time
from typing import Any

import pytest

from sparkray.exceptions import RayTaskError, TaskCancelledError
from tests.waiting import wait_until

LONG = 60


def test_a_running_task_is_interrupted_even_in_a_sleep(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "running"

    @ray.remote
    def sleep() -> None:
        mark.write_text("yes")
        time.sleep(LONG)

    ref = sleep.remote()
    wait_until(mark.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError) as caught:
        ray.get(ref, timeout=20)
    assert isinstance(caught.value, RayTaskError)  # Ray's own examples catch that
    assert type(caught.value).__name__ == "RayTaskError(TaskCancelledError)"
    assert str(caught.value).startswith(f"ray::sleep() (pid={caught.value.pid}, ip=127.0.0.1)\n")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    @ray.remote
    def after() -> str:
        return "the worker goes on"

    assert ray.get([after.remote() for _ in range(20)], timeout=30) == ["the worker goes on"] * 20


def test_a_waiting_task_is_dropped(ray: Any) -> None:
    @ray.remote(resources={"special": 1})
    def hold() -> None:
        time.sleep(LONG)

    @ray.remote(resources={"special": 1})
    def never() -> None: ...

    @ray.remote
    def depends(x: Any) -> None: ...

    first = hold.remote()
    waiting, dependent = never.remote(), depends.remote(first)
    for ref in (waiting, dependent, first):
        ray.cancel(ref)
        with pytest.raises(TaskCancelledError) as caught:
            ray.get(ref, timeout=20)
        assert ref is first or type(caught.value) is TaskCancelledError  # what had not begun is no error of a task
    assert ray.get(never.remote(), timeout=30) is None


def test_a_waiting_task_that_another_thread_drops_is_told_at_once(ray: Any, tmp_path: Any) -> None:
    """No message comes that would wake the thread which waits: it hears from the other one."""
    go = tmp_path / "go"

    @ray.remote
    def wait() -> None:
        while not go.exists():
            time.sleep(0.01)

    @ray.remote
    def after(done: None) -> None: ...

    ref = after.remote(wait.remote())
    timer = threading.Timer(0.3, lambda: ray.cancel(ref))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=60)
    assert time.monotonic() - begin < 30
    timer.join()
    go.touch()


def test_force_kills_the_worker_and_the_task_is_not_retried(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "runs"

    @ray.remote
    def stubborn() -> None:
        with mark.open("a") as file:
            file.write("x")
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(LONG)

    ref = stubborn.remote()
    wait_until(lambda: mark.exists() and mark.read_text())
    ray.cancel(ref, force=True)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=20)
    assert mark.read_text() == "x"


def test_a_task_that_catches_the_interrupt_returns_its_value(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "running"

    @ray.remote
    def catching() -> str:
        try:
            mark.write_text("yes")
            time.sleep(LONG)
        except KeyboardInterrupt:
            return "caught"
        return "slept"

    ref = catching.remote()
    wait_until(mark.exists)
    ray.cancel(ref)
    assert ray.get(ref, timeout=20) == "caught"


def test_children_are_cancelled_with_their_parent(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "child"

    @ray.remote
    def child() -> None:
        try:  # from its first line on: the file is there before it is written and closed
            mark.write_text("begun")
            time.sleep(LONG)
        finally:
            mark.write_text("ended")

    @ray.remote
    def parent() -> None:
        ray.get(child.remote())

    ref = parent.remote()
    wait_until(mark.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=20)
    wait_until(lambda: mark.read_text() == "ended")


def test_a_finished_task_keeps_its_value(ray: Any) -> None:
    @ray.remote
    def done() -> int:
        return 1

    ref = done.remote()
    assert ray.get(ref) == 1
    ray.cancel(ref)
    assert ray.get(ref) == 1
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.cancel(5)


def test_calls_of_actors_are_cancelled_and_the_actor_lives_on(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "running"

    class Sleeper:
        def sleep(self) -> None:
            mark.write_text("yes")
            time.sleep(LONG)

        def ping(self) -> str:
            return "here"

    class AsyncSleeper:
        async def sleep(self) -> None:
            mark.write_text("yes")
            await asyncio.sleep(LONG)

        async def ping(self) -> str:
            return "here"

    for cls in (Sleeper, AsyncSleeper):
        mark.unlink(missing_ok=True)
        actor = ray.remote(cls).remote()
        running = actor.sleep.remote()
        wait_until(mark.exists)
        with pytest.raises(ValueError, match="kill"):
            ray.cancel(running, force=True)
        ray.cancel(running)
        with pytest.raises(RayTaskError, match=rf"ray::{cls.__name__}.sleep\(\)") as caught:
            ray.get(running, timeout=20)
        assert isinstance(caught.value, TaskCancelledError)
        assert ray.get(actor.ping.remote(), timeout=20) == "here"


def test_what_a_cancelled_call_keeps_of_its_arguments_stays_good(ray: Any, tmp_path: Any) -> None:
    mark = tmp_path / "kept"

    class Keeper:
        def keep(self, refs: list[Any]) -> None:
            self.kept = refs[0]
            mark.write_text("yes")
            time.sleep(LONG)

        def look(self) -> Any:
            return ray.get(self.kept, timeout=20)

    class Streamer(Keeper):
        def keep(self, refs: list[Any]) -> Any:
            super().keep(refs)
            yield 1

    class AsyncKeeper:
        async def keep(self, refs: list[Any]) -> None:
            self.kept = refs[0]
            mark.write_text("yes")
            await asyncio.sleep(LONG)

        async def look(self) -> Any:
            return await self.kept

    for cls in (Keeper, Streamer, AsyncKeeper):
        mark.unlink(missing_ok=True)
        actor = ray.remote(cls).remote()
        ref = ray.put(["something"])
        running = actor.keep.remote([ref])
        wait_until(mark.exists)
        ray.cancel(running)
        with pytest.raises(TaskCancelledError):
            ray.get(next(running) if cls is Streamer else running, timeout=20)
        del ref
        assert ray.get(actor.look.remote(), timeout=20) == ["something"]


def test_results_of_a_task_that_fails_as_they_are_packed_leave_nothing_in_the_store(ray: Any) -> None:
    from sparkray_core.run.object_ref import core

    @ray.remote(num_returns=2)
    def half() -> Any:
        return bytes(1 << 20), threading.Lock()

    @ray.remote(num_returns=3)
    def broken_off() -> Any:
        yield bytes(1 << 20)
        raise KeyboardInterrupt

    def stored() -> int:
        return len(core().ask(core().raylet_id, "objects")["stored"])

    before = stored()
    for task in (half, broken_off):
        for ref in task.remote():
            with pytest.raises(RayTaskError):
                ray.get(ref, timeout=20)
    wait_until(lambda: stored() == before)


def test_an_async_def_task_runs_on_a_loop_of_its_own(ray: Any) -> None:
    @ray.remote
    async def task(x: int) -> int:
        await asyncio.sleep(0.01)
        return x + 1

    assert ray.get([task.remote(i) for i in range(5)], timeout=30) == [1, 2, 3, 4, 5]
