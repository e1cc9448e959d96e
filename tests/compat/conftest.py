"""One session for the tests of a module; those that end it or need another start their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of four CPUs and a 256 MiB store."""
    sparkray.init(num_cpus=4, num_gpus=1, resources={"special": 1}, object_store_memory=256 << 20)
    yield sparkray
    sparkray.shutdown()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Wait for a condition, with a limit; what it last returned is in the failure."""

    def wait(condition: Callable[[], object], limit: float = 20.0) -> None:
        deadline = time.monotonic() + limit
        while not (seen := condition()):
            assert time.monotonic() < deadline, f"not so within {limit:g} s; last seen: {seen!r}"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="module")
def new_gate(ray: Any) -> Callable[[], Any]:
    """Makes actors on which any number of callers `wait` until somebody says `open`."""
    import asyncio

    @ray.remote(num_cpus=0)
    class Gate:
        def __init__(self) -> None:
            self._opened = asyncio.Event()
            self._waiting = 0

        async def wait(self) -> None:
            self._waiting += 1
            await self._opened.wait()

        async def open(self) -> None:
            self._opened.set()

        async def waiting(self) -> int:
            return self._waiting

    return Gate.remote  # type: ignore[no-any-return]
