"""`Queue`."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sparkray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError
from sparkray.util.queue import Empty, Full, Queue

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture
def items() -> Iterator[Queue]:
    made = Queue()
    yield made
    made.shutdown(force=True)


@pytest.fixture
def two() -> Iterator[Queue]:
    """With room for two."""
    made = Queue(maxsize=2)
    yield made
    made.shutdown(force=True)


def test_first_in_first_out(items: Queue) -> None:
    for item in range(10):
        items.put(item)
    assert [items.get() for _ in range(10)] == list(range(10))


def test_without_blocking_there_has_to_be_room_or_an_item(two: Queue) -> None:
    two.put_nowait(1)
    two.put(2, block=False)
    with pytest.raises(Full) as full:
        two.put_nowait(3)
    assert isinstance(full.value, queue.Full)
    with pytest.raises(Full):
        two.put(3, block=False)
    assert two.get_nowait() == 1
    assert two.get(block=False) == 2
    with pytest.raises(Empty) as empty:
        two.get_nowait()
    assert isinstance(empty.value, queue.Empty)
    with pytest.raises(Empty):
        two.get(block=False)


def test_batches_go_whole_or_not_at_all(two: Queue, items: Queue) -> None:
    with pytest.raises(Full, match="Cannot add 3 items"):
        two.put_nowait_batch([1, 2, 3])
    assert two.empty()
    two.put_nowait_batch(iter([1, 2]))
    with pytest.raises(Empty, match="Cannot get 3 items"):
        two.get_nowait_batch(3)
    assert two.get_nowait_batch(2) == [1, 2]
    assert two.get_nowait_batch(0) == []
    items.put_nowait_batch(range(1000))  # no limit
    assert items.get_nowait_batch(1000) == list(range(1000))
    with pytest.raises(TypeError):
        items.put_nowait_batch(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        items.get_nowait_batch("1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nonnegative"):
        items.get_nowait_batch(-1)


def test_waiting_ends_with_the_timeout(two: Queue) -> None:
    with pytest.raises(Empty) as empty:
        two.get(timeout=0.05)
    assert isinstance(empty.value, RayTaskError)
    two.put_nowait_batch([1, 2])
    began = time.monotonic()
    with pytest.raises(Full) as full:
        two.put(3, timeout=0.2)
    assert time.monotonic() - began >= 0.2
    assert isinstance(full.value, RayTaskError)
    assert two.qsize() == 2


def test_a_timeout_of_nothing_takes_what_is_there(two: Queue) -> None:
    two.put(1, timeout=0)
    assert two.get(timeout=0) == 1
    with pytest.raises(Empty):
        two.get(timeout=0)
    with pytest.raises(ValueError, match="non-negative"):
        two.get(timeout=-1)
    with pytest.raises(ValueError, match="non-negative"):
        two.put(1, timeout=-1)


def test_sizes(two: Queue) -> None:
    assert (two.size(), two.qsize(), len(two), two.empty(), two.full()) == (0, 0, 0, True, False)
    two.put(None)
    assert (two.size(), two.qsize(), len(two), two.empty(), two.full()) == (1, 1, 1, False, False)
    two.put(None)
    assert (two.size(), two.qsize(), len(two), two.empty(), two.full()) == (2, 2, 2, False, True)
    assert two.get() is None


def test_producers_and_consumers_elsewhere(ray: Any, two: Queue) -> None:
    @ray.remote
    def produce(items: Queue, count: int) -> None:
        for item in range(count):
            items.put(item)

    @ray.remote
    def consume(items: Queue, count: int) -> list[int]:
        return [items.get() for _ in range(count)]

    consumer = consume.remote(two, 50)
    producer = produce.remote(two, 50)
    assert ray.get(consumer, timeout=60) == list(range(50))
    assert ray.get(producer) is None


def test_a_full_queue_holds_its_producer_up(ray: Any, two: Queue) -> None:
    @ray.remote
    def produce(items: Queue) -> str:
        for item in range(3):
            items.put(item)
        return "done"

    producer = produce.remote(two)
    with pytest.raises(GetTimeoutError):
        ray.get(producer, timeout=0.5)
    assert two.get() == 0
    assert ray.get(producer, timeout=30) == "done"
    assert two.get_nowait_batch(2) == [1, 2]


def test_coroutines(two: Queue) -> None:
    async def both() -> list[Any]:
        got = []
        await two.put_async(1)
        await two.put_async(2, block=False)
        with pytest.raises(Full):
            await two.put_async(3, block=False)
        with pytest.raises(Full):
            await two.put_async(3, timeout=0.05)
        with pytest.raises(ValueError, match="non-negative"):
            await two.put_async(3, timeout=-1)
        got.append(await two.get_async())
        got.append(await two.get_async(block=False))
        with pytest.raises(Empty):
            await two.get_async(block=False)
        with pytest.raises(Empty):
            await two.get_async(timeout=0.05)
        waiting = asyncio.ensure_future(two.get_async())
        await two.put_async("late")
        got.append(await waiting)
        return got

    assert asyncio.run(both()) == [1, 2, "late"]


def test_many_waiting_consumers_do_not_keep_a_producer_out(ray: Any, items: Queue) -> None:
    assert items.actor is not None
    waiting = [items.actor.get.remote(None) for _ in range(1500)]  # Ray's actor takes a thousand calls at a time
    items.put_nowait_batch(range(1500))
    assert sorted(ray.get(waiting, timeout=60)) == list(range(1500))


def test_options_of_its_actor(ray: Any) -> None:
    items = Queue(actor_options={"name": "a queue", "num_cpus": 0})
    items.put("by name")
    assert ray.get(ray.get_actor("a queue").qsize.remote()) == 1
    items.shutdown()


def test_shutdown_answers_what_was_asked_before(ray: Any) -> None:
    items = Queue()
    actor = items.actor
    assert actor is not None
    calls = [actor.put.remote(item, None) for item in range(10)]
    items.shutdown()
    assert ray.get(calls) == [None] * 10
    assert items.actor is None
    with pytest.raises(ActorDiedError, match="shut down"):
        items.put(1)
    items.shutdown()


@pytest.mark.parametrize("how", [{"force": True}, {"grace_period_s": 0.1}])
def test_shutdown_fails_those_who_wait(ray: Any, how: dict[str, Any]) -> None:
    items = Queue()
    assert items.actor is not None
    waiting = items.actor.get.remote(None)
    assert items.empty()
    items.shutdown(**how)
    with pytest.raises(ActorDiedError):
        ray.get(waiting, timeout=30)
