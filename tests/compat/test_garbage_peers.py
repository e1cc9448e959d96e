"""A garbage peer on every socket, by a seed. More of them: `python -m sparkray_core.testing.fuzz --seeds A B`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from sparkray.session import current
from sparkray_core.testing import fuzz

MOST_GROWTH = 64 << 20  # bytes of raylet and head together, under all that is thrown at them here


@pytest.fixture
def target(ray: Any) -> fuzz.Target:
    node = current().node
    config = node.config
    return fuzz.Target(
        config.node,
        node.folder,
        config.token,
        node.address,
        node.head_address,
        (config.curve_public, config.curve_secret),
    )


@pytest.fixture
def still_works(ray: Any) -> Callable[[], None]:
    @ray.remote
    def double(x: Any) -> Any:
        return 2 * x

    @ray.remote
    class Counter:
        def inc(self) -> int:
            return 1

    counter = Counter.remote()

    def check() -> None:
        assert ray.get([double.remote(i) for i in range(20)], timeout=30) == [2 * i for i in range(20)]
        assert len(ray.get(double.remote(ray.put(b"x" * 200_000)), timeout=30)) == 400_000
        assert ray.get(Counter.remote().inc.remote(), timeout=30) == 1
        assert ray.available_resources()["GPU"] == 1

    check()
    del counter
    return check


def served_by() -> int:
    """Bytes that raylet and head hold."""
    titles = ("sparkray: raylet", "sparkray: gcs", "sparkray-raylet", "sparkray-head")
    total = 0
    for process in psutil.Process(current().node.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that has just ended
            if any(title in " ".join([*process.cmdline(), process.name()]) for title in titles):
                total += process.memory_info().rss
    return total


@pytest.mark.parametrize("first", range(0, 12, 4))
def test_raylet_and_head_serve_on(target: fuzz.Target, still_works: Callable[[], None], first: int) -> None:
    before = served_by()
    for seed in range(first, first + 4):
        fuzz.attack(seed, target)
    still_works()
    assert served_by() < before + MOST_GROWTH


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_raylet_and_head_serve_on_under_many_seeds(target: fuzz.Target, still_works: Callable[[], None]) -> None:
    before = served_by()
    for seed in range(1000, 1100):
        fuzz.attack(seed, target)
    still_works()
    assert served_by() < before + MOST_GROWTH


def test_many_who_connect_and_say_nothing_keep_nobody_out(target: fuzz.Target, still_works: Callable[[], None]) -> None:
    socks = [sock for path in target.unix_sockets() for sock in fuzz.slowloris(target, path, 300)]
    try:
        still_works()
    finally:
        for sock in socks:
            sock.close()


def test_sockets_are_their_user_s_alone(target: fuzz.Target) -> None:
    for path in target.unix_sockets():
        assert os.stat(path).st_mode & 0o077 == 0
