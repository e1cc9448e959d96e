"""One session for the tests of a module; those that end it start their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of four CPUs and a 256 MiB store."""
    sparkray.init(num_cpus=4, object_store_memory=256 << 20)
    yield sparkray
    sparkray.shutdown()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Wait until a condition holds, at most `limit` seconds."""

    def wait(condition: Callable[[], object], limit: float = 10.0) -> None:
        deadline = time.monotonic() + limit
        while not (last := condition()):
            assert time.monotonic() < deadline, f"the condition did not come true in {limit:g} s: {last!r}"
            time.sleep(0.01)

    return wait
