"""What tests wait for, always with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str = "", limit: float = 30.0) -> T:
    """Until it holds; then what it gave.

    Args:
        what: what should have come to be, for whoever reads that it did not.
        limit: in seconds.
    """
    deadline = time.monotonic() + limit
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what or condition}; last seen: {seen!r}"
        time.sleep(0.01)
    return seen


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie, which has ended and only waits for its parent to look."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
