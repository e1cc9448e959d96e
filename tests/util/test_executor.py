"""`RayExecutor`: `concurrent.futures` on tasks."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import WorkerCrashedError
from sparkray.util.executor import RayExecutor

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture
def executor(ray: Any) -> Iterator[RayExecutor]:
    with RayExecutor() as made:
        yield made


@pytest.fixture
def one(ray: Any) -> Iterator[RayExecutor]:
    """One task at a time."""
    with RayExecutor(max_workers=1) as made:
        yield made


def test_futures_get_their_values(executor: RayExecutor) -> None:
    assert executor.submit(pow, 2, 3).result(30) == 8
    assert executor.submit(int, "11", base=2).result(30) == 3
    assert executor.submit(os.getpid).result(30) != os.getpid()
    assert list(executor.map(lambda a, b: a + b, range(100), range(100))) == [2 * value for value in range(100)]


def test_futures_get_what_tasks_raise(executor: RayExecutor) -> None:
    assert isinstance(executor.submit(divmod, 1, 0).exception(30), ZeroDivisionError)
    with pytest.raises(TypeError, match="lock"):
        executor.submit(str, threading.Lock())
    with RayExecutor(ray_remote_args={"max_retries": 0}) as frail:
        assert isinstance(frail.submit(os._exit, 1).exception(30), WorkerCrashedError)


def test_references_are_replaced_by_their_values(ray: Any, executor: RayExecutor) -> None:
    assert executor.submit(abs, ray.put(-1)).result(30) == 1


def test_as_completed_and_callbacks(tmp_path: Path) -> None:
    def until_there(path: Path) -> str:
        while not path.exists():
            time.sleep(0.01)
        return path.name

    there, later = tmp_path / "there", tmp_path / "later"
    there.touch()
    executor = RayExecutor(ray_remote_args={"max_retries": 0})  # then none is queued behind another
    futures = [executor.submit(until_there, path) for path in (later, there)]
    called = threading.Event()
    futures[0].add_done_callback(lambda _: called.set())
    done = concurrent.futures.as_completed(futures, 30)
    assert next(done).result() == "there"
    later.touch()
    assert [future.result() for future in done] == ["later"]
    assert called.wait(30)
    executor.shutdown()


def test_max_workers_holds_the_others_back_and_those_can_be_cancelled(one: RayExecutor) -> None:
    first = one.submit(time.sleep, 0.3)
    second = one.submit(abs, -2)
    third = one.submit(abs, -3)
    unpicklable = one.submit(str, threading.Lock())
    last = one.submit(abs, -4)
    assert first.running()
    assert not first.cancel()
    assert second.cancel()
    assert third.result(30) == 3
    assert first.done()
    assert isinstance(unpicklable.exception(30), TypeError)
    assert last.result(30) == 4


def test_shutdown() -> None:
    executor = RayExecutor(max_workers=1)
    futures = [executor.submit(time.sleep, 0.2) for _ in range(3)]
    executor.shutdown(cancel_futures=True)
    assert [future.cancelled() for future in futures] == [False, True, True]
    assert futures[0].done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    executor.shutdown()
    with pytest.raises(ValueError, match="max_workers"):
        RayExecutor(0)
