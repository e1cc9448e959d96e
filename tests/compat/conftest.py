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
