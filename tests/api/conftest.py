"""One session for the tests of a module; those that kill or end it start their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import sparkray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of four CPUs and a 512 MiB store."""
    sparkray.init(num_cpus=4, resources={"special": 1}, object_store_memory=512 << 20)
    yield sparkray
    sparkray.shutdown()
