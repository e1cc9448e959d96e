"""Remote generators: items as they come, errors, ends, kills."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkray.exceptions import RayError, RayTaskError, TaskCancelledError, WorkerCrashedError
from tests.waiting import wait_until

LONG = 60


def outcomes(ray: Any, generator: Any) -> list[Any]:
    """Each item's value, or the class of its error."""
    return [outcome(ray, ref) for ref in generator]


def outcome(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=30)
    except RayError as error:
        return TaskCancelledError if isinstance(error, TaskCancelledError) else type(error)


@pytest.fixture(scope="module")
def count_to(ray: Any) -> Any:
    @ray.remote
    def count_to(n: int) -> Iterator[int]:
        yield from range(n)

    return count_to


def test_items_come_in_order_and_the_generator_ends(ray: Any, count_to: Any) -> None:
    generator = count_to.remote(5)
    assert isinstance(generator, ray.ObjectRefGenerator)
    assert iter(generator) is generator
    assert [ray.get(ref) for ref in generator] == [0, 1, 2, 3, 4]
    with pytest.raises(StopIteration):
        next(generator)
    assert ray.get(generator.completed()) is None
    assert generator.is_finished()
    assert not generator.next_ready()
    assert list(count_to.remote(0)) == []


def test_an_item_is_there_before_the_next_is_made(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def slow() -> Iterator[str]:
        yield "first"
        yield "second, right behind it"
        wait_until((tmp_path / "go on").exists)
        yield "third"

    generator = slow.remote()
    assert ray.get(next(generator)) == "first"
    assert ray.get(next(generator)) == "second, right behind it"
    assert not generator.next_ready()
    assert not generator.is_finished()
    assert generator._next_sync(timeout_s=0.01) is None
    (tmp_path / "go on").touch()
    assert ray.get(next(generator)) == "third"
    wait_until(generator.is_finished)


def test_it_runs_whether_somebody_reads_or_not(ray: Any, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    @ray.remote
    def eager() -> Iterator[int]:
        yield from range(1000)
        mark.touch()

    generator = eager.remote()
    wait_until(mark.exists)
    assert [ray.get(ref) for ref in generator] == list(range(1000))
    mark.unlink()
    eager.remote()  # its generator object dies at once
    wait_until(mark.exists)


def test_an_error_is_the_last_item(ray: Any) -> None:
    @ray.remote
    def fails(after: int) -> Iterator[int]:
        yield from range(after)
        raise KeyError("enough")

    refs = list(generator := fails.remote(2))
    assert [ray.get(ref) for ref in refs[:2]] == [0, 1]
    with pytest.raises(KeyError) as error:
        ray.get(refs[2])
    assert isinstance(error.value, RayTaskError)
    assert len(refs) == 3
    assert ray.get(generator.completed()) is None
    assert len(list(fails.remote(0))) == 1


def test_an_error_that_cannot_be_pickled(ray: Any) -> None:
    class Odd(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("no")

    @ray.remote
    def fails() -> Iterator[int]:
        yield 1
        raise Odd("told all the same")

    generator = fails.remote()
    assert ray.get(next(generator)) == 1
    with pytest.raises(RayTaskError, match="told all the same"):
        ray.get(next(generator))
    with pytest.raises(StopIteration):
        next(generator)


def test_an_item_that_cannot_be_pickled_ends_it(ray: Any) -> None:
    @ray.remote
    def locks() -> Iterator[Any]:
        yield 1
        yield threading.Lock()
        yield 2

    good, bad = list(locks.remote())
    assert ray.get(good) == 1
    with pytest.raises(TypeError, match="lock"):
        ray.get(bad)


def test_an_argument_that_failed(ray: Any, count_to: Any) -> None:
    @ray.remote
    def fails() -> int:
        raise ValueError("no number")

    (ref,) = list(count_to.remote(fails.remote()))
    with pytest.raises(ValueError, match="no number"):
        ray.get(ref)


def test_only_generators_stream(ray: Any) -> None:
    def plain() -> list[int]:
        return [1]

    with pytest.raises(ValueError, match="can only be used with generator functions"):
        ray.remote(num_returns="streaming")(plain)
    with pytest.raises(ValueError, match="can only be used with generator functions"):
        ray.remote(plain).options(num_returns="streaming")
    with pytest.raises(TypeError, match="num_returns"):
        ray.remote(plain).options(num_returns="some")


def test_where_a_generator_object_may_go(ray: Any, count_to: Any) -> None:
    generator = count_to.remote(1)
    assert ray.get(generator) is generator
    with pytest.raises(TypeError):
        ray.get([generator])
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(generator)
    with pytest.raises(TypeError):
        ray.put(generator)
    for argument in (generator, [generator]):
        with pytest.raises(TypeError):
            count_to.remote(argument)


def test_wait_takes_generators(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def stepwise(name: str) -> Iterator[int]:
        for step in range(2):
            wait_until((tmp_path / f"{name}{step}").exists)
            yield step

    @ray.remote
    def one() -> int:
        return 1

    first, second, ref = stepwise.remote("a"), stepwise.remote("b"), one.remote()
    assert ray.wait([first, ref, second], timeout=20) == ([ref], [first, second])
    assert ray.wait([first, second], timeout=0) == ([], [first, second])
    (tmp_path / "b0").touch()
    assert ray.wait([first, second], timeout=20) == ([second], [first])
    assert ray.get(next(second)) == 0
    assert ray.wait([first, second], timeout=0.01) == ([], [first, second])
    for name in ("b1", "a0", "a1"):
        (tmp_path / name).touch()
    assert ray.get(next(second)) == 1
    assert ray.wait([second], timeout=20) == ([second], [])  # the end is something to wait for, too
    with pytest.raises(StopIteration):
        next(second)
    with pytest.raises(ValueError, match="duplicates"):
        ray.wait([first, first])


def test_async_iteration(ray: Any, count_to: Any) -> None:
    async def read(generator: Any) -> list[int]:
        return [await ref async for ref in generator]

    async def both() -> list[list[int]]:
        return list(await asyncio.gather(read(count_to.remote(50)), read(count_to.remote(3))))

    assert asyncio.run(both()) == [list(range(50)), [0, 1, 2]]


def test_a_consumer_in_another_thread_and_two_that_share(ray: Any, count_to: Any) -> None:
    generator = count_to.remote(2000)
    found: list[int] = []

    def read() -> None:
        found.extend([ray.get(ref) for ref in generator])

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(2000))


def test_a_task_reads_the_stream_of_another(ray: Any, count_to: Any) -> None:
    @ray.remote
    def total(n: int) -> int:
        return sum(ray.get(ref) for ref in count_to.remote(n))

    @ray.remote
    def doubled(n: int) -> Iterator[int]:
        for ref in count_to.remote(n):
            yield 2 * ray.get(ref)

    assert ray.get([total.remote(n) for n in (0, 10, 1000)], timeout=60) == [0, 45, 499500]
    assert [ray.get(ref) for ref in doubled.remote(100)] == list(range(0, 200, 2))


def test_an_async_actor_reads_streams(ray: Any, count_to: Any) -> None:
    class Reader:
        async def total(self, n: int) -> int:
            return sum([await ref async for ref in count_to.remote(n)])

    reader = ray.remote(Reader).remote()
    assert ray.get([reader.total.remote(n) for n in (10, 100, 1000)], timeout=60) == [45, 4950, 499500]


def test_items_with_references_and_items_as_arguments(ray: Any) -> None:
    @ray.remote
    def refers() -> Iterator[Any]:
        for number in range(20):
            yield [ray.put(np.full(30_000, number))]

    @ray.remote
    def add(array: Any) -> int:
        return int(array.sum())

    for number, ref in enumerate(refers.remote()):
        (inner,) = ray.get(ref)
        assert ray.get(add.remote(inner), timeout=30) == 30_000 * number

    @ray.remote
    def large() -> Iterator[Any]:
        for number in range(5):
            yield np.full(30_000, number)

    assert ray.get([add.remote(ref) for ref in large.remote()], timeout=30) == [30_000 * n for n in range(5)]


def test_async_generators_as_tasks(ray: Any) -> None:
    @ray.remote
    async def ticks(n: int) -> AsyncIterator[int]:
        for tick in range(n):
            await asyncio.sleep(0)
            yield tick

    assert [ray.get(ref) for ref in ticks.remote(10)] == list(range(10))


def test_ten_thousand_items_are_ten_times_as_much_work_as_a_thousand(ray: Any) -> None:
    @ray.remote
    def count_to(n: int) -> Iterator[float]:
        begin = time.process_time()
        yield from range(n)
        yield time.process_time() - begin

    def seconds(n: int) -> float:
        """Of a CPU, in this process and in the worker. What others do on this machine is not in them."""
        begin = time.process_time()
        *numbers, of_worker = ray.get(list(count_to.remote(n)))
        assert numbers == list(range(n))
        return float(time.process_time() - begin + of_worker)

    seconds(1000)
    assert min(seconds(10_000) for _ in range(2)) < 30 * max(0.002, min(seconds(1000) for _ in range(3)))


# ------------------------------------------------------------------------------------------- letting go
def test_a_generator_that_is_let_go_of_ends_at_its_next_yield(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield (number := number + 1)
                time.sleep(0.001)
        finally:
            (tmp_path / "closed").touch()

    generator = endless.remote()
    assert ray.get(next(generator)) == 1
    assert not (tmp_path / "closed").exists()
    del generator
    wait_until((tmp_path / "closed").exists)


def test_unread_items_are_freed(ray: Any) -> None:
    @ray.remote
    def large(n: int) -> Iterator[Any]:
        for _ in range(n):
            yield np.zeros(1 << 20, np.uint8)

    for _ in range(4):  # 4 x 300 MB go through a store of 512 MB
        generator = large.remote(300)
        ray.get(generator.completed(), timeout=60)
        next(generator)
        del generator
    assert [ray.get(ref).nbytes for ref in large.remote(2)] == [1 << 20] * 2


def test_cancel(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def sleepy() -> Iterator[int]:
        yield 1
        (tmp_path / "asleep").touch()
        time.sleep(LONG)

    generator = sleepy.remote()
    wait_until((tmp_path / "asleep").exists)
    ray.cancel(generator)
    assert outcomes(ray, generator) == [1, TaskCancelledError]
    with pytest.raises(TaskCancelledError):
        ray.get(generator.completed())

    @ray.remote(resources={"special": 1})
    def hold() -> Iterator[int]:
        yield 1
        time.sleep(LONG)

    running, waiting = hold.remote(), hold.remote()
    next(running)
    ray.cancel(waiting)
    assert outcomes(ray, waiting) == [TaskCancelledError]
    ray.cancel(running)
    assert outcomes(ray, running) == [TaskCancelledError]


# ------------------------------------------------------------------------------------------- crashes
@pytest.mark.parametrize("size", [1, 30_000], ids=["inline", "stored"])
def test_a_killed_worker_is_replayed_and_each_item_comes_once(ray: Any, tmp_path: Path, size: int) -> None:
    @ray.remote
    def dies_once() -> Iterator[Any]:
        for number in range(100):
            if number == 57 and not (tmp_path / f"died{size}").exists():
                (tmp_path / f"died{size}").touch()
                wait_until((tmp_path / f"read{size}").exists)
                os.kill(os.getpid(), signal.SIGKILL)
            yield np.full(size, number)

    generator = dies_once.remote()
    found = [int(ray.get(next(generator))[0]) for _ in range(40)]
    (tmp_path / f"read{size}").touch()
    found += [int(ray.get(ref)[0]) for ref in generator]
    assert found == list(range(100))


def test_without_retries_a_crash_is_the_last_item(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def dies() -> Iterator[int]:
        yield 1
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    generator = dies.remote()
    assert outcomes(ray, generator) == [1, WorkerCrashedError]
    with pytest.raises(WorkerCrashedError):
        ray.get(generator.completed())


def test_what_was_yielded_before_a_crash_is_not_lost(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def says_much_and_dies() -> Iterator[int]:
        for number in range(5):
            yield number
            time.sleep(0.01)
        os._exit(1)

    generators = [says_much_and_dies.remote() for _ in range(8)]
    assert [outcomes(ray, one) for one in generators] == [[0, 1, 2, 3, 4, WorkerCrashedError]] * 8


def test_retry_exceptions_goes_on_behind_what_was_yielded(ray: Any, tmp_path: Path) -> None:
    @ray.remote(retry_exceptions=[OSError])
    def flaky() -> Iterator[int]:
        for number in range(10):
            if number == 5 and len(list(tmp_path.iterdir())) < 2:
                (tmp_path / str(len(list(tmp_path.iterdir())))).touch()
                raise OSError
            yield number

    assert [ray.get(ref) for ref in flaky.remote()] == list(range(10))


# ------------------------------------------------------------------------------------------- back-pressure
def test_the_generator_pauses_at_so_many_unread_items(ray: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"

    @ray.remote(_generator_backpressure_num_objects=3)
    def counted() -> Iterator[int]:
        for number in range(10):
            with log.open("a") as file:
                file.write("x")
            yield number

    def made() -> int:
        return len(log.read_text()) if log.exists() else 0

    generator = counted.remote()
    wait_until(lambda: made() == 3)
    for read in range(1, 8):
        assert ray.get(next(generator)) == read - 1
        wait_until(lambda read=read: made() >= 3 + read)  # type: ignore[misc]
        assert made() == 3 + read
    assert [ray.get(ref) for ref in generator] == [7, 8, 9]


def test_a_stream_larger_than_the_store(ray: Any) -> None:
    @ray.remote(_generator_backpressure_num_objects=2)
    def large() -> Iterator[Any]:
        for number in range(40):
            yield np.full(32 << 20, number % 256, np.uint8)  # 1.25 GiB in all

    for number, ref in enumerate(large.remote()):
        assert ray.get(ref)[-1] == number
        del ref


def test_a_paused_generator_lends_its_cpu_and_can_be_cancelled(ray: Any) -> None:
    @ray.remote(num_cpus=4, _generator_backpressure_num_objects=1)
    def hog() -> Iterator[int]:
        yield 1
        yield 2

    @ray.remote(num_cpus=4)
    def other() -> int:
        return 3

    generator = hog.remote()
    assert ray.wait([generator], timeout=20) == ([generator], [])
    assert ray.get(other.remote(), timeout=20) == 3
    ray.cancel(generator)
    assert outcomes(ray, generator) == [1, TaskCancelledError]


def test_a_paused_generator_ends_with_its_reader(ray: Any, tmp_path: Path) -> None:
    @ray.remote(_generator_backpressure_num_objects=1)
    def paused(name: str) -> Iterator[int]:
        try:
            yield 1
            yield 2
        finally:
            (tmp_path / name).touch()

    generator = paused.remote("unread")
    assert ray.wait([generator], timeout=20) == ([generator], [])
    del generator
    wait_until((tmp_path / "unread").exists)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_dynamic_returns(ray: Any, count_to: Any) -> None:
    with pytest.warns(DeprecationWarning, match="streaming"):
        dynamic = count_to.options(num_returns="dynamic")
    ref = dynamic.remote(5)
    refs = ray.get(ref, timeout=20)
    assert len(refs) == 5
    assert [ray.get(one) for one in refs] == list(range(5))

    @ray.remote
    def total(refs: Any) -> int:
        return sum(ray.get(list(refs)))

    assert ray.get(total.remote(ref), timeout=30) == 10

    @ray.remote
    def fails() -> Iterator[Any]:
        yield np.zeros(30_000)
        raise KeyError("enough")

    good, bad = ray.get(fails.options(num_returns="dynamic").remote(), timeout=20)
    assert ray.get(good).shape == (30_000,)
    with pytest.raises(KeyError):
        ray.get(bad)


def test_a_generator_with_a_number_of_returns(ray: Any) -> None:
    @ray.remote
    def some(n: int, bad: bool = False) -> Iterator[int]:
        yield from range(n)
        if bad:
            raise KeyError("x")

    assert ray.get(some.options(num_returns=3).remote(3)) == [0, 1, 2]
    assert ray.get(some.options(num_returns=1).remote(3)) == 0
    assert ray.get(some.options(num_returns=2).remote(3)) == [0, 1]
    first, second, third = some.options(num_returns=3).remote(2, bad=True)
    assert ray.get([first, second]) == [0, 1]
    with pytest.raises(KeyError):
        ray.get(third)
    first, second, third = some.options(num_returns=3).remote(2)
    assert ray.get([first, second]) == [0, 1]
    with pytest.raises(ValueError, match="2 objects, but num_returns=3"):
        ray.get(third)
