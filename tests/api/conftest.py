"""One session for the tests of a module; those that kill or end it start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from sparkray_core.run import processes


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """sparkray with a session of four CPUs and a 512 MiB store."""
    sparkray.init(num_cpus=4, resources={"special": 1}, object_store_memory=512 << 20)
    yield sparkray
    sparkray.shutdown()


@pytest.fixture
def descendants() -> Callable[[int], list[int]]:
    """The processes below one, however deep."""

    def below(pid: int) -> list[int]:
        children = processes.children_of(pid)
        return children + [one for child in children for one in below(child)]

    return below
