"""One session for the tests of a module; those that kill or end it start their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import sparkray
from sparkray_core.run import object_ref, processes


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of a module with `LOCAL_MODE_TOO = True` runs in local mode, too, but for those marked `needs_workers`."""
    if "ray" in metafunc.fixturenames and getattr(metafunc.module, "LOCAL_MODE_TOO", False):
        modes = ["workers"] if metafunc.definition.get_closest_marker("needs_workers") else ["workers", "local_mode"]
        metafunc.parametrize("ray", modes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def ray(request: pytest.FixtureRequest) -> Iterator[Any]:
    """sparkray with a session of four CPUs and a 512 MiB store."""
    local_mode = getattr(request, "param", "workers") == "local_mode"
    sparkray.init(num_cpus=4, resources={"special": 1}, object_store_memory=512 << 20, local_mode=local_mode)
    yield sparkray
    sparkray.shutdown()


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    """In local mode it is the next call that notices which handles were let go of."""
    yield
    if object_ref.current is not None and object_ref.current.serial:
        object_ref.current.look()


@pytest.fixture
def descendants() -> Callable[[int], list[int]]:
    """The processes below one, however deep."""

    def below(pid: int) -> list[int]:
        children = processes.children_of(pid)
        return children + [one for child in children for one in below(child)]

    return below
