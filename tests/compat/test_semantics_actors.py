"""Actors, their order and their lives, as programs written for Ray expect them (lines 42 to 55, 61 to 65, 69 to 74)."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import sparkray
from sparkray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError


class Log:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, value: Any) -> int:
        self.seen.append(value)
        return len(self.seen)

    def all(self) -> list[Any]:
        return self.seen

    def pid(self) -> int:
        return os.getpid()


def test_calls_of_one_caller_run_in_order_and_those_of_others_come_between(ray: Any) -> None:
    """Lines 42 and 44."""
    log = ray.remote(num_cpus=0)(Log).remote()

    @ray.remote
    def call(handle: Any, name: str) -> None:
        ray.get([handle.note.remote((name, i)) for i in range(50)])

    others = [call.remote(log, name) for name in "ab"]
    mine = [log.note.remote(("mine", i)) for i in range(50)]
    ray.get([*others, *mine], timeout=30)
    seen = ray.get(log.all.remote())
    assert len(seen) == 150
    for caller in ("a", "b", "mine"):
        assert [i for name, i in seen if name == caller] == list(range(50))


@pytest.mark.parametrize(("concurrency", "overtakes"), [(1, False), (2, True)])
def test_a_call_that_waits_for_its_argument_holds_up_those_behind_it_in_a_serial_actor(
    ray: Any, tmp_path: Path, wait_until: Any, concurrency: int, overtakes: bool
) -> None:
    """Line 43."""
    gate = tmp_path / "gate"

    @ray.remote
    def late() -> str:
        wait_until(gate.exists)
        return "first"

    log = ray.remote(max_concurrency=concurrency)(Log).remote()
    ray.get(log.all.remote(), timeout=30)
    first, second = log.note.remote(late.remote()), log.note.remote("second")
    ready, _ = ray.wait([second], timeout=10 if overtakes else 0.3)
    assert bool(ready) is overtakes
    gate.touch()
    ray.get([first, second], timeout=30)
    assert ray.get(log.all.remote()) == (["second", "first"] if overtakes else ["first", "second"])


def test_an_async_actor_runs_a_thousand_calls_at_once(ray: Any) -> None:
    """Line 45."""

    @ray.remote
    class Meeting:
        def __init__(self) -> None:
            self.here = 0

        async def meet(self, number: int) -> int:
            import asyncio

            self.here += 1
            while self.here < number:
                await asyncio.sleep(0.01)
            return self.here

    meeting = Meeting.remote()
    assert min(ray.get([meeting.meet.remote(900) for _ in range(900)], timeout=60)) >= 900


def test_groups_have_limits_of_their_own_and_the_default_one_stays_serial(ray: Any) -> None:
    """Line 46."""

    @ray.remote(concurrency_groups={"io": 2})
    class Actor:
        def __init__(self) -> None:
            self.inside = self.most = 0

        def enter(self) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.02)
            self.inside -= 1
            return self.most

        @ray.method(concurrency_group="io")
        def meet(self, barrier: str) -> bool:
            path = Path(barrier)
            with path.open("a") as file:
                file.write("x")
            deadline = time.monotonic() + 20
            while len(path.read_text()) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            return len(path.read_text()) >= 2

    actor = Actor.remote()
    assert ray.get([actor.enter.remote() for _ in range(6)], timeout=30)[-1] == 1
    path = f"/tmp/sparkray-test-{os.getpid()}-meet"
    try:
        assert ray.get([actor.meet.remote(path) for _ in range(2)], timeout=30) == [True, True]
    finally:
        Path(path).unlink(missing_ok=True)


def test_an_actor_lives_as_long_as_any_handle_anywhere(ray: Any, wait_until: Any) -> None:
    """Line 47."""
    log = ray.remote(num_cpus=0)(Log).remote()
    pid = ray.get(log.pid.remote(), timeout=30)

    @ray.remote(num_cpus=0)
    class Holder:
        def hold(self, handles: list[Any]) -> None:
            self.handles = handles

        def ask(self) -> int:
            return int(ray.get(self.handles[0].pid.remote()))

        def drop(self) -> None:
            self.handles = []

    holder = Holder.remote()
    ray.get(holder.hold.remote([log]), timeout=30)
    last = log.note.remote("queued before the handle went")
    del log
    gc.collect()
    assert ray.get(last, timeout=30) == 1
    assert ray.get(holder.ask.remote(), timeout=30) == pid
    ray.get(holder.drop.remote())
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_one_liner_answers_before_its_actor_goes(ray: Any) -> None:
    """Line 47, at its shortest."""
    assert ray.get(ray.remote(Log).remote().note.remote(1), timeout=30) == 1


def test_a_named_actor_goes_with_its_last_handle_and_a_detached_one_stays(ray: Any, wait_until: Any) -> None:
    """Lines 48 and 49."""

    def found(name: str) -> bool:
        try:
            ray.get_actor(name, namespace="lines")
        except ValueError:
            return False
        return True

    named = ray.remote(num_cpus=0)(Log).options(name="named", namespace="lines").remote()
    detached = ray.remote(num_cpus=0)(Log).options(name="detached", namespace="lines", lifetime="detached").remote()
    ray.get([named.all.remote(), detached.all.remote()], timeout=30)
    del named, detached
    gc.collect()
    wait_until(lambda: not found("named"))
    assert found("detached")
    ray.kill(ray.get_actor("detached", namespace="lines"))


def test_a_bound_method_keeps_its_actor(ray: Any) -> None:
    """Line 50."""
    log = ray.remote(num_cpus=0)(Log).remote()
    note = log.note
    del log
    gc.collect()
    assert ray.get([note.remote(1), note.remote(2)], timeout=30) == [1, 2]


def test_a_constructor_that_raises_is_told_by_each_call(ray: Any) -> None:
    """Line 51."""

    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("not today")

        def m(self) -> None: ...

    actor = Broken.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match=r"(?s)__init__.*not today"):
            ray.get(actor.m.remote(), timeout=30)


def test_actors_of_no_resources_hold_none_and_others_hold_all_for_life(ray: Any, wait_until: Any) -> None:
    """Lines 52 and 53."""

    @ray.remote
    class Plain:
        def held(self) -> dict[str, float]:
            return dict(ray.get_runtime_context().get_assigned_resources())

    plain = [Plain.remote() for _ in range(6)]  # more than there are CPUs
    assert ray.get([actor.held.remote() for actor in plain], timeout=60) == [{}] * 6
    assert ray.get(Plain.options(resources={"special": 0.5}).remote().held.remote(), timeout=30) == {
        "CPU": 1.0,
        "special": 0.5,
    }
    assert ray.get(Plain.options(num_cpus=0, num_gpus=0.5).remote().held.remote(), timeout=30) == {"GPU": 0.5}

    @ray.remote(num_cpus=0)
    def free() -> int:
        return 1

    @ray.remote(num_cpus=4)
    def all_cpus() -> int:
        return int(ray.get([free.remote() for _ in range(3)])[0])

    assert ray.get(all_cpus.remote(), timeout=60) == 1


def test_a_task_that_waits_lends_its_cpu(ray: Any) -> None:
    """Lines 54 and 55."""

    @ray.remote
    def nested(depth: int) -> int:
        return 0 if depth == 0 else 1 + int(ray.get(nested.remote(depth - 1)))

    @ray.remote
    def waits(depth: int) -> int:
        ref = nested.remote(depth)
        ray.wait([ref])
        return int(ray.get(ref))

    assert ray.get([nested.remote(7), waits.remote(3)], timeout=60) == [7, 3]


def test_cancel_interrupts_a_sleep_drops_what_waits_and_leaves_what_has_ended(
    ray: Any, tmp_path: Path, wait_until: Any
) -> None:
    """Lines 61 to 63."""
    begun, caught = tmp_path / "begun", tmp_path / "caught"

    @ray.remote(num_cpus=4)
    def sleep() -> None:
        begun.touch()
        time.sleep(60)

    @ray.remote(num_cpus=4)
    def catch() -> str:
        try:
            caught.touch()
            time.sleep(60)
        except KeyboardInterrupt:
            return "caught"
        return "slept"

    running = sleep.remote()
    wait_until(begun.exists)
    pending = sleep.remote()
    for ref in (pending, running):
        ray.cancel(ref)
        with pytest.raises(TaskCancelledError) as raised:
            ray.get(ref, timeout=20)
        assert isinstance(raised.value, RayTaskError) == (ref is running)
    catching = catch.remote()
    wait_until(caught.exists)
    ray.cancel(catching)
    assert ray.get(catching, timeout=20) == "caught"
    ray.cancel(catching)
    assert ray.get(catching, timeout=20) == "caught"
    with pytest.raises(TypeError):
        ray.cancel("not a reference")


def test_cancel_goes_on_to_children_and_the_cpus_come_back(ray: Any, tmp_path: Path, wait_until: Any) -> None:
    """Line 64."""
    begun = tmp_path / "begun"

    @ray.remote
    def child() -> None:
        begun.touch()
        time.sleep(60)

    @ray.remote
    def parent() -> None:
        ray.get(child.remote())

    ref = parent.remote()
    wait_until(begun.exists)
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=20)
    wait_until(lambda: ray.available_resources().get("CPU") == 4.0)


def test_threads_of_the_driver_share_references(ray: Any) -> None:
    """Line 72."""

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    shared = [double.remote(i) for i in range(200)]
    sums: list[int] = []

    def work(number: int) -> None:
        own = [double.remote(number) for _ in range(50)]
        sums.append(sum(ray.get(shared)) + sum(ray.get(own)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(sums) == [sum(2 * i for i in range(200)) + 100 * number for number in range(6)]


def test_the_cluster_s_resources_settle(ray: Any, wait_until: Any) -> None:
    """Line 74."""
    assert ray.cluster_resources()["CPU"] == 4.0
    wait_until(lambda: ray.available_resources().get("CPU") == 4.0)


def test_references_and_handles_of_a_past_session_say_so() -> None:
    """Line 70."""
    sparkray.shutdown()
    with sparkray.init(num_cpus=1):
        ref = sparkray.put(b"x" * 200_000)
        log = sparkray.remote(Log).remote()
        sparkray.get(log.all.remote(), timeout=30)  # type: ignore[attr-defined,unused-ignore]
    with sparkray.init(num_cpus=1):
        for use in (lambda: sparkray.get(ref, timeout=10), lambda: sparkray.get(log.all.remote(), timeout=10)):
            with pytest.raises((ValueError, sparkray.exceptions.RayError)):
                use()
        assert sparkray.get(sparkray.put(1)) == 1
