"""`multiprocessing.Pool` on actors."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError
from sparkray.util.multiprocessing import Pool, TimeoutError
from sparkray.util.multiprocessing.pool import PoolTaskError
from tests.waiting import is_running

pytestmark = pytest.mark.usefixtures("ray")


@pytest.fixture(scope="module")
def pool(ray: Any) -> Iterator[Pool]:
    made = Pool(processes=2)
    yield made
    made.terminate()
    made.join()


# ------------------------------------------------------------------ its size and its actors
def test_it_has_as_many_processes_as_the_cluster_has_cpus() -> None:
    with Pool() as pool:
        assert pool.processes == 4


@pytest.mark.parametrize("processes", [0, -1, 5])
def test_a_size_that_cannot_be_is_refused(processes: int) -> None:
    with pytest.raises(ValueError, match=r"[Pp]rocesses"):
        Pool(processes)


def test_the_initializer_runs_once_in_each_process() -> None:
    def initialize(mark: str) -> None:
        os.environ["MARKS"] = os.environ.get("MARKS", "") + mark

    with Pool(2, initializer=initialize, initargs=("x",)) as pool:
        found = pool.map(lambda _: (os.getpid(), os.environ["MARKS"]), range(20), chunksize=1)
    assert {mark for _, mark in found} == {"x"}


def test_an_initializer_that_raises_fails_the_pool() -> None:
    def initialize() -> None:
        raise ValueError("not today")

    with pytest.raises(ActorDiedError, match="not today"):
        Pool(1, initializer=initialize)


def test_a_process_is_replaced_after_maxtasksperchild() -> None:
    with Pool(1, maxtasksperchild=3) as pool:
        pids = [pool.apply(os.getpid) for _ in range(9)]
    assert pids[0:3] == [pids[0]] * 3
    assert pids[3:6] == [pids[3]] * 3
    assert pids[6:9] == [pids[6]] * 3
    assert len(set(pids)) == 3


def test_a_process_that_dies_takes_its_chunk_along_and_is_replaced() -> None:
    def die(value: int) -> int:
        if value == 1:
            os._exit(1)
        return value

    with Pool(2) as pool:
        results = pool.map_async(die, range(4), chunksize=1)
        with pytest.raises(ActorDiedError):
            results.get(timeout=60)
        assert pool.map(die, [0] * 8, chunksize=1) == [0] * 8
        assert pool.is_sound


def test_options_of_its_actors(ray: Any) -> None:
    with Pool(2, ray_remote_args={"num_cpus": 1}) as pool:
        assert pool.map(abs, [-1]) == [1]
    with pytest.raises(ValueError, match="nonsense"):
        Pool(2, ray_remote_args={"nonsense": 1})


def test_a_context_is_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Pool(1, context="spawn") as pool:
        assert pool.apply(abs, (-1,)) == 1
    assert "context" in caplog.text


# ------------------------------------------------------------------ one call
def test_apply(pool: Pool) -> None:
    def keep(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert pool.apply(keep) == ((), {})
    assert pool.apply(keep, (1, 2)) == ((1, 2), {})
    assert pool.apply(keep, (1,), {"b": 2}) == ((1,), {"b": 2})
    assert pool.apply_async(keep, ["a"], {"b": 2}).get(timeout=30) == (("a",), {"b": 2})


def test_what_a_call_raises_is_raised_as_it_was_with_the_remote_traceback_as_its_cause(pool: Pool) -> None:
    class Special(Exception):
        pass

    def fail() -> None:
        raise Special("inside")

    result = pool.apply_async(fail)
    result.wait(30)
    assert result.ready()
    assert not result.successful()
    with pytest.raises(Exception, match="inside") as caught:
        result.get()
    assert type(caught.value).__name__ == "Special"
    assert "in fail" in str(caught.value.__cause__)
    with pytest.raises(ZeroDivisionError):
        pool.apply(divmod, (1, 0))


def test_what_cannot_be_sent_is_told(pool: Pool) -> None:
    lock = threading.Lock()

    def fail() -> None:
        error = ValueError("mine")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    with pytest.raises(TypeError, match="lock"):
        pool.apply(lambda: lock)
    with pytest.raises(RayTaskError, match="lock"):
        pool.apply(threading.Lock)
    with pytest.raises(RayError, match="mine"):
        pool.apply(fail)
    assert pool.apply(abs, (-1,)) == 1


def test_get_and_wait_end_with_the_timeout(pool: Pool, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def until_it_may_end() -> None:
        while not go.exists():
            time.sleep(0.01)

    result = pool.apply_async(until_it_may_end)
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)
    result.wait(timeout=0.01)
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    go.touch()
    assert result.get(timeout=30) is None
    assert result.ready()
    assert result.successful()


def test_references_and_handles_go_along(ray: Any, pool: Pool) -> None:
    ref = ray.put("stored")
    assert pool.apply(lambda ref: ray.get(ref), (ref,)) == "stored"
    assert pool.map(lambda ref: ray.get(ref), [ref] * 3) == ["stored"] * 3


# ------------------------------------------------------------------ many calls
@pytest.mark.parametrize("chunksize", [None, 1, 7, 1000])
def test_map(pool: Pool, chunksize: int | None) -> None:
    assert pool.map(lambda value: 2 * value, range(100), chunksize) == [2 * value for value in range(100)]


def test_map_of_an_iterator_of_nothing_and_of_pairs(pool: Pool) -> None:
    assert pool.map(abs, iter([-1, -2])) == [1, 2]
    assert pool.map(abs, []) == []
    assert pool.map(sum, [(1, 2), (3, 4)]) == [3, 7]
    with pytest.raises(ValueError, match="1\\+"):
        pool.map(abs, [1], chunksize=0)


def test_starmap(pool: Pool) -> None:
    pairs = [(value, value + 1) for value in range(50)]
    assert pool.starmap(lambda a, b: a * b, pairs) == [a * b for a, b in pairs]
    assert pool.starmap_async(lambda a, b: a * b, pairs, chunksize=3).get() == [a * b for a, b in pairs]


def test_map_uses_all_processes_and_gives_work_to_those_that_are_free(pool: Pool) -> None:
    def nap(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    pids = pool.map(nap, [0.6] + [0.02] * 10, chunksize=1)
    assert len(set(pids)) == 2
    assert pids.count(pids[0]) == 1  # nothing waited behind the long one


def test_map_raises_the_first_error_in_order_when_all_are_through(pool: Pool) -> None:
    def inverse(value: int) -> float:
        if value == 2:
            time.sleep(0.1)
        return 1 / (value - 2) if value < 4 else int("x")

    result = pool.map_async(inverse, range(6), chunksize=1)
    with pytest.raises(ZeroDivisionError):
        result.get(timeout=30)
    assert not result.successful()


def test_arguments_are_snapshots_also_of_chunks_that_wait(pool: Pool) -> None:
    items = [[0] for _ in range(50)]

    def first(item: list[int]) -> int:
        time.sleep(0.01)
        return item[0]

    result = pool.map_async(first, items, chunksize=1)
    for item in items:
        item[0] = 1
    assert result.get(timeout=30) == [0] * 50


def test_callbacks(pool: Pool) -> None:
    called: list[Any] = []
    done = threading.Semaphore(0)

    def note(value: Any) -> None:
        called.append(value)
        done.release()

    def check(expected: Any) -> None:
        assert done.acquire(timeout=30)
        assert called == [expected]
        called.clear()

    pool.apply_async(abs, (-1,), callback=note)
    check(1)
    pool.map_async(abs, [-1, -2, -3], 1, note)
    check([1, 2, 3])
    pool.map_async(abs, [], callback=note)
    check([])
    pool.starmap_async(pow, [(2, 2), (2, 3)], callback=note)
    check([4, 8])

    def failed(error: Any) -> None:
        note(type(error))

    pool.apply_async(divmod, (1, 0), callback=note, error_callback=failed)
    check(ZeroDivisionError)
    result = pool.map_async(int, ["1", "x", "y"], 1, callback=note, error_callback=failed)
    result.wait(30)
    check(ValueError)


def test_a_callback_that_raises_stops_nobody(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise ValueError("in the callback")

    assert pool.apply_async(abs, (-1,), callback=fail).get(timeout=30) == 1
    assert pool.apply(abs, (-2,)) == 2
    assert "in the callback" in caplog.text


def test_a_callback_may_submit(pool: Pool) -> None:
    results: list[Any] = []
    done = threading.Event()

    def more(value: int) -> None:
        results.append(value)
        if value < 5:
            pool.apply_async(lambda value: value + 1, (value,), callback=more)
        else:
            done.set()

    pool.apply_async(abs, (0,), callback=more)
    assert done.wait(30)
    assert results == [0, 1, 2, 3, 4, 5]


# ------------------------------------------------------------------ iterators
@pytest.mark.parametrize("chunksize", [None, 1, 11])
@pytest.mark.parametrize("as_iterator", [False, True])
def test_imap_in_order_with_errors_among_the_results(pool: Pool, chunksize: int | None, as_iterator: bool) -> None:
    def fail_at(value: int) -> int:
        if value in (2, 50, 98):
            raise KeyError(value)
        return value

    items: Any = range(100)
    results = pool.imap(fail_at, iter(items) if as_iterator else items, chunksize)
    for value in range(100):
        result = results.next()
        if value in (2, 50, 98):
            assert isinstance(result, PoolTaskError)
            assert isinstance(result.underlying, KeyError)
            assert "fail_at" in str(result)
        else:
            assert result == value
    with pytest.raises(StopIteration):
        results.next()


def test_imap_unordered(pool: Pool) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    assert list(pool.imap_unordered(nap, [0.4, 0.0, 0.1])) == [0.0, 0.1, 0.4]
    assert sorted(pool.imap_unordered(abs, range(100), chunksize=7)) == list(range(100))
    assert list(pool.imap(abs, [])) == []


def test_next_times_out_and_can_be_asked_again(pool: Pool) -> None:
    for submit in (pool.imap, pool.imap_unordered):
        results = submit(time.sleep, [0.3])
        with pytest.raises(TimeoutError):
            results.next(timeout=0.01)
        assert results.next(timeout=30) is None
        with pytest.raises(StopIteration):
            results.next(timeout=0)


def test_imap_takes_items_as_results_are_taken(pool: Pool) -> None:
    taken = 0

    def naturals() -> Iterator[float]:
        nonlocal taken
        while True:
            taken += 1
            yield 0.02

    results = pool.imap(time.sleep, naturals())
    for _ in range(10):
        next(results)
    assert 10 <= taken <= 20


def test_what_iterates_and_raises_is_heard(pool: Pool) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        yield 3
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        list(pool.imap(abs, items()))


def test_a_process_that_dies_leaves_an_error_for_each_of_its_items() -> None:
    def die(value: int) -> int:
        if value == 1:
            os._exit(1)
        return value

    with Pool(1) as pool:
        results = list(pool.imap(die, range(4), chunksize=2))
    assert [isinstance(result, ActorDiedError) for result in results] == [True, True, False, False]
    assert results[2:] == [2, 3]


# ------------------------------------------------------------------ the end
def test_close_lets_work_be_done_and_join_waits_for_it(eventually: Callable[..., None]) -> None:
    pool = Pool(2)
    pids = set(pool.map(lambda _: os.getpid(), range(20), chunksize=1))
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    result = pool.map_async(time.sleep, [0.1] * 6, chunksize=1)
    pool.close()
    with pytest.raises(ValueError, match="not running"):
        pool.apply(abs, (1,))
    with pytest.raises(ValueError, match="not running"):
        pool.imap(abs, [1])
    with pytest.raises(ValueError, match="not running"), pool:
        pass
    pool.join()
    assert result.ready()
    assert result.successful()
    eventually(lambda: not any(map(is_running, pids)))


def test_an_iterator_goes_on_after_close() -> None:
    pool = Pool(2)
    results = pool.imap(abs, range(-50, 0))
    assert next(results) == 50
    pool.close()
    pool.join()  # does not wait for what nobody takes
    assert list(results) == list(range(49, 0, -1))
    pool.join()


def test_terminate_interrupts(eventually: Callable[..., None]) -> None:
    pool = Pool(2)
    pids = set(pool.map(lambda _: os.getpid(), range(20), chunksize=1))
    result = pool.map_async(time.sleep, [60] * 6, chunksize=1)
    results = pool.imap(time.sleep, [60] * 6)
    pool.terminate()
    pool.join()
    result.wait(30)
    assert not result.successful()
    with pytest.raises(RayActorError):
        result.get()
    under_way = [results.next(timeout=30) for _ in range(2)]
    assert [type(error) for error in under_way] == [ActorDiedError] * 2
    with pytest.raises(ValueError, match="not running"):
        results.next(timeout=30)
    eventually(lambda: not any(map(is_running, pids)))
    pool.terminate()
    pool.close()


def test_leaving_the_context_terminates() -> None:
    with Pool(1) as pool:
        result = pool.apply_async(time.sleep, (60,))
    with pytest.raises(ActorDiedError):
        result.get(timeout=30)


def test_a_pool_that_is_dropped_ends_when_its_work_is_done(eventually: Callable[..., None]) -> None:
    threads = threading.active_count()
    pool = Pool(1)
    pid = pool.apply(os.getpid)
    result = pool.apply_async(time.sleep, (0.1,))
    del pool
    gc.collect()
    assert result.get(timeout=30) is None
    eventually(lambda: not is_running(pid))
    eventually(lambda: threading.active_count() <= threads)


def test_a_pool_in_a_task(ray: Any) -> None:
    @ray.remote
    def squares() -> list[int]:
        with Pool(2) as pool:
            return pool.map(lambda value: value * value, range(20))

    assert ray.get(squares.remote(), timeout=60) == [value * value for value in range(20)]


def test_threads_share_a_pool(pool: Pool) -> None:
    wrong: list[Any] = []

    def use(number: int) -> None:
        expected = [number + value for value in range(40)]
        for _ in range(5):
            got = pool.map(lambda value: number + value, range(40), chunksize=3)
            wrong.extend(value for value, right in zip(got, expected, strict=True) if value != right)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
