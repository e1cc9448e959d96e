"""One session for the tests of a module."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from sparkray import session

LIMIT_S = 10.0


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of two CPUs and a 64 MiB store."""
    sparkray.init(num_cpus=2, object_store_memory=64 << 20)
    yield sparkray
    sparkray.shutdown()


@pytest.fixture
def stored() -> Callable[[], int]:
    """How many objects are in this node's store."""

    def count() -> int:
        core = session.core()
        core.kick()
        return int(core.ask(core.raylet_id, "status")["objects"])

    return count


@pytest.fixture
def wait_until_stored(stored: Callable[[], int]) -> Callable[[int], None]:
    """Wait for so many objects in the store, with a limit."""

    def wait(expected: int) -> None:
        deadline = time.monotonic() + LIMIT_S
        while (seen := stored()) != expected:
            assert time.monotonic() < deadline, f"{seen} objects are in the store, not {expected}"
            time.sleep(0.01)

    return wait
