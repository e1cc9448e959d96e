"""One session for the tests of a module, and a wait for what the session does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray

LIMIT_S = 30.0


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of two CPUs."""
    sparkray.init(num_cpus=2, object_store_memory=256 << 20, namespace="observed")
    yield sparkray
    sparkray.shutdown()


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], Any]], Any]:
    """Waits until a function returns something true, and returns that."""

    def wait(condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LIMIT_S
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline, f"{condition} did not come true"
            time.sleep(0.02)

    return wait
