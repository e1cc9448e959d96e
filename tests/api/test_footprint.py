"""What an idle worker costs: forked from a process with the imports done, it shares nearly all of its memory."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

LIMIT_MIB = 15  # of memory that a worker shares with nobody; 4 was measured, Ray's has 150


@pytest.mark.skipif(sys.platform != "linux", reason="unshared memory is told by /proc")
def test_an_idle_worker_adds_little_unshared_memory(ray: Any) -> None:
    import psutil

    @ray.remote
    def pid() -> int:
        return os.getpid()

    class Toy:
        def pid(self) -> int:
            return os.getpid()

    pids = set(ray.get([pid.remote() for _ in range(200)]))
    actors = [ray.remote(Toy).remote() for _ in range(2)]
    pids.update(ray.get([actor.pid.remote() for actor in actors]))
    unshared = {pid: psutil.Process(pid).memory_full_info().uss / (1 << 20) for pid in pids}
    assert all(amount < LIMIT_MIB for amount in unshared.values()), unshared
