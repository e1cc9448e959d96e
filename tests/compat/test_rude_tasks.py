"""Tasks that harm their own process: each a clear error of the right class, or no effect, and the session goes on."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sparkray.exceptions import (
    ActorDiedError,
    ObjectStoreFullError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from tests.waiting import is_running


@pytest.fixture(autouse=True)
def the_session_goes_on(ray: Any) -> Any:
    yield

    @ray.remote
    def double(x: int) -> int:
        print("still printing")  # noqa: T201
        return 2 * x

    assert ray.get([double.remote(i) for i in range(8)], timeout=30) == [2 * i for i in range(8)]


def _segfault() -> None:
    ctypes.string_at(0)


def _overflow_the_stack() -> None:
    import faulthandler

    faulthandler._stack_overflow()  # pyright: ignore[reportAttributeAccessIssue]


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _abort() -> None:
    os.abort()


def _exit_at_once() -> None:
    os._exit(0)


def _close_everything() -> None:
    os.closerange(0, 4096)


@pytest.mark.parametrize(
    ("crash", "told"),
    [
        (_segfault, "SIGSEGV"),
        (_overflow_the_stack, "SIGSEGV"),
        (_kill_itself, "SIGKILL"),
        (_abort, "SIGABRT"),
        (_exit_at_once, "exit code 0"),
        (_close_everything, "ended before it answered"),
    ],
)
def test_a_task_that_ends_its_process_is_a_crashed_worker(ray: Any, crash: Callable[[], None], told: str) -> None:
    with pytest.raises(WorkerCrashedError, match=told):
        ray.get(ray.remote(max_retries=0)(crash).remote(), timeout=30)


@pytest.mark.parametrize("crash", [_segfault, _kill_itself, _exit_at_once])
def test_an_actor_that_ends_its_process_is_dead(ray: Any, crash: Callable[[], None]) -> None:
    @ray.remote
    class Actor:
        def die(self) -> None:
            crash()

    actor = Actor.remote()
    with pytest.raises(ActorDiedError):
        ray.get(actor.die.remote(), timeout=30)
    with pytest.raises(ActorDiedError):
        ray.get(actor.die.remote(), timeout=30)


def test_what_exhausts_python_is_an_error_of_the_task(ray: Any) -> None:
    @ray.remote
    def recurse(n: int) -> int:
        return recurse_here(n + 1)

    def recurse_here(n: int) -> int:
        return recurse_here(n + 1)

    @ray.remote
    def take_all() -> int:
        return len(bytearray(1 << 60))

    with pytest.raises(RecursionError):
        ray.get(recurse.remote(0), timeout=30)
    with pytest.raises(MemoryError):
        ray.get(take_all.remote(), timeout=30)


def test_values_nested_too_deep_to_pickle_are_refused_where_they_are(ray: Any) -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    @ray.remote
    def take(value: Any) -> None: ...

    @ray.remote
    def give() -> Any:
        value: Any = []
        for _ in range(100_000):
            value = [value]
        return value

    for refuse in (lambda: ray.put(deep), lambda: take.remote(deep), lambda: ray.get(give.remote(), timeout=30)):
        with pytest.raises((TypeError, RecursionError)):
            refuse()
    while deep:  # or its destruction recurses
        deep = deep.pop()


def test_results_that_cannot_be_pickled_name_the_culprit(ray: Any) -> None:
    @ray.remote
    def give() -> Any:
        return {"ok": 1, "lock": threading.Lock()}

    @ray.remote
    class Actor:
        def give(self) -> Any:
            return (i for i in range(3))

    with pytest.raises(TypeError, match=r"(?s)'lock'.*lock"):
        ray.get(give.remote(), timeout=30)
    with pytest.raises(TypeError, match="generator"):
        ray.get(Actor.remote().__ray_call__.remote(lambda self: {"inside": (i for i in range(3))}), timeout=30)


def test_a_task_that_closes_its_standard_streams_harms_itself_alone(ray: Any) -> None:
    @ray.remote
    def close() -> int:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        return 1

    @ray.remote
    def speak() -> str:
        print("spoken")  # noqa: T201
        sys.stderr.write("written\n")
        return "done"

    assert ray.get(close.remote(), timeout=30) == 1
    assert ray.get([speak.remote() for _ in range(8)], timeout=30) == ["done"] * 8


@pytest.mark.parametrize("broken", ["None", "closed", "raises"])
def test_a_task_that_breaks_sys_stdout_harms_no_answer(ray: Any, broken: str) -> None:
    @ray.remote
    def break_it() -> str:
        class Raises:
            def write(self, _: str) -> int:
                raise OSError("no")

            def flush(self) -> None:
                raise OSError("no")

        if broken == "closed":
            open(os.devnull, "w").close()
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            sys.stdout.close()
        else:
            sys.stdout = None if broken == "None" else Raises()
        return "broken"

    @ray.remote
    def quiet() -> int:
        return 1

    @ray.remote
    def mend() -> None:
        sys.stdout = sys.__stdout__

    assert ray.get(break_it.remote(), timeout=30) == "broken"
    assert ray.get([quiet.remote() for _ in range(8)], timeout=30) == [1] * 8
    ray.get([mend.remote() for _ in range(8)], timeout=30)


def test_a_task_may_change_its_folder(ray: Any, tmp_path: Path) -> None:
    @ray.remote
    def go() -> str:
        gone = tmp_path / "gone"
        gone.mkdir(exist_ok=True)
        os.chdir(gone)
        gone.rmdir()
        return "there"

    @ray.remote
    def back() -> None:
        os.chdir("/")

    assert ray.get(go.remote(), timeout=30) == "there"
    ray.get([back.remote() for _ in range(8)], timeout=30)


def test_a_task_that_replaces_all_signal_handlers_can_be_cancelled(ray: Any, tmp_path: Path, wait_until: Any) -> None:
    begun = tmp_path / "begun"

    @ray.remote(max_retries=0)
    def deaf() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        begun.touch()
        time.sleep(60)

    ref = deaf.remote()
    wait_until(begun.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=20)


def test_what_a_task_leaves_running_neither_holds_its_answer_nor_outlives_the_worker(ray: Any, wait_until: Any) -> None:
    @ray.remote
    def leave() -> int:
        child = os.fork()
        if child == 0:
            time.sleep(120)
            os._exit(0)
        threading.Thread(target=time.sleep, args=(120,), daemon=True).start()
        return child

    @ray.remote
    def leave_thread() -> int:
        threading.Thread(target=time.sleep, args=(120,)).start()  # no daemon: an interpreter would wait for it
        return os.getpid()

    child = ray.get(leave.remote(), timeout=30)
    worker = ray.get(leave_thread.remote(), timeout=30)
    assert psutil.pid_exists(worker)
    with contextlib.suppress(psutil.NoSuchProcess):  # its worker may have been one too many by now
        os.kill(psutil.Process(child).ppid(), signal.SIGKILL)
    wait_until(lambda: not is_running(child))


def test_a_fork_of_a_task_that_returns_like_its_parent_breaks_nothing(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def both() -> int:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return 1

    assert ray.get([both.remote() for _ in range(4)], timeout=30) == [1] * 4


def test_what_does_not_fit_the_store_is_refused_with_sizes(ray: Any) -> None:
    @ray.remote
    def take(value: Any) -> int:
        return len(value)

    @ray.remote(max_retries=0)
    def give() -> Any:
        return np.zeros(300 << 20, np.uint8)

    too_large: Any = np.zeros(300 << 20, np.uint8)
    for refuse in (lambda: ray.put(too_large), lambda: take.remote(too_large)):
        with pytest.raises(ObjectStoreFullError, match=r"\d"):
            refuse()
    with pytest.raises((ObjectStoreFullError, RayTaskError)) as caught:
        ray.get(give.remote(), timeout=60)
    assert isinstance(caught.value, ObjectStoreFullError)
    too_large = None
    gc.collect()
    assert ray.get(take.remote(np.zeros(1 << 20, np.uint8)), timeout=30) == 1 << 20


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cpu": 1}, ValueError),
        ({"num_cpus": -1}, ValueError),
        ({"num_cpus": "1"}, TypeError),
        ({"num_cpus": float("nan")}, ValueError),
        ({"num_gpus": []}, TypeError),
        ({"resources": {"CPU": 1}}, ValueError),
        ({"resources": {"x": -1}}, ValueError),
        ({"resources": [1]}, TypeError),
        ({"max_retries": -2}, ValueError),
        ({"max_retries": 1.5}, TypeError),
        ({"num_returns": -1}, ValueError),
        ({"name": 5}, TypeError),
        ({"retry_exceptions": "ValueError"}, TypeError),
        ({"retry_exceptions": [ValueError()]}, TypeError),
        ({"max_restarts": 1}, ValueError),
    ],
)
def test_options_of_tasks_are_refused_when_they_are_given(
    ray: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    def f() -> None: ...

    with pytest.raises(error):
        ray.remote(**options)(f)
    with pytest.raises(error):
        ray.remote(f).options(**options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_restart": 1}, ValueError),
        ({"max_restarts": -2}, ValueError),
        ({"max_concurrency": 0}, ValueError),
        ({"lifetime": "forever"}, ValueError),
        ({"max_retries": 1}, ValueError),
        ({"get_if_exists": "yes"}, TypeError),
        ({"namespace": 1}, TypeError),
    ],
)
def test_options_of_actors_are_refused_when_they_are_given(
    ray: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    class A: ...

    with pytest.raises(error):
        ray.remote(**options)(A)
    with pytest.raises(error):
        ray.remote(A).options(**options)
