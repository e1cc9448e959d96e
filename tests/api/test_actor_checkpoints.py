"""`__ray_save__` and `__ray_restore__`: what callers were told is in the state that a restarted actor begins with."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError
from tests.waiting import wait_until

LOCAL_MODE_TOO = True
LIMIT_S = 30.0


class Counter:
    """Counts, and can be killed."""

    def __init__(self, start: int = 0) -> None:
        self.count = start
        self.restored = 0

    def add(self, amount: int = 1) -> int:
        self.count += amount
        return self.count

    def get(self) -> int:
        return self.count

    def seen(self) -> tuple[int, int]:
        """(what was counted, how often it was restored)"""
        return self.count, self.restored

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def __ray_save__(self) -> Any:
        return self.count

    def __ray_restore__(self, state: Any) -> None:
        self.count = state
        self.restored += 1


def answered(ray: Any, ref: Any) -> Any:
    """The value; None if the actor died over it."""
    try:
        return ray.get(ref, timeout=LIMIT_S)
    except RayActorError:
        return None


def again(ray: Any, call: Callable[[], Any]) -> Any:
    """The value of a call, made until it is answered: an actor that restarts refuses some."""
    return wait_until(lambda: answered(ray, call()))


# ---------------------------------------------------------------------------------- nothing that was told is lost
@pytest.mark.needs_workers
@pytest.mark.parametrize("many", [False, True])
def test_what_was_answered_before_a_kill_is_there_after_it(ray: Any, many: bool) -> None:
    """Calls one by one, and in a stream that the kill hits somewhere."""
    counter = ray.remote(Counter).options(max_restarts=-1).remote(100)
    pid = ray.get(counter.pid.remote())
    if many:
        refs = [counter.add.remote() for _ in range(300)]
        ray.wait(refs, num_returns=50)
        os.kill(pid, signal.SIGKILL)
        told = [value for ref in refs if (value := answered(ray, ref)) is not None]
    else:
        told = [ray.get(counter.add.remote()) for _ in range(5)]
        os.kill(pid, signal.SIGKILL)

    count, restored = again(ray, counter.seen.remote)

    assert told == list(range(101, 101 + len(told)))
    assert restored == 1
    assert max(told) <= count <= 400


@pytest.mark.needs_workers
def test_with_retries_a_stream_of_calls_goes_on_where_it_was(ray: Any) -> None:
    counter = ray.remote(Counter).options(max_restarts=-1, max_task_retries=-1).remote()
    pid = ray.get(counter.pid.remote())
    refs = [counter.add.remote() for _ in range(200)]
    ray.wait(refs, num_returns=20)
    os.kill(pid, signal.SIGKILL)

    told = ray.get(refs)

    assert all(earlier < later for earlier, later in itertools.pairwise(told)), told
    assert told[-1] >= 200  # the call that the kill hit may have been counted, and was made again


@pytest.mark.needs_workers
def test_each_life_begins_with_the_state_of_the_one_before(ray: Any) -> None:
    counter = ray.remote(Counter).options(max_restarts=2, max_task_retries=-1).remote()
    for life in range(2):
        assert ray.get(counter.add.remote(10)) == 10 * (life + 1)
        os.kill(ray.get(counter.pid.remote()), signal.SIGKILL)
        assert ray.get(counter.seen.remote()) == (10 * (life + 1), 1)
    os.kill(ray.get(counter.pid.remote()), signal.SIGKILL)
    with pytest.raises(ActorDiedError):
        ray.get(counter.get.remote())


def test_a_kill_that_restarts_keeps_the_state_and_says_that_it_is_a_restart(ray: Any) -> None:
    class Curious(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.seen_in = [("init", ray.get_runtime_context().was_current_actor_reconstructed)]

        def __ray_restore__(self, state: Any) -> None:
            super().__ray_restore__(state)
            self.seen_in.append(("restore", ray.get_runtime_context().was_current_actor_reconstructed))

        def told(self) -> Any:
            return self.seen_in

    curious = ray.remote(Curious).options(max_restarts=1).remote()
    assert ray.get(curious.told.remote()) == [("init", False)]
    ray.get(curious.add.remote(7))

    ray.kill(curious, no_restart=False)

    # The kill takes its time.
    wait_until(lambda: again(ray, curious.told.remote) == [("init", True), ("restore", True)])
    assert ray.get(curious.get.remote()) == 7


@pytest.mark.needs_workers
def test_a_life_that_ended_before_the_first_answer_has_nothing_to_restore(ray: Any) -> None:
    counter = ray.remote(Counter).options(max_restarts=1).remote(5)
    assert answered(ray, counter.die.remote()) is None
    assert again(ray, counter.seen.remote) == (5, 0)


@pytest.mark.needs_workers
def test_a_short_call_is_answered_while_a_long_one_behind_it_runs(ray: Any, tmp_path: Path) -> None:
    class Slow(Counter):
        def wait(self, path: str) -> bool:
            while not os.path.exists(path):
                time.sleep(0.005)
            return True

    slow = ray.remote(Slow).options(max_restarts=1).remote()
    first, second = slow.add.remote(), slow.wait.remote(str(tmp_path / "go"))
    assert ray.get(first, timeout=LIMIT_S) == 1
    (tmp_path / "go").touch()
    assert ray.get(second, timeout=LIMIT_S) is True


@pytest.mark.needs_workers
@pytest.mark.parametrize("how", ["terminate", "handle", "exit"])
def test_an_actor_that_ends_gently_answers_all_that_it_ran(ray: Any, how: str) -> None:
    class Ends(Counter):
        def exit(self) -> None:
            ray.actor.exit_actor()

    counter = ray.remote(Ends).options(max_restarts=-1).remote()
    refs = [counter.add.remote() for _ in range(50)]
    if how == "terminate":
        counter.__ray_terminate__.remote()
    elif how == "exit":
        counter.exit.remote()
    del counter
    assert ray.get(refs, timeout=LIMIT_S) == list(range(1, 51))


# ---------------------------------------------------------------------------------- what a state may be
@pytest.mark.needs_workers
@pytest.mark.parametrize("size", [10, 1 << 20])
def test_arrays_come_back_and_can_be_changed(ray: Any, size: int) -> None:
    """Small ones are kept by the head, large ones lie in the store."""

    class Weights(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.weights = np.zeros(size)

        def step(self) -> float:
            self.weights += 1
            return float(self.weights.sum())

        def __ray_save__(self) -> Any:
            return {"weights": self.weights}

        def __ray_restore__(self, state: Any) -> None:
            self.weights = state["weights"]

    weights = ray.remote(Weights).options(max_restarts=-1, max_task_retries=-1).remote()
    assert ray.get([weights.step.remote() for _ in range(3)]) == [size, 2 * size, 3 * size]
    os.kill(ray.get(weights.pid.remote()), signal.SIGKILL)
    assert ray.get(weights.step.remote()) == 4 * size


@pytest.mark.needs_workers
def test_references_and_handles_in_a_state_are_kept_alive_by_it(ray: Any) -> None:
    class Holder(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.held: Any = None

        def make(self) -> None:
            self.held = {
                "small": ray.put("small"),
                "large": ray.put(b"x" * 300_000),
                "actor": ray.remote(Counter).options(lifetime="detached").remote(3),
            }

        def values(self) -> Any:
            held = self.held
            return ray.get(held["small"]), len(ray.get(held["large"])), ray.get(held["actor"].get.remote())

        def end(self) -> None:
            ray.kill(self.held["actor"])

        def __ray_save__(self) -> Any:
            return self.held

        def __ray_restore__(self, state: Any) -> None:
            self.held = state

    holder = ray.remote(Holder).options(max_restarts=-1, max_task_retries=-1).remote()
    ray.get(holder.make.remote())
    for _ in range(2):
        os.kill(ray.get(holder.pid.remote()), signal.SIGKILL)
        assert ray.get(holder.values.remote()) == ("small", 300_000, 3)
    ray.get(holder.end.remote())


@pytest.mark.needs_workers
def test_states_that_took_each_other_s_place_are_freed(ray: Any) -> None:
    from sparkray.util.state import list_objects

    class Large(Counter):
        def __ray_save__(self) -> Any:
            return np.full(1 << 18, self.count)

        def __ray_restore__(self, state: Any) -> None:
            self.count = int(state[0])

    def sizes() -> list[int]:
        return [one.object_size for one in list_objects(limit=1000) if one.object_size >= 8 << 18]

    large = ray.remote(Large).options(max_restarts=1, max_task_retries=-1).remote()
    ray.get([large.add.remote() for _ in range(20)])
    wait_until(lambda: len(set(sizes())) <= 1 and len(sizes()) <= 2)  # its raylet's, and the head holds it
    os.kill(ray.get(large.pid.remote()), signal.SIGKILL)
    assert ray.get(large.get.remote()) == 20
    wait_until(lambda: not sizes())  # no further life would need it


# ---------------------------------------------------------------------------------- hooks that fail
def test_a_state_that_cannot_be_saved_is_told_by_the_call(ray: Any) -> None:
    class Refuses(Counter):
        def __ray_save__(self) -> Any:
            if self.count == 2:
                raise ValueError("two is no state")
            if self.count == 3:
                return threading.Lock()
            return self.count

    refuses = ray.remote(Refuses).options(max_restarts=1).remote()
    assert ray.get(refuses.add.remote()) == 1
    with pytest.raises(ValueError, match=r"(?s)Refuses\.__ray_save__.*two is no state"):
        ray.get(refuses.add.remote())
    with pytest.raises(TypeError, match=r"(?s)Refuses\.__ray_save__.*lock"):
        ray.get(refuses.add.remote())
    assert ray.get(refuses.add.remote()) == 4  # it had run


def test_a_state_that_cannot_be_restored_ends_the_actor_with_the_reason(ray: Any) -> None:
    class Forgets(Counter):
        def __ray_restore__(self, state: Any) -> None:
            raise KeyError(f"what was {state}?")

    forgets = ray.remote(Forgets).options(max_restarts=-1).remote()
    ray.get(forgets.add.remote())
    ray.kill(forgets, no_restart=False)

    def told() -> str:
        try:
            ray.get(forgets.get.remote())
        except ActorUnavailableError:
            return ""
        except ActorDiedError as error:
            return str(error)
        return ""

    text = wait_until(told)
    assert "Forgets.__ray_restore__" in text
    assert "what was 1?" in text


def test_half_a_pair_of_hooks_and_coroutines_are_refused(ray: Any) -> None:
    class Half:
        def __ray_save__(self) -> None: ...

    class Later(Counter):
        async def __ray_save__(self) -> None: ...

    with pytest.raises(ValueError, match="__ray_restore__"):
        ray.remote(Half).remote()
    with pytest.raises(ValueError, match="plain method"):
        ray.remote(Later).remote()
    with pytest.raises(ValueError, match="checkpoint_interval_s"):
        ray.remote(Counter).options(checkpoint_interval_s=-1)


@pytest.mark.needs_workers
def test_who_cannot_be_restarted_is_never_asked(ray: Any) -> None:
    class Never(Counter):
        def __ray_save__(self) -> Any:
            raise AssertionError("asked")

    assert ray.get(ray.remote(Never).remote().add.remote()) == 1


# ---------------------------------------------------------------------------------- now and then
@pytest.mark.needs_workers
@pytest.mark.parametrize("kind", ["serial", "threaded", "async"])
def test_a_state_that_is_saved_now_and_then_is_saved_in_the_end(ray: Any, kind: str) -> None:
    class Now(Counter):
        if kind == "async":

            async def add(self, amount: int = 1) -> int:  # type: ignore[override]
                self.count += amount
                return self.count

        def __ray_save__(self) -> Any:
            return "x" * 1000 * self.count  # the size tells which

        def __ray_restore__(self, state: Any) -> None:
            self.count = len(state) // 1000

    from sparkray.util.state import get_actor

    options = {"max_concurrency": 3} if kind == "threaded" else {}
    some = ray.remote(Now).options(max_restarts=-1, checkpoint_interval_s=0.5, **options).remote()
    assert sorted(ray.get([some.add.remote() for _ in range(10)])) == list(range(1, 11))
    wait_until(lambda: (getattr(get_actor(some._actor.id.hex()), "saved_bytes", None) or 0) > 10_000)
    os.kill(again(ray, some.pid.remote), signal.SIGKILL)
    assert again(ray, some.get.remote) == 10


@pytest.mark.needs_workers
def test_a_call_that_ends_in_a_thread_while_nothing_else_happens_is_saved_in_the_end(ray: Any) -> None:
    class Late(Counter):
        def add_late(self, amount: int) -> int:
            time.sleep(0.2)  # until the worker's main thread, which looks after the pace, sleeps without a limit
            return self.add(amount)

        def __ray_save__(self) -> Any:
            return "x" * 1000 * self.count

        def __ray_restore__(self, state: Any) -> None:
            self.count = len(state) // 1000

    from sparkray.util.state import get_actor

    late = ray.remote(Late).options(max_restarts=-1, checkpoint_interval_s=1, max_concurrency=3).remote()
    assert ray.get(late.add.remote()) == 1  # saved at once, as the first
    assert ray.get(late.add_late.remote(9)) == 10
    wait_until(lambda: (getattr(get_actor(late._actor.id.hex()), "saved_bytes", None) or 0) > 10_000)


# ---------------------------------------------------------------------------------- several calls at once
@pytest.mark.needs_workers
@pytest.mark.parametrize("kind", ["threaded", "async"])
def test_actors_of_several_calls_at_once_lose_nothing_either(ray: Any, kind: str) -> None:
    class Many(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.done: set[int] = set()

        def mark(self, number: int) -> int:
            self.done = {*self.done, number}
            return number

        async def mark_later(self, number: int) -> int:
            import asyncio

            await asyncio.sleep(0.001 * (number % 3))
            return self.mark(number)

        def marked(self) -> set[int]:
            return self.done

        def __ray_save__(self) -> Any:
            return self.done

        def __ray_restore__(self, state: Any) -> None:
            self.done = state

    if kind == "threaded":
        del Many.mark_later  # a coroutine would make it async
    options = {"max_concurrency": 2} if kind == "threaded" else {}
    many = ray.remote(Many).options(max_restarts=1, **options).remote()
    mark = many.mark if kind == "threaded" else many.mark_later
    pid = ray.get(many.pid.remote())
    refs = [mark.remote(number) for number in range(200)]
    ray.wait(refs, num_returns=50)
    os.kill(pid, signal.SIGKILL)
    told = {value for ref in refs if (value := answered(ray, ref)) is not None}
    marked = again(ray, many.marked.remote)
    if kind == "async":  # threads may lose each other's marks: they use no lock
        assert told <= marked
    assert len(told) >= 50


def test_raising_calls_change_the_state_too(ray: Any) -> None:
    class Raises(Counter):
        def fail(self) -> None:
            self.count += 5
            raise ValueError("after the change")

    raises = ray.remote(Raises).options(max_restarts=1).remote()
    with pytest.raises(RayTaskError):
        ray.get(raises.fail.remote())
    ray.kill(raises, no_restart=False)
    assert wait_until(lambda: [seen for seen in [again(ray, raises.seen.remote)] if seen[1]]) == [(5, 1)]
