"""What others leave behind: threads that wait when the session ends, tasks whose maker is through."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import sparkray
from sparkray.exceptions import RaySystemError


@pytest.fixture
def ray() -> Iterator[Any]:
    """sparkray with a session of one CPU, so of one worker."""
    sparkray.init(num_cpus=1)
    yield sparkray
    sparkray.shutdown()


def test_the_end_of_the_session_ends_the_wait_of_another_thread(ray: Any) -> None:
    @ray.remote
    def sleep() -> None:
        time.sleep(60)

    caught: list[BaseException] = []

    def wait(ref: Any) -> None:
        try:
            ray.get(ref)
        except RaySystemError as error:
            caught.append(error)

    thread = threading.Thread(target=wait, args=(sleep.remote(),))
    thread.start()
    time.sleep(0.2)  # by then it sleeps in the sockets, as a rule; if it does not, the test is only weaker

    began = time.monotonic()
    ray.shutdown()
    thread.join(30)

    assert time.monotonic() - began < 20
    assert len(caught) == 1


def test_a_worker_may_be_given_the_tasks_that_it_made_itself(ray: Any) -> None:
    @ray.remote
    def parent() -> tuple[int, list[Any]]:
        @ray.remote
        def child(value: int) -> tuple[int, int]:
            return value, os.getpid()

        return os.getpid(), [child.remote(value) for value in range(50)]

    pid, refs = ray.get(parent.remote())
    results = ray.get(refs, timeout=60)
    assert [value for value, _ in results] == list(range(50))
    assert {worker for _, worker in results} == {pid}


def test_a_reference_of_a_dead_process_fails_instead_of_waiting_for_ever(ray: Any) -> None:
    """Of a task that may run once only, so that nobody may run it again; see `test_dead_owners` for those that may."""

    @ray.remote(max_retries=0)
    def child() -> None:
        time.sleep(60)

    @ray.remote(max_retries=0)
    def make() -> tuple[list[Any], int]:
        return [child.remote()], os.getpid()

    @ray.remote
    def wait_for_pid(refs: list[Any]) -> Any:
        return ray.get(refs[0], timeout=20)

    refs, pid = ray.get(make.remote())
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(ray.exceptions.OwnerDiedError):
        ray.get(wait_for_pid.remote(refs), timeout=40)


def test_references_inside_a_large_argument_outlive_the_task_in_an_actor(ray: Any) -> None:
    class Keeper:
        def keep(self, value: dict[str, Any]) -> None:
            self.ref = value["ref"]

        def read(self) -> Any:
            return ray.get(self.ref, timeout=20)

    keeper = ray.remote(Keeper).remote()
    ray.get(keeper.keep.remote({"ref": ray.put("inner"), "bulk": np.ones(1 << 20)}))
    assert ray.get([keeper.read.remote() for _ in range(3)], timeout=30) == ["inner"] * 3
