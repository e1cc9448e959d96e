"""What is asked for with a task: how long its worker lives, how urgent it is, and what it needs."""

from __future__ import annotations

import os
from typing import Any

import pytest

import sparkray
from tests.waiting import is_running, wait_until


# ---------------------------------------------------------------------------------- max_calls
def test_a_worker_ends_after_max_calls_of_the_function(ray: Any) -> None:
    @ray.remote(max_calls=2)
    def pid() -> int:
        return os.getpid()

    pids = ray.get([pid.remote() for _ in range(12)], timeout=60)
    assert max(pids.count(one) for one in pids) <= 2
    full = [one for one in pids if pids.count(one) == 2]  # the others wait for their second call
    wait_until(lambda: not any(map(is_running, full)))

    @ray.remote(max_calls=1)
    def single() -> int:
        return os.getpid()

    pids = [ray.get(single.remote(), timeout=60) for _ in range(4)]
    assert len(set(pids)) == 4
    wait_until(lambda: not any(map(is_running, pids)))
    with pytest.raises(ValueError, match="max_calls belongs to the function"):
        single.options(max_calls=2)


def test_what_such_a_worker_made_outlives_its_last_call(ray: Any) -> None:
    @ray.remote(max_calls=1)
    def make() -> Any:
        return [ray.put("kept"), os.getpid()]

    ref, pid = ray.get(make.remote(), timeout=60)
    assert ray.get(ref, timeout=60) == "kept"
    del ref
    wait_until(lambda: not is_running(pid))


# ---------------------------------------------------------------------------------- resources
def test_an_accelerator_type_is_a_resource_of_the_node(ray: Any) -> None:
    from sparkray.options import Options

    options = Options().updated({"accelerator_type": "T4", "memory": 1000, "num_gpus": 1}, "task")
    assert options.task_resources() == {"CPU": 1000, "GPU": 1000, "memory": 1_000_000, "accelerator_type:T4": 1}
    assert options.calls_of_a_worker() == 1
    assert Options().updated({"memory": 7}, "actor").actor_resources() == (
        {"memory": 7000},
        {"memory": 7000, "CPU": 1000},
    )


def test_keywords_that_are_not_there_are_refused_with_the_reason() -> None:
    @sparkray.remote(enable_task_events=False, scheduling_strategy="SPREAD", _metadata={"a": 1})
    def task() -> None: ...

    for keyword, reason in {
        "object_store_memory": "init",
        "max_task_retries": "belongs to actors",
    }.items():
        with pytest.raises(ValueError, match=f"'{keyword}'.*{reason}"):
            task.options(**{keyword: None})
    with pytest.raises(ValueError, match="NodeAffinitySchedulingStrategy"):
        task.options(scheduling_strategy="NODES")
    with pytest.raises(TypeError, match="priority"):
        task.options(priority=0.5)
    with pytest.raises(ValueError, match="Invalid option keyword 'nonsense'"):
        task.options(nonsense=1)
