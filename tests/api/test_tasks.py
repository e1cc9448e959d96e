"""Remote functions through the public API, on real processes."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import GetTimeoutError, RayTaskError, WorkerCrashedError

LOCAL_MODE_TOO = True


def test_a_task_returns_its_value(ray: Any) -> None:
    @ray.remote
    def add(a: int, b: int = 1) -> int:
        return a + b

    assert ray.get(add.remote(1)) == 2
    assert ray.get(add.remote(1, b=5)) == 6
    assert ray.get([add.remote(i) for i in range(1000)]) == list(range(1, 1001))


def test_arguments_are_checked_in_the_caller(ray: Any) -> None:
    @ray.remote
    def add(a: int, b: int = 1) -> int:
        return a + b

    with pytest.raises(TypeError, match="too many positional arguments"):
        add.remote(1, 2, 3)
    with pytest.raises(TypeError, match="missing a required argument: 'a'"):
        add.remote()
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        add.remote(1, c=2)


def test_arguments_are_snapshots(ray: Any) -> None:
    @ray.remote
    def length(items: list[int]) -> int:
        time.sleep(0.05)
        return len(items)

    items = [1, 2, 3]
    refs = [length.remote(items) for _ in range(8)]
    items.append(4)

    assert ray.get(refs) == [3] * 8


def test_a_remote_function_cannot_be_called_directly(ray: Any) -> None:
    @ray.remote
    def f() -> None: ...

    with pytest.raises(TypeError, match=r"f\.remote\(\)"):
        f()


def test_num_returns_gives_a_reference_for_each_value(ray: Any) -> None:
    @ray.remote(num_returns=2)
    def pair() -> tuple[int, str]:
        return 1, "b"

    first, second = pair.remote()
    assert ray.get([first, second]) == [1, "b"]
    assert pair.options(num_returns=0).remote() is None
    with pytest.raises(ValueError, match="Task returned 2 objects, but num_returns=3"):
        ray.get(pair.options(num_returns=3).remote()[0])


def test_what_a_task_raises_is_raised_by_get_as_its_own_class_and_as_raytaskerror(ray: Any) -> None:
    class Special(ValueError):
        def __init__(self, code: int) -> None:
            super().__init__(f"code {code}")
            self.code = code

    @ray.remote
    def fail() -> None:
        raise Special(7)

    with pytest.raises(Special) as caught:
        ray.get(fail.remote())
    assert isinstance(caught.value, RayTaskError)
    assert type(caught.value).__name__ == "RayTaskError(Special)"
    assert caught.value.code == 7
    assert "in fail" in str(caught.value)
    assert "raise Special(7)" in str(caught.value)


def test_a_failed_argument_fails_the_consumer_with_the_same_class(ray: Any) -> None:
    @ray.remote
    def fail() -> int:
        raise KeyError("gone")

    @ray.remote
    def use(x: int) -> int:
        return x

    with pytest.raises(KeyError):
        ray.get(use.remote(fail.remote()))


def test_an_unpicklable_exception_and_an_unpicklable_result_are_told(ray: Any) -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("never")

    @ray.remote
    def fail() -> None:
        raise Stubborn("the original text")

    @ray.remote
    def result() -> Any:
        return threading.Lock()

    with pytest.raises(RayTaskError, match="the original text"):
        ray.get(fail.remote())
    with pytest.raises(TypeError, match="lock"):
        ray.get(result.remote())


def test_an_unpicklable_argument_raises_in_the_caller(ray: Any) -> None:
    @ray.remote
    def f(x: Any) -> None: ...

    with pytest.raises(TypeError, match="lock"):
        f.remote(threading.Lock())


def test_references_at_the_top_are_values_and_inside_containers_stay_references(ray: Any) -> None:
    @ray.remote
    def kind(direct: Any, inside: list[Any], *, named: Any) -> tuple[Any, str, Any, Any]:
        return direct, type(inside[0]).__name__, ray.get(inside[0]), named

    ref = ray.put(5)
    assert ray.get(kind.remote(ref, [ref], named=ref)) == (5, "ObjectRef", 5, 5)


def test_a_task_waits_for_the_references_it_is_given(ray: Any) -> None:
    @ray.remote
    def slow(x: int) -> int:
        time.sleep(0.05)
        return x + 1

    ref = ray.put(0)
    for _ in range(5):
        ref = slow.remote(ref)
    assert ray.get(ref) == 5


def test_nested_tasks_deeper_than_there_are_cpus(ray: Any) -> None:
    @ray.remote
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + int(ray.get(depth.remote(n - 1)))

    assert ray.get(depth.remote(12), timeout=60) == 12


def test_a_task_that_waits_for_one_that_was_pushed_behind_it(ray: Any) -> None:
    @ray.remote
    def leaf() -> int:
        return 1

    @ray.remote
    def wait_for(refs: list[Any]) -> int:
        return int(sum(ray.get(refs)))

    ray.get([leaf.remote() for _ in range(200)])  # now several are pushed ahead to each worker
    leaves: list[Any] = []
    waiters = []
    for _ in range(20):
        waiters.append(wait_for.remote(leaves[-3:]))
        leaves.append(leaf.remote())
    assert sum(ray.get(waiters, timeout=60)) == sum(min(i, 3) for i in range(20))


@pytest.mark.needs_workers
def test_what_was_pushed_behind_tasks_that_take_long_is_run_by_other_workers(ray: Any, tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")

    @ray.remote
    def work(waits: bool) -> int:
        while waits and not os.path.exists(gate):
            time.sleep(0.005)
        return 1

    ray.get([work.remote(False) for _ in range(500)])  # now many are pushed ahead to each of the four workers
    refs = [work.remote(number in (0, 40, 80)) for number in range(200)]
    long_ones, short_ones = [refs[0], refs[40], refs[80]], [ref for i, ref in enumerate(refs) if i not in (0, 40, 80)]

    assert ray.wait(short_ones, num_returns=197, timeout=30)[1] == []

    assert ray.wait(long_ones, num_returns=1, timeout=0)[0] == []
    Path(gate).touch()
    assert ray.get(long_ones, timeout=30) == [1, 1, 1]


def test_a_result_with_references_inside_keeps_them_alive(ray: Any) -> None:
    @ray.remote
    def make() -> list[Any]:
        return [ray.put(i) for i in range(3)]

    refs = ray.get(make.remote())
    time.sleep(0.1)  # the worker's own references die meanwhile
    assert ray.get(refs) == [0, 1, 2]


def test_a_function_captures_references_and_arrays(ray: Any) -> None:
    import numpy as np

    ref = ray.put("captured")
    array = np.arange(1000)

    @ray.remote
    def use() -> tuple[str, int]:
        return ray.get(ref), int(array.sum())

    assert ray.get(use.remote()) == ("captured", 499500)


def test_a_remote_function_can_be_passed_and_calls_itself(ray: Any) -> None:
    @ray.remote
    def fib(n: int) -> int:
        return n if n < 2 else int(sum(ray.get([fib.remote(n - 1), fib.remote(n - 2)])))

    @ray.remote
    def call(f: Any, n: int) -> int:
        return int(ray.get(f.remote(n)))

    assert ray.get(call.remote(fib, 7), timeout=60) == 13


@pytest.mark.needs_workers
def test_get_times_out_and_the_task_runs_on(ray: Any) -> None:
    @ray.remote
    def slow() -> int:
        time.sleep(0.5)
        return 1

    ref = slow.remote()
    with pytest.raises(GetTimeoutError) as caught:
        ray.get(ref, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert ray.get(ref) == 1


def test_get_and_put_refuse_what_they_cannot_take(ray: Any) -> None:
    ref = ray.put(1)
    assert ray.get([]) == []
    assert ray.get([ref, ref]) == [1, 1]
    with pytest.raises(ValueError, match="tuple"):
        ray.get((ref,))
    with pytest.raises(TypeError, match="int"):
        ray.get([ref, 5])
    with pytest.raises(TypeError, match="put"):
        ray.put(ref)


@pytest.mark.needs_workers
def test_get_raises_the_first_error_without_waiting_for_the_rest(ray: Any) -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("at once")

    @ray.remote
    def slow() -> None:
        time.sleep(20)

    slow_ref = slow.remote()
    with pytest.raises(ValueError, match="at once"):
        ray.get([slow_ref, fail.remote()], timeout=10)


@pytest.mark.needs_workers
def test_wait_returns_ready_and_rest_in_the_order_given(ray: Any) -> None:
    @ray.remote
    def after(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    refs = [after.remote(5), after.remote(0.1), after.remote(0)]
    ready, rest = ray.wait(refs, num_returns=2, timeout=20)
    assert (ready, rest) == (refs[1:], refs[:1])
    assert ray.wait(refs, num_returns=3, timeout=0) == (refs[1:], refs[:1])
    assert ray.wait([]) == ([], [])


def test_what_a_wait_left_is_checked_no_less_if_it_was_changed(ray: Any) -> None:
    """What the last wait left is taken as it is, so that a loop of waits does not look at all of it each time."""

    @ray.remote
    def number(value: int) -> int:
        return value

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("what I am equal to is not for you to ask")

        __hash__ = None  # type: ignore[assignment]

    refs = [number.remote(value) for value in range(40)]
    ray.wait(refs, num_returns=40)
    _, left = ray.wait(refs)
    assert left == refs[1:]
    for change, error in ((left[0], ValueError), (3, TypeError), (Odd(), TypeError)):
        _, left = ray.wait(refs)
        left[-1] = change
        with pytest.raises(error):
            ray.wait(left)
    _, left = ray.wait(refs)
    with pytest.raises(ValueError, match="from 1 to 39"):
        ray.wait(left, num_returns=40)
    while left:
        before = left
        ready, left = ray.wait(left)
        assert ready + left == before


def test_what_a_wait_left_is_not_kept_alive(ray: Any) -> None:
    @ray.remote
    def number(value: int) -> int:
        return value

    refs = [number.remote(value) for value in range(40)]
    ray.get(refs)
    alive = weakref.ref(refs[-1])
    ready, rest = ray.wait(refs)
    del refs, ready, rest

    deadline = time.monotonic() + 10
    while alive() is not None and time.monotonic() < deadline:
        time.sleep(0.001)

    assert alive() is None


def test_wait_refuses_what_it_cannot_take(ray: Any) -> None:
    ref = ray.put(1)
    for wrong, error in [((ref,), TypeError), (ref, TypeError), ([1], TypeError), ([ref, ref], ValueError)]:
        with pytest.raises(error):
            ray.wait(wrong)
    for options in [{"num_returns": 0}, {"num_returns": 2}, {"timeout": -1}]:
        with pytest.raises(ValueError, match=next(iter(options))):
            ray.wait([ref], **options)


def test_options_are_checked_when_they_are_given(ray: Any) -> None:
    with pytest.raises(ValueError, match=r"num_cpu'.*Valid ones are"):
        ray.remote(num_cpu=1)(lambda: None)
    with pytest.raises(TypeError, match="num_cpus must be a number"):
        ray.remote(num_cpus="2")(lambda: None)
    with pytest.raises(ValueError, match="not below 0"):
        ray.remote(num_cpus=-1)(lambda: None)
    with pytest.raises(ValueError, match="use num_gpus"):
        ray.remote(resources={"GPU": 1})(lambda: None)
    with pytest.raises(TypeError, match="function or a class"):
        ray.remote(5)


@pytest.mark.needs_workers
def test_a_custom_resource_admits_one_task_at_a_time(ray: Any) -> None:
    @ray.remote(resources={"special": 1})
    def alone() -> tuple[float, float]:
        begin = time.monotonic()
        time.sleep(0.05)
        return begin, time.monotonic()

    spans = sorted(ray.get([alone.remote() for _ in range(5)]))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


@pytest.mark.needs_workers
def test_a_killed_worker_s_task_is_retried_and_right(ray: Any, tmp_path: Any) -> None:
    mark = str(tmp_path / "ran")

    @ray.remote(max_retries=1)
    def die_once() -> str:
        try:
            with open(mark, "x"):
                pass
        except FileExistsError:
            return "second run"
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"

    assert ray.get(die_once.remote(), timeout=30) == "second run"


@pytest.mark.needs_workers
def test_a_task_without_retries_says_how_its_worker_died(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError, match=r"die\(\).*SIGKILL"):
        ray.get(die.remote(), timeout=30)


@pytest.mark.needs_workers
def test_a_crash_in_native_code_tells_where_it_was(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def segfault() -> None:
        import ctypes

        ctypes.string_at(0)

    with pytest.raises(WorkerCrashedError, match=r"(?s)SIGSEGV.*Fatal Python error.*string_at"):
        ray.get(segfault.remote(), timeout=30)


@pytest.mark.needs_workers
def test_tasks_around_a_killed_worker_all_come_out_right(ray: Any, tmp_path: Any) -> None:
    mark = str(tmp_path / "ran")

    @ray.remote
    def value(i: int) -> int:
        if i == 500:
            try:
                with open(mark, "x"):
                    os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return i * i

    assert ray.get([value.remote(i) for i in range(1000)], timeout=60) == [i * i for i in range(1000)]


def test_nodes_and_cluster_resources_tell_what_there_is(ray: Any) -> None:
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert node["ObjectStoreMemory"] == 512 << 20
    there = ray.cluster_resources()
    assert there.pop("memory") > 0
    assert there == {"CPU": 4.0, "special": 1.0, "node:127.0.0.1": 1.0, "node:__internal_head__": 1.0}


def test_several_threads_of_the_driver_may_wait_at_once(ray: Any) -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    results: dict[int, list[int]] = {}

    def work(base: int) -> None:
        results[base] = [ray.get(double.remote(base + i)) for i in range(50)]

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {1000 * n: [2 * (1000 * n + i) for i in range(50)] for n in range(4)}


def test_numbers_and_names_come_and_go_as_what_they_are(ray: Any) -> None:
    """They travel without being pickled, and results are pickled when they leave."""

    @ray.remote
    def same(*args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs else (args, kwargs)

    values = [None, True, 0, -1.5, 1 << 200, "", "name", b"bytes", "x" * 1000, (1, "a", None), (1, [2])]

    assert ray.get([same.remote(value) for value in values]) == values
    assert ray.get(same.remote(1, "a", None, b"", 0.5)) == ((1, "a", None, b"", 0.5), {})
    assert ray.get(same.remote(1, name="a")) == ((1,), {"name": "a"})
    assert [type(value) for value in ray.get([same.remote(value) for value in values])] == list(map(type, values))


def test_a_result_that_changes_after_its_task_is_what_it_was(ray: Any) -> None:
    @ray.remote
    def grown(seen: dict[str, list[int]] = {"all": []}) -> Any:  # noqa: B006 - one list for all tasks of a worker
        seen["all"].append(len(seen["all"]))
        return seen["all"]

    found = ray.get([grown.remote() for _ in range(100)])

    assert all(one == list(range(len(one))) for one in found)
    assert max(map(len, found)) > 1
