"""What a task or an actor has put stays readable when the process that made it has ended, and is freed all the same."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparkray_core.run import object_ref
from tests.waiting import is_running

MIB = 1 << 20


def status() -> dict[str, Any]:
    core = object_ref.core()
    core.kick()
    found: dict[str, Any] = core.ask(core.raylet_id, "status")
    return found


def wait_until(holds: Callable[[], object], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < deadline, f"still not so: {status()}"
        time.sleep(0.02)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid))


@pytest.fixture
def maker(ray: Any) -> Any:
    class Maker:
        def pid(self) -> int:
            return os.getpid()

        def make(self, size: int, n: int = 7) -> list[Any]:
            return [ray.put(np.full(size, n, dtype=np.uint8))]

        def make_nested(self) -> list[Any]:
            inner = ray.put(np.full(MIB, 3, dtype=np.uint8))
            return [ray.put({"inner": inner, "small": ray.put("abc")})]

    return ray.remote(Maker).remote()


@pytest.mark.parametrize("size", [10, MIB])
def test_a_value_outlives_the_killed_process_that_put_it(ray: Any, maker: Any, size: int) -> None:
    gc.collect()
    wait_until(lambda: not status()["kept"])
    before = status()["store_used"]
    pid = ray.get(maker.pid.remote())
    (ref,) = ray.get(maker.make.remote(size))
    (looked_at,) = ray.get(maker.make.remote(size, 8))
    assert ray.get(looked_at)[0] == 8
    kill(pid)

    @ray.remote
    def total(x: Any) -> int:
        return int(x.sum())

    assert ray.get(total.remote(ref)) == 7 * size
    assert ray.get(ref).sum() == 7 * size
    assert ray.get(looked_at).sum() == 8 * size

    del ref, looked_at
    wait_until(lambda: status()["store_used"] == before and not status()["kept"])


def test_references_inside_an_outliving_value_live_as_long(ray: Any, maker: Any) -> None:
    pid = ray.get(maker.pid.remote())
    (ref,) = ray.get(maker.make_nested.remote())
    kill(pid)

    found = ray.get(ref)
    assert ray.get(found["inner"]).sum() == 3 * MIB
    assert ray.get(found["small"]) == "abc"

    del ref, found
    wait_until(lambda: not status()["kept"])


def test_a_value_outlives_the_normal_end_of_an_actor(ray: Any, maker: Any) -> None:
    pid = ray.get(maker.pid.remote())
    (ref,) = ray.get(maker.make.remote(MIB))
    ray.kill(maker)
    wait_until(lambda: not is_running(pid))
    assert ray.get(ref).sum() == 7 * MIB


def test_a_task_s_put_outlives_a_worker_that_a_later_task_kills(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def put_and_die_later() -> list[Any]:
        return [ray.put(os.getpid()), ray.put("small"), ray.put(np.ones(MIB, dtype=np.uint8))]

    pid, small, large = ray.get(put_and_die_later.remote())
    kill(ray.get(pid))
    assert ray.get(small) == "small"
    assert ray.get(large).sum() == MIB


def test_an_actor_keeps_what_a_dead_one_made(ray: Any, maker: Any) -> None:
    class Holder:
        def keep(self, refs: list[Any]) -> None:
            self.refs = refs

        def read(self) -> int:
            return int(ray.get(self.refs[0]).sum())

    holder = ray.remote(Holder).remote()
    pid = ray.get(maker.pid.remote())
    ray.get(holder.keep.remote(ray.get(maker.make.remote(MIB))))
    kill(pid)
    assert ray.get(holder.read.remote()) == 7 * MIB
    ray.kill(holder)
    wait_until(lambda: not status()["kept"])


def test_what_is_inside_a_result_that_is_not_sent_after_all_is_let_go_of(ray: Any) -> None:
    @ray.remote(num_returns=2)
    def half() -> Any:
        return [ray.put(np.ones(MIB, dtype=np.uint8))], threading.Lock()  # that cannot be pickled

    gc.collect()
    wait_until(lambda: not status()["kept"])
    before = status()["store_used"]
    refs = half.remote()
    while refs:
        with pytest.raises(ray.exceptions.RayTaskError):
            ray.get(refs.pop())
    del refs
    gc.collect()
    wait_until(lambda: status()["store_used"] == before and not status()["kept"])


def test_what_never_left_a_worker_is_freed_with_it(ray: Any) -> None:
    class Hoarder:
        def hoard(self) -> int:
            self.refs = [ray.put(np.ones(MIB, dtype=np.uint8)), ray.put(1), ray.put([ray.put(2)])]
            return os.getpid()

    gc.collect()
    wait_until(lambda: not status()["kept"])
    before = status()["store_used"]
    hoarder = ray.remote(Hoarder).remote()
    pid = ray.get(hoarder.hoard.remote())
    assert status()["store_used"] > before
    kill(pid)
    wait_until(lambda: status()["store_used"] == before and not status()["kept"])
