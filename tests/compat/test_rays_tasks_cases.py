"""Cases of Ray's test_basic, _2 to _5, test_advanced, _6, _7, test_failure_4, test_wait, test_scheduling on tasks."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest


# ------------------------------------------------------------------ calling
def test_arguments_by_position_keyword_default_and_collector(ray: Any) -> None:
    @ray.remote
    def three(a: Any, b: Any = "hello", *rest: Any, c: Any = "world", **more: Any) -> Any:
        return a, b, rest, c, more

    @ray.remote
    def strict(a: Any, /, b: Any, *, c: Any) -> Any:
        return a, b, c

    @ray.remote
    def odd_names(self: Any, args: Any, kwargs: Any, options: Any = None) -> Any:
        return self, args, kwargs, options

    assert ray.get(three.remote(1)) == (1, "hello", (), "world", {})
    assert ray.get(three.remote(1, 2, 3, 4, c=5, d=6)) == (1, 2, (3, 4), 5, {"d": 6})
    assert ray.get(three.remote(a=ray.put(1), d=ray.put(2))) == (1, "hello", (), "world", {"d": 2})
    assert ray.get(strict.remote(1, b=2, c=3)) == (1, 2, 3)
    assert ray.get(odd_names.remote(1, args=2, kwargs=3, options=4)) == (1, 2, 3, 4)
    for call in (
        three.remote,
        lambda: strict.remote(a=1, b=2, c=3),
        lambda: strict.remote(1, 2, 3),
        lambda: strict.remote(1, 2),
        lambda: strict.remote(1, 2, c=3, d=4),
        lambda: three.remote(1, a=1),
    ):
        with pytest.raises(TypeError):
            call()


def test_one_argument_given_several_times_is_equal_everywhere(ray: Any) -> None:
    @ray.remote
    def compare(a: Any, b: Any, again: Any, *, of_a: Any, of_b: Any) -> bool:
        return bool(a == again == of_a != b == of_b)

    for a, b in (([1], [2]), (ray.put([1]), ray.put([2]))):
        assert ray.get(compare.remote(a, b, a, of_a=a, of_b=b))


def test_many_arguments_and_many_returns(ray: Any) -> None:
    @ray.remote(num_returns=300)
    def give() -> Any:
        return range(300)

    @ray.remote
    def total(*numbers: int) -> int:
        return sum(numbers)

    refs = give.remote()
    assert ray.get(refs) == list(range(300))
    assert ray.get(total.remote(*refs, *range(300))) == 2 * sum(range(300))


def test_functions_of_one_name_are_told_apart(ray: Any) -> None:
    def make(number: int) -> Any:
        @ray.remote
        def same_name() -> int:
            return number

        return same_name

    functions = [make(number) for number in range(5)]
    assert ray.get([one.remote() for one in functions for _ in range(40)]) == [n for n in range(5) for _ in range(40)]


def test_a_function_that_is_made_again_sees_what_there_is_by_then(ray: Any) -> None:
    names: dict[str, Any] = {"ray": ray}
    source = "@ray.remote\ndef use():\n    return helper()\n"
    exec(source, names)
    with pytest.raises(NameError, match="helper"):
        ray.get(names["use"].remote())

    names["helper"] = lambda: 1
    exec(source, names)
    assert ray.get(names["use"].remote()) == 1


def test_a_task_makes_functions_of_its_own(ray: Any) -> None:
    @ray.remote
    def make_and_call(number: int) -> Any:
        @ray.remote
        def inner() -> int:
            return number

        return inner.remote()

    assert [ray.get(ray.get(make_and_call.remote(number))) for number in range(20)] == list(range(20))


def test_decorated_functions_and_those_in_classes(ray: Any) -> None:
    def plus_one(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> int:
            return function(*args, **kwargs) + 1

        return wrapped

    @ray.remote
    @plus_one
    def add(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    class Holder:
        @staticmethod
        @ray.remote
        def same(value: int) -> int:
            return value

    assert (add.__name__, add.__doc__, ray.get(add.remote(1))) == ("add", "Adds.", 4)
    with pytest.raises(TypeError):
        add.remote()
    assert ray.get(Holder.same.remote(3)) == 3


def test_what_is_no_function_or_class_is_refused(ray: Any) -> None:
    for wrong in (3, "text", functools.partial(len, "x")):
        with pytest.raises(TypeError):
            ray.remote(wrong)
        with pytest.raises(TypeError):
            ray.remote(num_cpus=1)(wrong)
    with pytest.raises((TypeError, AssertionError)):
        ray.remote(len, 2)


def test_a_chain_of_a_hundred_tasks(ray: Any) -> None:
    @ray.remote
    def plus_one(x: int) -> int:
        return x + 1

    x: Any = 0
    for _ in range(100):
        x = plus_one.remote(x)
    assert ray.get(x) == 100


# ------------------------------------------------------------------ waiting
def test_several_tasks_wait_for_and_get_one_reference(ray: Any, new_gate: Callable[[], Any]) -> None:
    gate = new_gate()

    @ray.remote
    def wait(held: list[Any]) -> int:
        return len(ray.wait(held)[0])

    @ray.remote
    def get(held: list[Any]) -> Any:
        return ray.get(held[0])

    ref = gate.wait.remote()
    refs = [one.remote([ref]) for one in (wait, wait, get, get)]
    gate.open.remote()

    assert ray.get(refs, timeout=60) == [1, 1, None, None]


def test_tasks_that_wait_for_tasks_all_get_their_turn(ray: Any) -> None:
    @ray.remote
    def leaf(i: int, j: int) -> tuple[int, int]:
        return i, j

    @ray.remote
    def by_get(i: int) -> Any:
        return ray.get([leaf.remote(i, j) for j in range(2)])

    @ray.remote
    def by_wait(i: int) -> Any:
        refs = [leaf.remote(i, j) for j in range(2)]
        return ray.get(ray.wait(refs, num_returns=2)[0])

    assert ray.get([one.remote(i) for i in range(4) for one in (by_get, by_wait)]) == [
        [(i, 0), (i, 1)] for i in range(4) for _ in range(2)
    ]


def test_threads_of_driver_and_tasks_use_everything_at_once(ray: Any) -> None:
    @ray.remote
    def echo(value: object) -> object:
        return value

    @ray.remote
    class Echo:
        def echo(self, value: object) -> object:
            return value

    def use_it() -> str:
        actor = Echo.remote()
        shared = [echo.remote(index) for index in range(10)]

        def one(number: int) -> bool:
            ready, _ = ray.wait(shared, num_returns=10, timeout=60)
            return bool(
                ray.get(echo.remote(number)) == number
                and ray.get(actor.echo.remote(number)) == number
                and ray.get(ray.put(number)) == number
                and ray.get(ready) == list(range(10))
            )

        with ThreadPoolExecutor(10) as pool:
            return "ok" if all(pool.map(one, range(60))) else "not ok"

    assert use_it() == "ok"
    assert ray.get(ray.remote(use_it).remote()) == "ok"


def test_an_actor_s_threads_use_everything_after_the_call_has_returned(ray: Any) -> None:
    @ray.remote
    def echo(value: object) -> object:
        return value

    @ray.remote
    class Spawner:
        def spawn(self) -> None:
            shared = [echo.remote(index) for index in range(5)]
            self.outcomes: list[bool] = []
            self.threads = [threading.Thread(target=self.use, args=(shared,)) for _ in range(10)]
            for thread in self.threads:
                thread.start()

        def use(self, shared: list[Any]) -> None:
            ready, _ = ray.wait(shared, num_returns=5, timeout=60)
            values = ray.get([echo.remote(index) for index in range(10)])
            self.outcomes.append(len(ready) == 5 and values == list(range(10)))

        def join(self) -> list[bool]:
            for thread in self.threads:
                thread.join()
            return self.outcomes

    spawner = Spawner.remote()
    spawner.spawn.remote()
    assert ray.get(spawner.join.remote()) == [True] * 10


def test_what_was_cancelled_or_crashed_is_ready(ray: Any, new_gate: Callable[[], Any]) -> None:
    gate = new_gate()

    @ray.remote
    def same(value: object) -> object:
        return value

    @ray.remote(max_retries=0)
    def crash() -> None:
        os._exit(1)

    waits = same.remote(gate.wait.remote())
    cancelled, crashed = same.remote(gate.wait.remote()), crash.remote()
    ray.cancel(cancelled)

    assert ray.wait([waits, cancelled, crashed], num_returns=2, timeout=60) == ([cancelled, crashed], [waits])
    gate.open.remote()
    assert ray.get(waits, timeout=60) is None


# ------------------------------------------------------------------ printing
def test_output_that_is_no_text_harms_neither_its_task_nor_what_follows(ray: Any, capfd: Any, wait_until: Any) -> None:
    @ray.remote
    def write(data: bytes) -> str:
        os.write(1, data)
        return "written"

    assert ray.get([write.remote(b"\xe5abc\n\xff\xfe\n"), write.remote(b"and then text\n")]) == ["written"] * 2
    shown = ""

    def all_shown() -> bool:
        nonlocal shown
        shown += capfd.readouterr().out
        return "abc\n" in shown and "and then text\n" in shown

    wait_until(all_shown)


# ------------------------------------------------------------------ failing
def test_a_crash_or_an_exception_is_retried_as_often_as_was_said(ray: Any, tmp_path: Any) -> None:
    @ray.remote(max_retries=1, retry_exceptions=True)
    def first_time_wrong(name: str, how: str) -> str:
        path = tmp_path / name
        if path.exists():
            return "second"
        path.touch()
        if how == "crash":
            os._exit(0)
        raise ValueError(name)

    names = iter("abcdefgh")
    assert ray.get(first_time_wrong.remote(next(names), "crash")) == "second"
    assert ray.get(first_time_wrong.remote(next(names), "raise")) == "second"
    only = first_time_wrong.options(retry_exceptions=[ValueError])
    assert ray.get(only.remote(next(names), "raise")) == "second"
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(first_time_wrong.options(max_retries=0).remote(next(names), "crash"))
    for options in ({"max_retries": 0}, {"retry_exceptions": False}, {"retry_exceptions": [KeyError]}):
        with pytest.raises(ValueError, match=r"^ray::first_time_wrong"):
            ray.get(first_time_wrong.options(**options).remote(next(names), "raise"))


@pytest.mark.parametrize("how", ["get", "wait"])
def test_sigterm_ends_a_worker_that_waits_and_its_task_tells_so(
    ray: Any, new_gate: Callable[[], Any], tmp_path: Any, wait_until: Any, how: str
) -> None:
    gate = new_gate()
    pid_file = tmp_path / "pid"

    @ray.remote(max_retries=0)
    def wait_for(held: list[Any]) -> None:
        pid_file.write_text(f"{os.getpid()} ")
        ray.get(held[0]) if how == "get" else ray.wait(held)

    ref = wait_for.remote([gate.wait.remote()])
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith(" "))
    os.kill(int(pid_file.read_text()), signal.SIGTERM)

    with pytest.raises(ray.exceptions.WorkerCrashedError, match="SIGTERM"):
        ray.get(ref, timeout=60)


def test_the_caller_of_a_stream_may_die_and_the_actor_serves_on(ray: Any) -> None:
    @ray.remote
    class Callee:
        def items(self, caller: int) -> Any:
            os.kill(caller, signal.SIGKILL)
            yield np.ones(1 << 20)

        def ping(self) -> str:
            return "here"

    @ray.remote(max_retries=0)
    def call(callee: Any) -> None:
        for ref in callee.items.remote(os.getpid()):
            ray.get(ref)

    callee = Callee.remote()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(call.remote(callee), timeout=60)
    assert ray.get(callee.ping.remote(), timeout=60) == "here"


# ------------------------------------------------------------------ processes and resources
def _factorial(n: int) -> int:
    return n * _factorial(n - 1) if n else 1


def test_a_task_may_have_a_forking_pool_of_the_standard_library(ray: Any) -> None:
    @ray.remote
    def by_pool() -> int:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(_factorial, range(8)))

    assert ray.get(by_pool.remote(), timeout=60) == 5914


def test_what_a_task_with_max_calls_submitted_is_there_after_its_worker_went(ray: Any) -> None:
    @ray.remote
    def later() -> int:
        return 5

    @ray.remote(max_calls=1, max_retries=0)
    def submit() -> Any:
        return os.getpid(), later.remote()

    submitted = ray.get([submit.remote() for _ in range(5)])
    assert ray.get([ref for _, ref in submitted]) == [5] * 5
    assert len({pid for pid, _ in submitted}) == 5


def test_requests_of_any_fraction_come_back_whole(ray: Any, wait_until: Any) -> None:
    dice = np.random.default_rng(5)

    @ray.remote
    def assigned(waits: bool) -> dict[str, float]:
        if waits:
            ray.get(ray.put(1))
        return dict(ray.get_runtime_context().get_assigned_resources())

    before = ray.cluster_resources()
    wait_until(lambda: ray.available_resources() == before)
    wished = [(round(float(cpus), 3), round(float(special), 3)) for cpus, special in dice.uniform(0.01, 1, (30, 2))]
    refs = [
        assigned.options(num_cpus=cpus, resources={"special": special}).remote(index % 2 == 0)
        for index, (cpus, special) in enumerate(wished)
    ]
    assert ray.get(refs, timeout=100) == [{"CPU": cpus, "special": special} for cpus, special in wished]
    wait_until(lambda: ray.available_resources() == before)


def test_what_can_never_run_can_be_waited_for_and_cancelled(ray: Any) -> None:
    @ray.remote(resources={"of nobody": 1})
    def never() -> None: ...

    ref = never.remote()
    assert ray.wait([ref], timeout=0.2) == ([], [ref])
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
