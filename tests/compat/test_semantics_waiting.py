"""`get` and `wait`, as programs written for Ray expect them (lines 19 to 27)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import GetTimeoutError, RayTaskError


@pytest.fixture
def gate(ray: Any, tmp_path: Path, wait_until: Any) -> Any:
    """(a remote function that returns its argument once the gate is open, what opens it)."""
    path = tmp_path / "open"

    @ray.remote
    def behind(value: Any, marks: str = "") -> Any:
        wait_until(path.exists)
        if marks:
            Path(marks).touch()
        return value

    yield behind, path.touch
    path.touch()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_get_of_a_list_raises_the_first_error_and_cancels_nothing(
    ray: Any, gate: Any, tmp_path: Path, wait_until: Any, place: int
) -> None:
    """Line 19."""
    behind, open_gate = gate
    done = tmp_path / "done"

    @ray.remote
    def fail() -> None:
        raise ZeroDivisionError("early")

    late = behind.remote(1, str(done))
    refs = [ray.put(0), late, ray.put(2)]
    refs[place] = fail.remote() if refs[place] is not late else refs[place]
    if place == 1:
        refs.append(fail.remote())

    with pytest.raises(ZeroDivisionError):
        ray.get(refs, timeout=60)
    open_gate()
    assert ray.get(late, timeout=20) == 1
    wait_until(done.exists)


def test_an_error_that_was_there_before_get_ends_it_at_once(ray: Any, gate: Any) -> None:
    """Line 19: also when it came before somebody asked."""
    behind, _ = gate

    @ray.remote
    def fail() -> None:
        raise ZeroDivisionError("early")

    late, failed = behind.remote(1), fail.remote()
    ray.wait([failed], timeout=20)
    with pytest.raises(ZeroDivisionError):
        ray.get([late, failed], timeout=10)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_leaves_the_task_and_its_reference_as_they_are(ray: Any, gate: Any, timeout: float) -> None:
    """Lines 20 and 21."""
    behind, open_gate = gate
    ref = behind.remote("late")
    with pytest.raises(GetTimeoutError) as caught:
        ray.get(ref, timeout=timeout)
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, OSError)
    with pytest.raises(GetTimeoutError):
        ray.get([ray.put(1), ref], timeout=timeout)
    open_gate()
    assert ray.get(ref, timeout=20) == "late"
    assert ray.get(ref, timeout=0) == "late"


def test_a_negative_timeout_of_get_waits(ray: Any, gate: Any) -> None:
    """Line 20, at its edge."""
    behind, open_gate = gate
    ref = behind.remote(1)
    threading.Timer(0.05, open_gate).start()
    assert ray.get(ref, timeout=-1) == 1


def test_wait_returns_at_most_what_was_asked_for_in_the_order_given(ray: Any, gate: Any) -> None:
    """Line 22."""
    behind, open_gate = gate
    ready = [ray.put(i) for i in range(5)]
    late = behind.remote(0)
    assert ray.wait([late, *ready], num_returns=2) == ([ready[0], ready[1]], [late, *ready[2:]])
    assert ray.wait([ready[3], late, ready[1]], num_returns=2) == ([ready[3], ready[1]], [late])
    assert ray.wait([late, *ready], num_returns=6, timeout=0.05) == (ready, [late])
    assert ray.wait([late], timeout=0) == ([], [late])
    open_gate()
    assert ray.wait([late, *ready], num_returns=6, timeout=20) == ([late, *ready], [])
    assert ray.wait([]) == ([], [])


def test_wait_counts_failures_as_ready(ray: Any, gate: Any) -> None:
    """Line 23."""
    behind, _ = gate

    @ray.remote
    def fail() -> None:
        raise ValueError("failed")

    late, failed = behind.remote(1), fail.remote()
    assert ray.wait([late, failed], timeout=20) == ([failed], [late])
    assert ray.wait([failed, late], timeout=20, fetch_local=False) == ([failed], [late])


def test_wait_wants_a_list_of_different_references_and_get_allows_the_same_twice(ray: Any) -> None:
    """Line 24."""
    ref = ray.put(1)
    assert ray.get([ref, ref]) == [1, 1]
    assert ray.get([]) == []
    with pytest.raises(ValueError, match="unique"):
        ray.wait([ref, ref])
    for wrong in (ref, (ref,), {ref}, 1, None):
        with pytest.raises(TypeError):
            ray.wait(wrong)
    for wrong in ((ref,), {"a": ref}, 5, None, "x"):
        with pytest.raises(ValueError, match="get"):
            ray.get(wrong)
    for wrong in ([ref, 1], [None], [[ref]]):
        with pytest.raises(TypeError):
            ray.get(wrong)
        with pytest.raises(TypeError):
            ray.wait(wrong)


def test_all_references_of_a_failed_task_carry_its_error(ray: Any) -> None:
    """Line 25."""

    @ray.remote(num_returns=3)
    def fail() -> Any:
        raise KeyError("all")

    @ray.remote(num_returns=2)
    def too_many() -> Any:
        return 1, 2, 3

    @ray.remote(num_returns=2)
    def not_iterable() -> Any:
        return 5

    for ref in fail.remote():
        with pytest.raises(KeyError):
            ray.get(ref)
    for ref in [*too_many.remote(), *not_iterable.remote()]:
        with pytest.raises(RayTaskError) as caught:
            ray.get(ref)
        assert isinstance(caught.value, ValueError | TypeError)
        assert "num_returns=2" in str(caught.value)


def test_a_ctrl_c_in_get_leaves_the_task_running(tmp_path: Path) -> None:
    """Line 26."""
    script = f"""
import os, signal, threading, time
import sparkray as ray
ray.init(num_cpus=1)
@ray.remote
def f(path):
    open(path + ".begun", "w").close()
    while not os.path.exists(path): time.sleep(0.01)
    return "done"
path = {str(tmp_path / "go")!r}
ref = f.remote(path)
def interrupt():
    while not os.path.exists(path + ".begun"): time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    ray.get(ref)
except KeyboardInterrupt:
    print("interrupted")
open(path, "w").close()
print(ray.get(ref, timeout=30))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("interrupted\ndone\n", 0), done.stderr


def test_a_user_s_own_handler_of_ctrl_c_is_kept(ray: Any, gate: Any) -> None:
    """Line 26, with a handler that does not raise."""
    behind, open_gate = gate
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        ref = behind.remote(3)
        threading.Timer(0.05, lambda: (os.kill(os.getpid(), signal.SIGINT), open_gate())).start()
        assert ray.get(ref, timeout=20) == 3
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
