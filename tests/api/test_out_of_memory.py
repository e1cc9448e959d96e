"""The memory monitor on real processes, by a limit that is set low."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import OutOfMemoryError

MIB = 1 << 20


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """700 MiB for workers and store, of which each worker has some 30 from its start."""
    sparkray.init(
        num_cpus=2, object_store_memory=32 * MIB, memory_limit_bytes=700 * MIB, memory_check_s=0.05, task_oom_retries=1
    )
    yield sparkray
    sparkray.shutdown()


def _grow(mib: int, then_s: float = 0.0) -> int:
    """Slowly enough to be seen."""
    held = []
    for _ in range(0, mib, 20):
        held.append(bytearray(os.urandom(MIB) * 20))
        time.sleep(0.03)
    time.sleep(then_s)
    return mib


def test_a_task_that_never_fits_fails_with_who_used_what(ray: Any) -> None:
    grow = ray.remote(_grow)
    assert ray.get(grow.remote(100)) == 100
    with pytest.raises(OutOfMemoryError) as caught:
        ray.get(grow.remote(1500))
    text = str(caught.value)
    for words in ("_grow()", "2 times", "task_oom_retries: 1", "of 700.0 MiB", "pid", "leased for _grow()"):
        assert words in text
    assert ray.get(grow.remote(100)) == 100  # and others go on


def test_two_that_do_not_fit_together_run_one_after_the_other(ray: Any) -> None:
    grow = ray.remote(_grow)
    assert ray.get([grow.remote(380, 0.3), grow.remote(380, 0.3)], timeout=60) == [380, 380]


def test_a_task_without_retries_fails_at_once(ray: Any) -> None:
    with pytest.raises(OutOfMemoryError, match="was ended to save memory"):
        ray.get(ray.remote(max_retries=0)(_grow).remote(1500))


def test_a_call_of_an_actor_fails_with_the_reason(ray: Any) -> None:
    class Grower:
        def grow(self, mib: int) -> int:
            return _grow(mib)

    grower = ray.remote(Grower).remote()
    assert ray.get(grower.grow.remote(20)) == 20
    with pytest.raises(OutOfMemoryError, match=r"actor Grower"):
        ray.get(grower.grow.remote(1500))
