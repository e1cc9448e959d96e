"""`sparkray.util.state`: what is listed is what there is."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

from sparkray.util import state
from sparkray_core.run import survey


@pytest.fixture
def gate(tmp_path: Any) -> Any:
    """A file that tasks wait for; it is there at the end, whatever becomes of the test."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def wait_for(path: Any) -> None:
    while not os.path.exists(path):
        time.sleep(0.01)


def by_name(**filters: Any) -> dict[str, list[state.TaskState]]:
    found: dict[str, list[state.TaskState]] = {}
    for task in state.list_tasks(filters=[(name, "=", value) for name, value in filters.items()], limit=10_000):
        found.setdefault(task.name, []).append(task)
    return found


def test_tasks_are_listed_in_each_of_their_states(ray: Any, until: Any, gate: Any) -> None:
    path = str(gate)

    @ray.remote
    def holds() -> int:
        wait_for(path)
        return 1

    @ray.remote
    def waits_for_value(value: int) -> int:
        return value

    @ray.remote
    def waits_for_worker() -> None: ...

    @ray.remote
    def done() -> int:
        return os.getpid()

    @ray.remote
    def fails() -> None:
        raise ValueError("as it should")

    pid = ray.get(done.remote())
    with pytest.raises(ValueError, match="as it should"):
        ray.get(fails.remote())
    held = [holds.remote(), holds.remote()]
    later = waits_for_value.remote(held[0])
    until(lambda: len([t for t in by_name(state="RUNNING").get("holds", []) if t.worker_pid]) == 2)
    queued = waits_for_worker.remote()
    # It may have been pushed behind one that holds, which is taken for short until it is not: then it is taken back.
    until(lambda: by_name(state="PENDING_NODE_ASSIGNMENT").get("waits_for_worker"))
    tasks = by_name()
    finished = tasks["done"][-1]
    assert (finished.state, finished.worker_pid, finished.type) == ("FINISHED", pid, "NORMAL_TASK")
    assert finished.node_id == ray.get_runtime_context().get_node_id()
    assert finished.owner_id == ray.get_runtime_context().get_worker_id()
    assert finished.creation_time_ms
    assert finished.start_time_ms
    assert finished.end_time_ms
    assert abs(finished.end_time_ms - time.time() * 1000) < 60_000
    assert finished.start_time_ms <= finished.end_time_ms
    (failed,) = tasks["fails"]
    assert (failed.state, failed.error_type) == ("FAILED", "TASK_EXECUTION_EXCEPTION")
    assert failed.error_message == "ValueError: as it should"
    assert {task.task_id for task in tasks["holds"]} == {ref.task_id().hex() for ref in held}
    assert all(task.start_time_ms for task in tasks["holds"])
    assert [task.state for task in tasks["waits_for_value"]] == ["PENDING_ARGS_AVAIL"]
    (waiting,) = tasks["waits_for_worker"]
    assert waiting.state == "PENDING_NODE_ASSIGNMENT"
    assert waiting.required_resources == {"CPU": 1.0}
    assert waiting.start_time_ms is None
    one = state.get_task(later)
    assert isinstance(one, state.TaskState)
    assert (one.task_id, one["name"], one.get("state")) == (
        later.task_id().hex(),
        "waits_for_value",
        "PENDING_ARGS_AVAIL",
    )
    gate.touch()
    assert ray.get([later, queued, *held], timeout=60) == [1, None, 1, 1]
    counts = state.summarize_tasks()["cluster"]["summary"]["holds"]["state_counts"]
    assert counts == {"FINISHED": 2}


def test_filters_limit_and_their_errors(ray: Any) -> None:
    @ray.remote
    def counted(number: int) -> int:
        return number

    ray.get([counted.remote(number) for number in range(20)])
    only = [("name", "=", "counted")]
    assert len(state.list_tasks(filters=only, limit=5)) == 5
    assert {task.name for task in state.list_tasks(filters=only, limit=10_000)} == {"counted"}
    assert state.list_tasks(filters=[*only, ("state", "!=", "finished")]) == []
    worker = state.list_workers(filters=[("worker_type", "=", "WORKER"), ("is_alive", "=", "True")])[0]
    assert state.list_workers(filters=[("pid", "=", str(worker.pid))]) == [state.get_worker(worker.worker_id)]
    with pytest.raises(ValueError, match="cannot filter by 'stat'"):
        state.list_tasks(filters=[("stat", "=", "FINISHED")])
    with pytest.raises(ValueError, match="predicate"):
        state.list_tasks(filters=[("state", ">", "FINISHED")])
    with pytest.raises(ValueError, match="limit"):
        state.list_tasks(limit=100_000)
    with pytest.raises(ValueError, match="has not joined"):
        state.list_tasks(address="10.1.2.3:4")
    assert state.list_placement_groups() == []
    assert state.get_task("ff" * 24) is None


