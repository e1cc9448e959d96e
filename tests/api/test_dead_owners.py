"""kill -9 to workers that own what others hold: it has its value all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import OwnerDiedError
from tests.waiting import is_running, wait_until

LARGE = 300_000  # bytes: it lies in a store
WAIT_S = 60.0


@sparkray.remote
def fill(number: int, size: int, *parts: bytes) -> bytes:
    return bytes([number]) * size + b"".join(part[:1] for part in parts)


@sparkray.remote
def wait_for(path: str, number: int) -> int:
    """Of the first run the end comes only when the file is there."""
    with open(f"{path}.begun", "a") as begun:
        begun.write(".")
    wait_until(lambda: os.path.exists(path), limit=WAIT_S)
    return number


@sparkray.remote
def give(path: str) -> list[Any]:
    """Its own process, and references to results of tasks that it has submitted."""
    first = fill.remote(1, LARGE)
    small, large = fill.remote(2, 10), fill.remote(3, LARGE, first)
    once: Any = wait_for.options(max_retries=0)
    given = [small, large, wait_for.remote(path, 4), once.remote(path, 5)]
    sparkray.wait(given[:2], num_returns=2, timeout=WAIT_S)
    return [os.getpid(), *given]


@sparkray.remote
def sum_of(refs: list[Any]) -> int:
    return sum(value[0] for value in sparkray.get(refs))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), limit=WAIT_S)


def test_results_outlive_the_worker_that_had_submitted_their_tasks(ray: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "go")
    pid, small, large, pending, once = sparkray.get(give.remote(path), timeout=WAIT_S)
    wait_until(lambda: os.path.exists(f"{path}.begun"), limit=WAIT_S)

    kill(pid)

    assert sparkray.get(sum_of.remote([small, large]), timeout=WAIT_S) == 5  # a borrower asks
    assert sparkray.get(large, timeout=WAIT_S) == bytes([3]) * LARGE + bytes([1])
    with pytest.raises(OwnerDiedError, match="give it max_retries"):
        sparkray.get(once, timeout=WAIT_S)
    (tmp_path / "go").touch()
    assert sparkray.get(pending, timeout=WAIT_S) == 4
