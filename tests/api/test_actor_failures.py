"""What becomes of calls when their actor dies, restarts, raises, or has too many of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sparkray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    PendingCallsLimitExceeded,
    RayActorError,
    TaskCancelledError,
)
from tests.waiting import wait_until


def by_value(cls: type) -> type:
    """The workers cannot import this test module."""
    return type(cls.__name__, (), {**cls.__dict__, "__module__": "__main__"})


def note(path: Any, what: object) -> int:
    """Append a line to a file and say how many it has: what ran is known whoever dies."""
    with open(path, "a") as lines:
        lines.write(f"{what}\n")
    return len(Path(path).read_text().splitlines())


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class _Fragile:
    """Notes what runs, in a file that outlives it."""

    def __init__(self, path: str = "", slow_start: str = "") -> None:
        self.path = path
        self.value = 0
        if slow_start and os.path.exists(slow_start):  # the second life waits until it is told
            while os.path.exists(slow_start):
                time.sleep(0.01)

    def add(self, what: object = "add") -> int:
        if self.path:
            with open(self.path, "a") as lines:
                lines.write(f"{what}\n")
        self.value += 1
        return self.value

    def die_until(self, times: int) -> int:
        """Kills its process in its first runs."""
        with open(self.path, "a") as lines:
            lines.write("die\n")
        with open(self.path) as lines:
            runs = lines.read().split().count("die")
        if runs <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return runs

    def raise_until(self, times: int, error: type[Exception] = ValueError) -> int:
        self.value += 1
        if self.value <= times:
            raise error(f"run {self.value}")
        return self.value

    async_marker = None

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, seconds: float) -> str:
        time.sleep(seconds)
        return "slept"

    def wait_for_file(self, path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return "found"

    def exit(self, how: str) -> None:
        if how == "sys":
            sys.exit(0)
        if how == "os":
            os._exit(0)
        from sparkray.actor import exit_actor

        exit_actor()


@pytest.fixture
def fragile(ray: Any) -> Any:
    return ray.remote(by_value(_Fragile))


# ---------------------------------------------------------------------------------- the actor dies
def test_a_call_in_flight_is_made_again_after_the_restart_and_before_later_ones(
    ray: Any, fragile: Any, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    actor = fragile.options(max_restarts=1, max_task_retries=1).remote(str(path))
    refs = [actor.die_until.remote(1), actor.add.remote("second"), actor.add.remote("third")]

    assert ray.get(refs, timeout=60) == [2, 1, 2]
    assert lines(path) == ["die", "die", "second", "third"]


def test_without_retries_the_call_fails_as_unavailable_and_with_the_cause(
    ray: Any, fragile: Any, tmp_path: Path
) -> None:
    actor = fragile.options(max_restarts=1).remote(str(tmp_path / "runs"))
    with pytest.raises(ActorUnavailableError, match=r"may or may not have been executed.*SIGKILL") as caught:
        ray.get(actor.die_until.remote(1), timeout=60)
    assert caught.value.actor_id == actor._actor.id.hex()

    with pytest.raises(ActorDiedError, match="SIGKILL"):
        ray.get(fragile.remote(str(tmp_path / "other")).die_until.remote(1), timeout=60)


def test_retries_run_out(ray: Any, fragile: Any, tmp_path: Path) -> None:
    path = tmp_path / "runs"
    actor = fragile.options(max_restarts=-1, max_task_retries=2).remote(str(path))
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.die_until.remote(9), timeout=60)
    assert lines(path) == ["die"] * 3


def test_no_retry_helps_when_the_actor_has_no_restart_left(ray: Any, fragile: Any, tmp_path: Path) -> None:
    actor = fragile.options(max_restarts=1, max_task_retries=-1).remote(str(tmp_path / "runs"))
    with pytest.raises(ActorDiedError):
        ray.get(actor.die_until.remote(9), timeout=60)


def test_the_call_s_own_number_of_retries_counts_before_the_method_s_and_the_actor_s(ray: Any, tmp_path: Path) -> None:
    class Four:
        def __init__(self, path: str) -> None:
            self.path = path

        @ray.method(max_task_retries=1)
        def marked(self) -> None:
            self.plain()

        def plain(self) -> None:
            with open(self.path, "a") as lines:
                lines.write("run\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def runs(name: str, call: Any, **options: Any) -> int:
        path = tmp_path / name
        actor = ray.remote(max_restarts=-1, max_task_retries=2)(Four).options(**options).remote(str(path))
        with pytest.raises(ActorUnavailableError):
            ray.get(call(actor), timeout=60)
        return len(lines(path))

    assert runs("decorator", lambda actor: actor.plain.remote()) == 3
    assert runs("options", lambda actor: actor.plain.remote(), max_task_retries=0) == 1
    assert runs("method", lambda actor: actor.marked.remote()) == 2
    assert runs("call", lambda actor: actor.marked.options(max_task_retries=0).remote()) == 1


def test_calls_made_while_it_restarts_wait_if_they_have_a_retry_and_fail_if_not(
    ray: Any, fragile: Any, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    actor = fragile.options(max_restarts=1).remote("", str(gate))
    pid = ray.get(actor.pid.remote(), timeout=60)
    gate.touch()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: actor._actor.state == "restarting")

    waiting = actor.add.options(max_task_retries=1).remote()
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.add.remote(), timeout=60)
    assert ray.wait([waiting], timeout=0)[0] == []
    gate.unlink()
    assert ray.get(waiting, timeout=60) == 1


def test_a_handle_in_a_task_has_the_retries_of_its_actor(ray: Any, fragile: Any, tmp_path: Path) -> None:
    @ray.remote
    def call(actor: Any) -> int:
        return int(ray.get(actor.die_until.remote(1)))

    actor = fragile.options(max_restarts=1, max_task_retries=1).remote(str(tmp_path / "runs"))
    assert ray.get(call.remote(actor), timeout=60) == 2


def test_kill_that_allows_a_restart_uses_one_up_and_retries_what_runs(ray: Any, fragile: Any, tmp_path: Path) -> None:
    found = tmp_path / "found"
    actor = fragile.options(max_restarts=1, max_task_retries=1).remote()
    first = ray.get(actor.pid.remote(), timeout=60)
    running = actor.wait_for_file.remote(str(found))
    ray.kill(actor, no_restart=False)
    wait_until(lambda: actor._actor.incarnation == 1)  # else it is found in the first life, before the kill gets there
    found.touch()

    assert ray.get(running, timeout=60) == "found"
    assert ray.get(actor.pid.remote(), timeout=60) != first
    ray.kill(actor, no_restart=False)
    with pytest.raises(ActorDiedError):
        ray.get([actor.sleep.remote(30)], timeout=60)


@pytest.mark.parametrize("how", ["sys", "exit_actor", "terminate"])
def test_an_actor_that_ends_itself_is_not_restarted(ray: Any, fragile: Any, how: str) -> None:
    actor = fragile.options(max_restarts=-1, max_task_retries=-1).remote()
    if how == "terminate":
        actor.__ray_terminate__.remote()
    else:
        with pytest.raises(ActorDiedError):
            ray.get(actor.exit.remote(how), timeout=60)
    wait_until(lambda: ray.wait([actor.add.remote()], timeout=30)[0] and actor._actor.state == "dead")
    with pytest.raises(ActorDiedError):
        ray.get(actor.add.remote(), timeout=60)


def test_os_exit_is_a_crash_whatever_the_exit_code(ray: Any, fragile: Any) -> None:
    actor = fragile.options(max_restarts=1).remote()
    with pytest.raises(ActorUnavailableError):
        ray.get(actor.exit.remote("os"), timeout=60)
    assert ray.get(actor.add.options(max_task_retries=-1).remote(), timeout=60) == 1


def test_a_constructor_that_raises_says_so_in_the_error(ray: Any) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("not today")

        def method(self) -> None: ...

    actor = ray.remote(max_restarts=-1, max_task_retries=-1)(Broken).remote()
    with pytest.raises(ActorDiedError, match="not today") as caught:
        ray.get(actor.method.remote(), timeout=60)
    assert caught.value.actor_init_failed
    assert caught.value.actor_id == actor._actor.id.hex()


def test_a_cancelled_call_is_not_made_again(ray: Any, fragile: Any, tmp_path: Path) -> None:
    actor = fragile.options(max_restarts=1, max_task_retries=-1).remote()
    ray.get(actor.add.remote(), timeout=60)
    running = actor.sleep.remote(60)
    ray.cancel(running)
    with pytest.raises(TaskCancelledError):
        ray.get(running, timeout=60)
    assert ray.get(actor.add.remote(), timeout=60) == 2


# ---------------------------------------------------------------------------------- the method raises
def test_a_method_is_called_again_for_the_exceptions_it_is_to_be_retried_for(ray: Any, fragile: Any) -> None:
    retried = fragile.options(max_task_retries=2).remote()
    assert ray.get(retried.raise_until.options(retry_exceptions=True).remote(2), timeout=60) == 3
    other = fragile.options(max_task_retries=2).remote()
    with pytest.raises(ValueError, match="run 3"):
        ray.get(other.raise_until.options(retry_exceptions=[ValueError]).remote(9), timeout=60)
    with pytest.raises(KeyError, match="run 4"):
        ray.get(other.raise_until.options(retry_exceptions=[ValueError]).remote(9, KeyError), timeout=60)
    with pytest.raises(ValueError, match="run 5"):
        ray.get(other.raise_until.remote(9), timeout=60)


def test_a_retried_method_goes_before_the_calls_behind_it(ray: Any, fragile: Any) -> None:
    actor = fragile.options(max_task_retries=-1).remote()
    refs = [actor.raise_until.options(retry_exceptions=True).remote(3), actor.add.remote()]
    assert ray.get(refs, timeout=60) == [4, 5]


def test_retries_for_exceptions_and_deaths_count_together(ray: Any, tmp_path: Path) -> None:
    class Both:
        def __init__(self, path: str) -> None:
            self.path = path

        @ray.method(max_task_retries=3, retry_exceptions=True)
        def run(self) -> None:
            with open(self.path, "a") as lines:
                lines.write("run\n")
            with open(self.path) as lines:
                if len(lines.readlines()) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("again")

    path = tmp_path / "runs"
    actor = ray.remote(max_restarts=1)(Both).remote(str(path))
    with pytest.raises(ValueError, match="again"):
        ray.get(actor.run.remote(), timeout=60)
    assert len(lines(path)) == 4


def test_methods_of_async_actors_are_retried_too(ray: Any) -> None:
    class Async:
        def __init__(self) -> None:
            self.runs = 0

        @ray.method(max_task_retries=2, retry_exceptions=[ValueError])
        async def run(self) -> int:
            await asyncio.sleep(0)
            self.runs += 1
            if self.runs < 3:
                raise ValueError("again")
            return self.runs

    assert ray.get(ray.remote(Async).remote().run.remote(), timeout=60) == 3


# ---------------------------------------------------------------------------------- limits and order
def test_a_caller_may_have_so_many_calls_under_way_and_no_more(ray: Any, fragile: Any, tmp_path: Path) -> None:
    found = tmp_path / "found"
    actor = fragile.options(max_pending_calls=3).remote()
    refs = [actor.wait_for_file.remote(str(found)) for _ in range(3)]
    with pytest.raises(PendingCallsLimitExceeded, match="max_pending_calls is 3"):
        actor.add.remote()

    @ray.remote
    def another_caller(actor: Any) -> int:
        return int(ray.get(actor.add.remote()))

    other = another_caller.remote(actor)
    found.touch()
    assert ray.get(refs, timeout=60) == ["found"] * 3
    assert ray.get(other, timeout=60) + ray.get(actor.add.remote(), timeout=60) == 3


def test_calls_overtake_one_that_waits_for_its_arguments_where_order_is_not_kept(
    ray: Any, fragile: Any, tmp_path: Path
) -> None:
    @ray.remote
    def wait_for_file(path: str) -> str:
        while not os.path.exists(path):
            time.sleep(0.005)
        return "late"

    class Async:
        async def echo(self, value: object) -> object:
            return value

    actors = [
        (fragile.options(allow_out_of_order_execution=True).remote(), "add"),
        (fragile.options(max_concurrency=2).remote(), "add"),
        (ray.remote(Async).remote(), "echo"),
    ]
    for number, (actor, name) in enumerate(actors):
        path = tmp_path / str(number)
        late = getattr(actor, name).remote(wait_for_file.remote(str(path)))
        early = getattr(actor, name).remote("early")
        assert ray.get(early, timeout=60) in (1, "early")
        assert ray.wait([late], timeout=0)[0] == []
        path.touch()
        assert ray.get(late, timeout=60) in (2, "late")

    with pytest.raises(ValueError, match="do not run in order"):
        fragile.options(max_concurrency=2, allow_out_of_order_execution=False).remote()
    with pytest.raises(ValueError, match="do not run in order"):
        ray.remote(allow_out_of_order_execution=False)(Async).remote()


def test_ill_typed_options_are_refused_by_name(ray: Any, fragile: Any) -> None:
    for options in ({"max_task_retries": -2}, {"max_pending_calls": -2}):
        with pytest.raises(ValueError, match=next(iter(options))):
            fragile.options(**options)
    for wrong in ({"max_task_retries": "1"}, {"max_pending_calls": 1.5}, {"allow_out_of_order_execution": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            fragile.options(**wrong)
    with pytest.raises(ValueError, match="max_restarts"):
        fragile.remote().add.options(max_restarts=1)
    assert isinstance(PendingCallsLimitExceeded("x"), Exception)
    assert issubclass(ActorUnavailableError, RayActorError)