def test_what_failed_without_an_answer_of_a_worker_is_listed_by_its_owner(ray: Any) -> None:
    @ray.remote(max_retries=0)
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @ray.remote
    def cancelled(value: None) -> None: ...

    ref = dies.remote()
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ref, timeout=60)
    (task,) = by_name()["dies"]
    assert (task.state, task.error_type, task.task_id) == ("FAILED", "WORKER_DIED", ref.task_id().hex())
    assert "SIGKILL" in str(task.error_message) or "signal" in str(task.error_message)

    @ray.remote
    def forever() -> None:
        time.sleep(600)

    first = forever.remote()
    second = cancelled.remote(first)
    ray.cancel(second)
    ray.cancel(first)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(second, timeout=60)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(first, timeout=60)
    tasks = by_name()
    assert [task.error_type for task in tasks["cancelled"]] == ["TASK_CANCELLED"]
    assert [task.error_type for task in tasks["forever"]] == ["TASK_CANCELLED"]


def test_actors_and_their_calls(ray: Any, until: Any, gate: Any) -> None:
    path = str(gate)

    class Serial:
        def pid(self) -> int:
            return os.getpid()

        def wait(self) -> None:
            wait_for(path)

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("never made")

        def ask(self) -> None: ...

    actor = ray.remote(Serial).options(name="the serial one", max_restarts=1).remote()
    pid = ray.get(actor.pid.remote())
    broken = ray.remote(Broken).remote()
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(broken.ask.remote())
    (alive,) = state.list_actors(filters=[("class_name", "=", "Serial")])
    assert (alive.state, alive.name, alive.pid, alive.ray_namespace) == ("ALIVE", "the serial one", pid, "observed")
    assert alive == state.get_actor(actor._actor.id.hex())
    (dead,) = state.list_actors(filters=[("class_name", "=", "Broken")])
    assert dead.state == "DEAD"
    assert dead.death_cause is not None
    assert dead.death_cause["actor_init_failed"]
    refs = [actor.wait.remote(), actor.pid.remote()]

    def calls() -> list[str]:
        found = state.list_tasks(filters=[("actor_id", "=", alive.actor_id), ("state", "!=", "FINISHED")])
        return sorted(f"{task.name} {task.state}" for task in found)

    until(lambda: calls() == ["Serial.pid SUBMITTED_TO_WORKER", "Serial.wait RUNNING"])
    gate.touch()
    ray.get(refs, timeout=60)
    (made,) = by_name()["Serial.__init__"]
    assert (made.type, made.actor_id, made.state) == ("ACTOR_CREATION_TASK", alive.actor_id, "FINISHED")
    assert by_name()["Broken.__init__"][0].state == "FAILED"
    summary = state.summarize_actors()["cluster"]
    assert summary["summary"]["Serial"]["state_counts"] == {"ALIVE": 1}
    assert any("Broken" in event["message"] for event in state.list_cluster_events(limit=1000))
    os.kill(pid, signal.SIGKILL)
    until(lambda: state.get_actor(alive.actor_id).num_restarts == 1)  # type: ignore[union-attr]


def test_calls_that_run_at_once_are_all_listed_as_running(ray: Any, until: Any, gate: Any) -> None:
    import asyncio

    path = str(gate)

    class Threads:
        def wait(self) -> None:
            wait_for(path)

    class Coroutines:
        async def wait(self) -> None:
            while not os.path.exists(path):
                await asyncio.sleep(0.01)

    actors = [ray.remote(Threads).options(max_concurrency=3).remote(), ray.remote(Coroutines).remote()]
    refs = [actor.wait.remote() for actor in actors for _ in range(3)]
    running = ["Coroutines.wait"] * 3 + ["Threads.wait"] * 3
    until(
        lambda: (
            sorted(t.name for t in state.list_tasks(filters=[("state", "=", "RUNNING")]) if "." in t.name) == running
        )
    )
    gate.touch()
    ray.get(refs, timeout=60)
    until(lambda: {t.state for t in by_name()["Threads.wait"] + by_name()["Coroutines.wait"]} == {"FINISHED"})


def test_objects_name_their_holders(ray: Any, until: Any) -> None:
    class Keeper:
        def keep(self, refs: Any) -> None:
            self.refs = refs

    large = ray.put(np.zeros(1 << 20, np.uint8))
    small = ray.put("small")
    keeper = ray.remote(Keeper).remote()
    ray.get(keeper.keep.remote([large]))
    value = ray.get(large)
    rows = state.get_objects(large.hex())
    here = ray.get_runtime_context()
    held = {(row.reference_type, row.holder) for row in rows}
    assert held == {("LOCAL_REFERENCE", "driver"), ("LOCAL_REFERENCE", "Keeper"), ("PINNED_IN_MEMORY", "driver")}
    assert {row.object_size for row in rows if row.holder == "driver"} == {rows[0].object_size}
    assert rows[0].object_size > 1 << 20
    assert all(row.stored_on == [here.get_node_id()] for row in rows)
    assert all(row.owner_id == here.get_worker_id() for row in rows)
    own = next(row for row in rows if row.reference_type == "LOCAL_REFERENCE" and row.type == "DRIVER")
    assert own.borrowers == [row.worker_id for row in rows if row.holder == "Keeper"]
    (row,) = state.get_objects(small.hex())
    assert (row.pid, row.type, row.stored_on) == (os.getpid(), "DRIVER", [])
    assert state.summarize_objects()["cluster"]["total_size_mb"] >= 1
    del value, large
    until(lambda: [row.holder for row in state.list_objects(filters=[("object_id", "=", own.object_id)], limit=1000)])
    ray.kill(keeper)
    until(lambda: state.get_objects(own.object_id) == [])


