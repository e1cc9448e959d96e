"""Tasks that wait for tasks that wait: where there are many, a worker runs what it waits for itself."""

from __future__ import annotations

import asyncio
import decimal
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import RayTaskError, TaskCancelledError, WorkerCrashedError
from sparkray.util.state import list_workers
from sparkray_core.run.nested import MOST_LEVELS
from tests.waiting import wait_until

LIMIT_S = 60


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with one CPU, where a worker that waits is asked at once to run what it waits for."""
    sparkray.init(num_cpus=1, object_store_memory=64 << 20, settings={"waiting_workers": 0})
    yield sparkray
    sparkray.shutdown()


@sparkray.remote
def below(levels: int, scenario: Callable[..., Any], *args: Any) -> Any:
    """Run this some levels down: workers that idled have work by then."""
    return scenario(*args) if levels == 0 else sparkray.get(below.remote(levels - 1, scenario, *args))


def deep(scenario: Callable[..., Any], *args: Any) -> Any:
    """Below as many waiting tasks as there are workers: one that still idles would be given what is to run here."""
    return below.remote(len(list_workers(filters=[("is_alive", "=", True)])), scenario, *args)


@sparkray.remote
def pid() -> int:
    return os.getpid()


@sparkray.remote
def chain(levels: int) -> list[int]:
    return [os.getpid(), *(sparkray.get(chain.remote(levels - 1)) if levels else ())]


@sparkray.remote
def fib(n: int) -> tuple[int, set[int]]:
    if n < 2:
        return n, {os.getpid()}
    (first, some), (second, others) = sparkray.get([fib.remote(n - 1), fib.remote(n - 2)])
    return first + second, some | others | {os.getpid()}


def test_recursion_takes_few_processes() -> None:
    """With the settings as they are: 8 that wait, one to a CPU, and one more for each 100 levels."""
    sparkray.init(num_cpus=2, object_store_memory=64 << 20)
    try:
        pids = sparkray.get(chain.remote(200), timeout=LIMIT_S)
        assert len(pids) == 201
        assert len(set(pids)) <= 8 + 2 + 200 // MOST_LEVELS

        number, some = sparkray.get(fib.remote(11), timeout=LIMIT_S)
        assert number == 89
        assert len(some) <= 8 + 2 + 4
    finally:
        sparkray.shutdown()


def test_a_waiting_task_runs_its_child_and_goes_on(ray: Any) -> None:
    def scenario() -> Any:
        context = sparkray.get_runtime_context()

        digits = decimal.getcontext().prec  # a context variable

        @sparkray.remote(name="the child")
        def child() -> Any:
            inner = sparkray.get_runtime_context()
            before = decimal.getcontext().prec
            decimal.getcontext().prec = 5
            return os.getpid(), inner.get_task_id(), inner.get_task_name(), before, inner.get_assigned_resources()

        decimal.getcontext().prec = 7
        ids = context.get_task_id(), context.get_task_name()
        seen = sparkray.get(child.remote())
        assert seen[0] == os.getpid()
        assert seen[1] != ids[0]
        assert seen[2:] == ("the child", digits, {"CPU": 1.0})
        assert (context.get_task_id(), context.get_task_name()) == ids
        there, decimal.getcontext().prec = decimal.getcontext().prec, digits
        return there

    assert ray.get(deep(scenario), timeout=LIMIT_S) == 7


def test_an_error_of_the_child_is_the_parent_s_to_handle(ray: Any) -> None:
    def scenario() -> Any:
        @sparkray.remote
        def fails() -> None:
            raise KeyError(os.getpid())

        with pytest.raises(RayTaskError, match="fails") as raised:
            sparkray.get(fails.remote())
        assert isinstance(raised.value, KeyError)
        return raised.value.args, os.getpid(), sparkray.get(pid.remote())

    args, parent, after = ray.get(deep(scenario), timeout=LIMIT_S)
    assert str(parent) in str(args)
    assert parent == after


def test_a_child_that_ends_its_process_is_run_again_elsewhere(ray: Any, tmp_path: Path) -> None:
    def scenario(mark: Path, retries: int) -> Any:
        @sparkray.remote(max_retries=retries)
        def exits() -> int:
            with mark.open("a") as file:
                file.write(f"{os.getpid()}\n")
            sys.exit(3)

        with pytest.raises(WorkerCrashedError) as raised:
            sparkray.get(exits.remote())
        return str(raised.value), os.getpid()

    why, parent = ray.get(deep(scenario, tmp_path / "runs", 1), timeout=LIMIT_S)
    first, second = map(int, (tmp_path / "runs").read_text().split())
    assert first == parent != second
    assert "exits()" in why


@pytest.mark.parametrize("options", [{"max_retries": 0}, {"max_calls": 5}, {"num_cpus": 0.5}, {"priority": 1}])
def test_what_is_not_like_its_parent_gets_a_process(ray: Any, options: dict[str, Any]) -> None:
    def scenario() -> bool:
        ref = other.remote() if "max_calls" in options else pid.options(**options).remote()
        return bool(sparkray.get(ref) == os.getpid())

    other = ray.remote(max_calls=5)(os.getpid)
    assert ray.get(deep(scenario), timeout=LIMIT_S) is False


def test_who_could_go_on_earlier_is_not_held_up(ray: Any) -> None:
    """A wait for the first of several, one with a limit, one in a thread, and one in an event loop."""

    def scenario(how: str) -> set[int]:
        refs = [pid.remote(), pid.remote()]
        if how == "first":
            sparkray.wait(refs, num_returns=1)
        elif how == "limit":
            sparkray.get(refs, timeout=LIMIT_S)
        elif how == "thread":
            thread = threading.Thread(target=sparkray.get, args=(refs,))
            thread.start()
            thread.join()
        else:

            async def waits() -> None:
                sparkray.get(refs)

            asyncio.run(waits())
        return {os.getpid()}.intersection(sparkray.get(refs))

    found = {how: ray.get(deep(scenario, how), timeout=LIMIT_S) for how in ("first", "limit", "thread", "loop")}
    assert found == {"first": set(), "limit": set(), "thread": set(), "loop": set()}


def test_children_that_need_each_other_end(ray: Any, tmp_path: Path) -> None:
    """The one that was taken waits for the other, which nobody on its stack waits for alone."""

    def scenario() -> Any:
        @sparkray.remote(num_cpus=0)
        class Box:
            def __init__(self) -> None:
                self.there = asyncio.Event()

            async def put(self) -> None:
                self.there.set()

            async def wait(self) -> str:
                await self.there.wait()
                return "there"

        @sparkray.remote
        def gives(box: Any) -> str:
            return str(sparkray.get(box.put.remote()))

        @sparkray.remote
        def takes(box: Any) -> str:
            return str(sparkray.get(box.wait.remote()))

        box: Any = Box.remote()  # type: ignore[attr-defined]
        return sparkray.get([gives.remote(box), takes.remote(box), takes.remote(box)])

    assert ray.get(deep(scenario), timeout=LIMIT_S) == ["None", "there", "there"]


@pytest.mark.parametrize("recursive", [True, False])
def test_cancelling_the_parent_while_its_child_runs(ray: Any, tmp_path: Path, recursive: bool) -> None:
    """With its children, both end. Without, the parent hears of it once its child has ended."""

    @ray.remote
    def child() -> None:
        (tmp_path / "child").write_text(str(os.getpid()))
        wait_until((tmp_path / "go").exists)
        (tmp_path / "ended").touch()

    @ray.remote
    def parent() -> None:
        try:
            sparkray.get(child.remote())
        finally:
            (tmp_path / "over").write_text(str(os.getpid()))

    def scenario() -> Any:
        ref = parent.remote()

        def cancels() -> None:
            wait_until((tmp_path / "child").exists)
            sparkray.cancel(ref, recursive=recursive)
            if not recursive:
                (tmp_path / "go").touch()

        thread = threading.Thread(target=cancels)
        thread.start()
        with pytest.raises(TaskCancelledError):
            sparkray.get(ref)
        thread.join()
        return os.getpid(), sparkray.get(pid.remote())

    here, after = ray.get(deep(scenario), timeout=LIMIT_S)
    assert here == after
    assert {(tmp_path / name).read_text() for name in ("child", "over")} == {str(here)}
    assert (tmp_path / "ended").exists() is not recursive


def test_a_child_may_recurse_as_deep_as_anybody(ray: Any) -> None:
    def scenario() -> Any:
        def recurse(levels: int) -> int:
            return 0 if not levels else 1 + recurse(levels - 1)

        @sparkray.remote
        def child(levels: int) -> int:
            return recurse(levels)

        fits = 800  # of 1000
        assert sparkray.get(child.remote(fits)) == fits
        with pytest.raises(RecursionError):
            sparkray.get(child.remote(100 * fits))
        return True

    assert ray.get(below.remote(30, scenario), timeout=LIMIT_S)


def test_it_is_on_record_like_any_other(ray: Any) -> None:
    from sparkray.util.state import list_tasks

    @sparkray.remote
    def recorded(levels: int) -> int:
        return 0 if not levels else 1 + sparkray.get(recorded.remote(levels - 1))

    assert ray.get(recorded.remote(6), timeout=LIMIT_S) == 6
    found = {task.task_id: task.state for task in list_tasks(limit=1000) if task.name == "recorded"}
    assert list(found.values()) == ["FINISHED"] * 7


def test_large_values_and_references_pass_between_them(ray: Any) -> None:
    def scenario() -> int:
        @sparkray.remote
        def makes(size: int, inside: list[Any]) -> list[Any]:
            return [b"x" * size, *inside]

        first = makes.remote(300_000, [])
        second = makes.remote(400_000, [first])
        value = sparkray.get(second)
        return len(value[0]) + len(sparkray.get(value[1])[0])

    assert ray.get(deep(scenario), timeout=LIMIT_S) == 700_000


def test_what_it_prints_comes_under_its_own_name(tmp_path: Path) -> None:
    script = """
import sparkray
sparkray.init(num_cpus=1, object_store_memory=64 << 20, settings={"waiting_workers": 0})
@sparkray.remote
def inner():
    print("inside")
@sparkray.remote
def outer(levels):
    print("before", levels)
    sparkray.get(outer.remote(levels - 1) if levels else inner.remote())
    print("after", levels)
sparkray.get(outer.remote(3), timeout=60)
sparkray.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("(")]
    told = {line.partition(") ")[2]: line.partition(" ")[0] for line in lines}
    assert told == {
        **{f"before {level}": "(outer" for level in range(4)},
        **{f"after {level}": "(outer" for level in range(4)},
        "inside": "(inner",
    }
