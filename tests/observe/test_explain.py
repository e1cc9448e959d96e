"""`explain()`: why something is not there yet."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def gate(tmp_path: Any) -> Any:
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def busy(ray: Any, gate: Any, until: Any) -> Iterator[Any]:
    """Two tasks that hold all CPUs, as long as the gate is shut."""
    path = str(gate)

    @ray.remote
    def holds() -> None:
        while not os.path.exists(path):
            time.sleep(0.01)

    refs = [holds.remote(), holds.remote()]
    until(lambda: all(ray.explain(ref).state == "RUNNING" for ref in refs))
    yield refs
    gate.touch()
    ray.get(refs, timeout=60)


def test_running_and_what_waits_for_its_value(ray: Any, busy: Any, gate: Any) -> None:
    @ray.remote
    def second(value: None) -> int:
        return 2

    @ray.remote
    def third(value: int) -> int:
        return value + 1

    last = third.remote(second.remote(busy[0]))
    running = ray.explain(busy[0])
    assert not running.is_over
    assert f"pid {running.facts['pid']}" in str(running)
    assert running.facts["running_s"] >= 0
    why = ray.explain(last)
    assert why.state == "WAITS_FOR_ARGUMENTS"
    (inner,) = why.because
    assert inner.state == "WAITS_FOR_ARGUMENTS"
    assert [one.state for one in inner.because] == ["RUNNING"]
    assert [line.split("()")[0].strip() for line in str(why).splitlines()] == ["third", "second", "holds"]
    assert "<b>third()" in why._repr_html_()
    gate.touch()
    assert ray.get(last, timeout=60) == 3
    done = ray.explain(last)
    assert done.is_over
    assert (done.state, done.because) == ("FINISHED", [])


def test_no_room(ray: Any, busy: Any, until: Any) -> None:
    @ray.remote(num_cpus=2)
    def wide() -> None: ...

    refs = [wide.remote() for _ in range(3)]
    why = until(lambda: (found := ray.explain(refs[-1])).state == "WAITS_FOR_LEASE" and found)
    assert "2 CPU" in why.sentence
    assert "nothing free of 2 CPU" in why.sentence
    assert "2 tasks like it stand before it" in why.sentence
    (node,) = why.facts["nodes"].values()
    assert node["total"]["CPU"] == 2.0
    assert node["free"].get("CPU", 0) == 0


def test_infeasible(ray: Any, until: Any) -> None:
    @ray.remote(resources={"unheard_of": 1})
    def never() -> None: ...

    ref = never.remote()
    why = until(lambda: (found := ray.explain(ref)).state == "INFEASIBLE" and found)
    assert "1 unheard_of" in why.sentence
    assert 0 < why.facts["fails_in_s"] <= 30
    ray.cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    failed = ray.explain(ref)
    assert (failed.state, "TaskCancelledError" in failed.sentence) == ("FAILED", True)


def test_actors(ray: Any, busy: Any, gate: Any, until: Any) -> None:
    class Actor:
        def call(self) -> int:
            return 1

        def after(self, value: Any) -> None: ...

    actor = ray.remote(Actor).options(num_cpus=1).remote()
    ref = actor.call.remote()
    why = until(lambda: (found := ray.explain(ref)).state == "WAITS_FOR_ACTOR" and "CPU" in str(found) and found)
    (pending,) = why.because
    assert pending.state == "PENDING"
    assert "1 CPU" in pending.sentence
    assert ray.explain(actor).state == "PENDING"
    gate.touch()
    assert ray.get(ref, timeout=60) == 1
    assert ray.explain(actor).state == "ALIVE"
    ray.kill(actor)
    until(lambda: ray.explain(actor).state == "DEAD")
    assert "killed" in ray.explain(actor).sentence


def test_a_call_held_up_by_the_one_before_it(ray: Any, busy: Any, gate: Any) -> None:
    class Actor:
        def call(self, value: Any) -> int:
            return 1

    actor = ray.remote(Actor).options(num_cpus=0).remote()
    ray.get(actor.call.remote(0), timeout=60)
    actor.call.remote(busy[0])
    ref = actor.call.remote(1)
    why = ray.explain(ref)
    assert why.state == "WAITS_FOR_EARLIER_CALLS"
    assert [one.state for one in why.because] == ["RUNNING"]
    gate.touch()
    assert ray.get(ref, timeout=60) == 1


def test_a_call_behind_one_that_runs_is_queued_on_the_worker(ray: Any, gate: Any, until: Any) -> None:
    path = str(gate)

    class Actor:
        def holds(self) -> None:
            while not os.path.exists(path):
                time.sleep(0.01)

        def call(self) -> int:
            return 1

    actor = ray.remote(Actor).options(num_cpus=0).remote()
    first, second = actor.holds.remote(), actor.call.remote()
    until(lambda: ray.explain(first).state == "RUNNING")
    why = ray.explain(second)
    assert (why.state, why.is_over) == ("QUEUED_ON_WORKER", False)
    assert "behind" in why.sentence
    assert "which runs holds" in why.sentence.replace("Actor.", "")
    gate.touch()
    assert ray.get(second, timeout=60) == 1


def test_a_task_waits_for_a_worker_that_sets_up_its_environment(ray: Any, gate: Any, until: Any) -> None:
    path = str(gate)

    def set_up() -> None:
        while not os.path.exists(path):
            time.sleep(0.01)

    @ray.remote(runtime_env={"worker_process_setup_hook": set_up})
    def after() -> int:
        return 1

    ref = after.remote()
    why = until(lambda: (found := ray.explain(ref)).state == "WAITS_FOR_WORKER" and found)
    assert "has 1 CPU on node" in why.sentence
    gate.touch()
    assert ray.get(ref, timeout=60) == 1


def test_of_what_nobody_knows_that_is_said(ray: Any) -> None:
    group = ray.util.placement_group([{"CPU": 1}])
    nowhere = type(group)(type(group.id)(bytes(len(group.id.binary()))), [])
    ray.util.remove_placement_group(group)

    why = ray.explain(nowhere)

    assert (why.state, why.sentence) == ("UNKNOWN", "the head does not know it (yet, or any more)")


def test_an_actor_that_is_restarted_says_why(ray: Any, gate: Any, tmp_path: Any, until: Any) -> None:
    begun, path = tmp_path / "begun", str(gate)

    class Actor:
        def __init__(self, begun: str) -> None:
            if os.path.exists(begun):
                while not os.path.exists(path):
                    time.sleep(0.01)
            open(begun, "w").close()

        def end(self) -> None:
            os._exit(3)

        def call(self) -> int:
            return 1

    actor = ray.remote(Actor).options(num_cpus=0, max_restarts=1, max_task_retries=1).remote(str(begun))
    actor.end.options(max_task_retries=0).remote()
    ref = actor.call.remote()
    why = until(lambda: (found := ray.explain(actor)).state == "RESTARTING" and found)
    assert "is restarted (1. time) because" in why.sentence
    assert "exit code 3" in why.sentence
    gate.touch()
    assert ray.get(ref, timeout=60) == 1


def test_a_borrowed_reference_is_explained_by_its_owner(ray: Any, busy: Any) -> None:
    class Asks:
        def ask(self, refs: Any) -> str:
            return str(ray.explain(refs[0]).state)

    asks = ray.remote(Asks).options(num_cpus=0).remote()
    assert ray.get(asks.ask.remote([busy[0]]), timeout=60) == "RUNNING"


def test_only_references_and_handles(ray: Any) -> None:
    with pytest.raises(TypeError, match="takes an ObjectRef, an actor handle or a placement group"):
        ray.explain(5)