def test_nodes_jobs_and_workers(ray: Any, until: Any) -> None:
    (node,) = state.list_nodes()
    assert (node.state, node.is_head_node, node.resources_total["CPU"]) == ("ALIVE", True, 2.0)
    assert state.get_node(node.node_id) is not None
    (job,) = state.list_jobs()
    assert job.driver_info is not None
    assert (job.status, job.driver_info["pid"]) == ("RUNNING", str(os.getpid()))
    assert job.job_id == ray.get_runtime_context().get_job_id()

    @ray.remote(max_retries=0)
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(dies.remote(), timeout=60)
    dead = until(lambda: state.list_workers(filters=[("is_alive", "=", "False")]))
    assert "signal 9" in dead[-1].exit_detail or "SIGKILL" in dead[-1].exit_detail
    drivers = state.list_workers(filters=[("worker_type", "=", "DRIVER"), ("is_alive", "=", "True")])
    assert [driver.pid for driver in drivers] == [os.getpid()]


def test_logs_are_found_by_task_actor_pid_and_name(ray: Any, until: Any) -> None:
    class Prints:
        def lines(self, count: int) -> int:
            for number in range(count):
                print(f"line {number}", flush=True)  # noqa: T201
            return os.getpid()

    actor = ray.remote(Prints).remote()
    ref = actor.lines.remote(100)
    pid = ray.get(ref)
    whole = until(lambda: "".join(state.get_log(actor_id=actor._actor.id.hex())))
    assert whole.splitlines() == [f"line {number}" for number in range(100)]
    assert list(state.get_log(pid=pid, tail=2)) == ["line 98\nline 99\n"]
    assert list(state.get_log(task_id=ref.task_id().hex(), tail=1, encoding=None)) == [b"line 99\n"]
    assert list(state.get_log(pid=pid, tail=0)) == []
    names = state.list_logs(glob_filter="raylet*")
    assert names == {"raylet": ["raylet.log"]}
    with pytest.raises(ValueError, match="no log"):
        state.get_log(filename="../../etc/passwd")
    with pytest.raises(ValueError, match="whose log"):
        state.get_log()
    following = state.get_log(actor_id=actor._actor.id.hex(), follow=True, tail=1)
    assert next(following) == "line 99\n"
    ray.get(actor.lines.remote(1))
    assert next(following) == "line 0\n"


def test_a_worker_that_ends_leaves_its_records(ray: Any, until: Any) -> None:
    class Short:
        def work(self) -> int:
            return os.getpid()

    actor = ray.remote(Short).remote()
    pid = ray.get(actor.work.remote())
    del actor
    until(lambda: not [one for one in state.list_workers(limit=1000) if one.pid == pid and one.is_alive])
    (task,) = by_name()["Short.work"]
    assert (task.state, task.worker_pid) == ("FINISHED", pid)


def test_a_process_that_cannot_answer_is_named_and_not_waited_for(
    ray: Any, until: Any, caplog: Any, monkeypatch: Any
) -> None:
    class Frozen:
        def pid(self) -> int:
            return os.getpid()

    actor = ray.remote(Frozen).remote()
    pid = ray.get(actor.pid.remote())
    monkeypatch.setattr(survey, "PROCESS_LIMIT_S", 1.0)
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(60, os.kill, (pid, signal.SIGCONT))
    timer.start()
    try:
        begin = time.monotonic()
        with caplog.at_level("WARNING"):
            tasks = state.list_tasks()
        assert time.monotonic() - begin < 30
        assert tasks
        worker = state.get_actor(actor._actor.id.hex()).worker_id  # type: ignore[union-attr]
        assert str(worker) in caplog.text
    finally:
        timer.cancel()
        os.kill(pid, signal.SIGCONT)
    assert ray.get(actor.pid.remote(), timeout=60) == pid


def test_tasks_ask_too(ray: Any) -> None:
    @ray.remote
    def asks() -> list[str]:
        return [task.name for task in state.list_tasks(filters=[("state", "=", "RUNNING")])]

    assert "asks" in ray.get(asks.remote(), timeout=60)
