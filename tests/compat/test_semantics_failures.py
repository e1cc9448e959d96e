"""Retries, deaths and owners, as programs written for Ray expect them (lines 28 to 41)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparkray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    RayActorError,
    WorkerCrashedError,
)
from sparkray_core.messages import FreeObjects
from sparkray_core.run import object_ref


def runs(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


def test_only_deaths_are_retried_and_three_times_unless_told_otherwise(ray: Any, tmp_path: Path) -> None:
    """Line 28."""
    raised, died = tmp_path / "raised", tmp_path / "died"

    @ray.remote
    def fail() -> None:
        with raised.open("a") as file:
            file.write("x")
        raise ValueError("no retry")

    @ray.remote
    def die() -> None:
        with died.open("a") as file:
            file.write("x")
        os._exit(1)

    with pytest.raises(ValueError, match="no retry"):
        ray.get(fail.remote(), timeout=30)
    with pytest.raises(WorkerCrashedError):
        ray.get(die.remote(), timeout=60)
    assert (runs(raised), runs(died)) == (1, 4)


def test_exceptions_named_are_retried_and_others_are_not(ray: Any, tmp_path: Path) -> None:
    """Line 29."""
    first, second = tmp_path / "first", tmp_path / "second"

    @ray.remote(max_retries=2, retry_exceptions=[LookupError])
    def fail(path: Path, error: type[Exception]) -> int:
        with path.open("a") as file:
            file.write("x")
        if runs(path) < 3:
            raise error("again")
        return runs(path)

    assert ray.get(fail.remote(first, KeyError), timeout=30) == 3
    with pytest.raises(ValueError, match="again"):
        ray.get(fail.remote(second, ValueError), timeout=30)
    assert runs(second) == 1


def lose(ray: Any, *refs: Any) -> None:
    """Wait until they are there, then take their only copies away: as if a node had died, or a disk had gone bad."""
    ray.wait(list(refs), num_returns=len(refs), timeout=30)
    core = object_ref.core()
    core.send(core.raylet_id, FreeObjects([ref._entry.id for ref in refs]))


def test_a_lost_result_is_made_again_while_retries_remain_and_what_was_put_is_not(ray: Any, tmp_path: Path) -> None:
    """Line 30."""
    large = 200_000

    def note(name: str) -> bytes:
        with (tmp_path / name).open("a") as file:
            file.write("x")
        return bytes(large)

    @ray.remote(max_retries=1)
    def once_more(name: str) -> bytes:
        return note(name)

    @ray.remote
    def longer(part: bytes, name: str) -> bytes:
        return note(name) + part

    first = once_more.remote("first")
    second = longer.remote(first, "second")
    lose(ray, first, second)
    assert ray.get(second, timeout=30) == bytes(2 * large)
    assert (runs(tmp_path / "first"), runs(tmp_path / "second")) == (2, 2)
    lose(ray, first)
    with pytest.raises(ObjectReconstructionFailedError, match=r"once_more\(\).*max_retries") as used_up:
        ray.get(first, timeout=30)
    assert used_up.value.reason == "MAX_ATTEMPTS_EXCEEDED"
    assert used_up.value.object_ref_hex == first.hex()

    put = ray.put(bytes(large))
    lose(ray, put)
    with pytest.raises(ObjectLostError, match="put it once more") as lost:
        ray.get(put, timeout=30)
    assert not isinstance(lost.value, ObjectReconstructionFailedError)

    @ray.remote
    class Maker:
        def make(self, name: str) -> bytes:
            return note(name)

    maker = Maker.remote()
    often, never = maker.make.options(max_task_retries=-1).remote("often"), maker.make.remote("never")
    lose(ray, often, never)
    assert ray.get(often, timeout=30) == bytes(large)
    with pytest.raises(ObjectReconstructionFailedError, match="may run once only"):
        ray.get(never, timeout=30)
    assert (runs(tmp_path / "often"), runs(tmp_path / "never")) == (2, 1)


def test_what_a_dead_process_owned_is_there_or_says_so_and_never_hangs(ray: Any) -> None:
    """Line 31."""

    @ray.remote
    class Owner:
        def make(self) -> list[Any]:
            return [ray.put(b"x" * 200_000)]

    owner = Owner.remote()
    (inner,) = ray.get(owner.make.remote())
    ray.kill(owner)
    with contextlib.suppress(ObjectLostError):  # which an OwnerDiedError is
        assert len(ray.get(inner, timeout=30)) == 200_000


def test_actors_die_with_the_process_that_made_them(ray: Any, wait_until: Any) -> None:
    """Line 32."""

    @ray.remote(num_cpus=0)
    class Child:
        def pid(self) -> int:
            return os.getpid()

    @ray.remote(num_cpus=0)
    class Parent:
        def make(self) -> tuple[Any, int]:
            self.child = Child.remote()
            return self.child, ray.get(self.child.pid.remote())

    parent = Parent.remote()
    child, pid = ray.get(parent.make.remote(), timeout=30)
    ray.kill(parent)
    wait_until(lambda: not psutil.pid_exists(pid))
    with pytest.raises(RayActorError):
        ray.get(child.pid.remote(), timeout=30)


class Fragile:
    def __init__(self, start: int) -> None:
        self.n = start

    def inc(self) -> int:
        self.n += 1
        return self.n

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("restarts", "error"), [(0, ActorDiedError), (1, ActorUnavailableError)])
def test_a_call_in_flight_runs_at_most_once_and_tells_whether_the_actor_comes_back(
    ray: Any, restarts: int, error: type[Exception]
) -> None:
    """Lines 33 and 34."""
    actor = ray.remote(max_restarts=restarts)(Fragile).remote(0)
    assert ray.get(actor.inc.remote(), timeout=30) == 1
    with pytest.raises(error):
        ray.get(actor.die.remote(), timeout=30)


def test_a_restarted_actor_begins_again_with_its_first_arguments(ray: Any, wait_until: Any) -> None:
    """Line 35."""
    actor = ray.remote(max_restarts=1, max_task_retries=1)(Fragile).remote(ray.put(10))
    assert ray.get([actor.inc.remote(), actor.inc.remote()], timeout=30) == [11, 12]
    with pytest.raises(RayActorError):
        ray.get(actor.die.options(max_task_retries=0).remote(), timeout=30)
    assert ray.get(actor.inc.remote(), timeout=30) == 11


def test_a_killed_actor_s_name_is_free(ray: Any, wait_until: Any) -> None:
    """Line 41."""
    named = ray.remote(Fragile).options(name="reused")
    first = named.remote(1)
    assert ray.get(first.inc.remote(), timeout=30) == 2
    with pytest.raises(ValueError, match="reused"):
        named.remote(5)
    ray.kill(first)

    def take() -> Any:
        try:
            return named.remote(7)
        except ValueError:
            return None

    made: list[Any] = []
    wait_until(lambda: made or made.append(take()) or made[0] or made.clear())
    assert ray.get(made[0].inc.remote(), timeout=30) == 8
