"""What Ray's own tests of actors ask for, where no other test of ours does: defining, naming, passing, ending.

tests/compat/README.md says which file of Ray's is covered where.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from sparkray.exceptions import ActorDiedError, RayActorError

Wait = Callable[..., None]


class Gate:
    """Waits until it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def wait(self) -> str:
        await self.event.wait()
        return "open"

    async def open(self) -> None:
        self.event.set()


class Counter:
    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    def pid(self) -> int:
        return os.getpid()


class Queue:
    def __init__(self) -> None:
        self.items: list[tuple[int, int]] = []

    def put(self, key: int, item: int) -> None:
        self.items.append((key, item))

    def of(self, key: int) -> list[int]:
        return [item for other, item in self.items if other == key]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# ---------------------------------------------------------------------------------- defining
def test_actors_and_tasks_are_defined_and_used_in_each_other(ray: Any) -> None:
    """Functions in constructors, classes in methods and tasks, references that a constructor leaves behind."""

    @ray.remote
    def plus(x: int) -> int:
        return x + 1

    class Outer:
        def __init__(self) -> None:
            self.refs = [plus.remote(n) for n in range(3)]
            self.values = ray.get([plus.remote(n) for n in range(3)])

        def seen(self) -> tuple[list[Any], list[int]]:
            return self.refs, self.values

        def inner(self, value: int) -> int:
            class Inner(Counter):
                pass

            self.actor = ray.remote(Inner).remote(value)
            value = ray.get(self.actor.add.remote())
            return value

        def gets(self, refs: list[Any]) -> list[int]:
            return list(ray.get(refs))

    @ray.remote
    def defines(value: int) -> list[int]:
        class Local(Counter):
            pass

        actor = ray.remote(Local).remote(value)
        return list(ray.get([actor.add.remote() for _ in range(5)]))

    outer = ray.remote(Outer).remote()
    refs, values = ray.get(outer.seen.remote())
    assert ray.get(refs) == values == [1, 2, 3]
    assert ray.get(outer.inner.remote(4)) == 5
    assert ray.get(outer.gets.remote([plus.remote(5)])) == [6]
    assert ray.get([defines.remote(10 * n) for n in range(3)]) == [[10 * n + k for k in range(1, 6)] for n in range(3)]


def test_classes_of_one_name_are_each_themselves(ray: Any) -> None:
    def make(value: int) -> Any:
        @ray.remote
        class Same:
            def get(self) -> int:
                return value

        handle: Any = Same
        return handle.remote()

    assert ray.get([make(value).get.remote() for value in range(5)]) == list(range(5))


def test_a_method_names_its_own_remote_class(ray: Any) -> None:
    class Grandparent:
        OLDEST = 1

        @staticmethod
        def of_grandparent() -> int:
            return Grandparent.OLDEST

    class Parent(Grandparent):
        OLD = 2

    @ray.remote
    class Child(Parent):
        YOUNG = 3

        @staticmethod
        def of_child() -> tuple[int, int, int]:
            return Child.OLDEST, Child.OLD, Child.YOUNG

        @classmethod
        def of_class(cls) -> int:
            return cls.YOUNG

        def asked(self) -> Any:
            return Child.of_child(), Child.of_class(), Child.of_grandparent()

    child: Any = Child
    child = child.remote()
    assert ray.get(child.asked.remote()) == ((1, 2, 3), 3, 1)
    assert ray.get([child.of_child.remote(), child.of_class.remote(), child.of_grandparent.remote()]) == [
        (1, 2, 3),
        3,
        1,
    ]


def test_an_actor_makes_more_of_its_own_kind(ray: Any) -> None:
    """Its class and the function come to the worker while they are still being put together."""

    @ray.remote
    class Tree:
        def __init__(self, depth: int, label: str = "leaf") -> None:
            self.children = [again.remote(depth - 1, label=f"{label}.{n}") for n in range(2)] if depth else []
            self.label = label

        def labels(self, prefix: str = "") -> list[str]:
            below = [label for child in self.children for label in ray.get(child.labels.remote(prefix=prefix))]
            return [prefix + self.label, *below]

    again: Any = Tree

    @ray.remote
    def recurses(depth: int, by: int = 1) -> int:
        return depth and 1 + ray.get(recurses.remote(depth - by))

    assert ray.get(again.remote(1, label="root").labels.remote(">")) == [">root", ">root.0", ">root.1"]
    assert ray.get(recurses.remote(3)) == 3


def test_seeds_of_the_user_do_not_make_two_actors_one(ray: Any) -> None:
    ids = []
    for _ in range(2):
        random.seed(1)
        ids.append(ray.remote(Counter).remote()._actor_id)
    assert ids[0] != ids[1]


def test_a_handle_lists_its_methods(ray: Any) -> None:
    assert {"add", "pid"} <= set(dir(ray.remote(Counter).remote()))


def test_several_actors_keep_their_own_state(ray: Any) -> None:
    actors = [ray.remote(Counter).remote(100 * n) for n in range(4)]
    refs = [actor.add.remote() for _ in range(20) for actor in actors]
    assert ray.get(refs) == [100 * n + k for k in range(1, 21) for n in range(4)]


# ---------------------------------------------------------------------------------- arguments of constructors
def test_a_constructor_s_argument_that_is_not_there_holds_up_nobody_but_its_actor(ray: Any, wait_until: Wait) -> None:
    gate = ray.remote(Gate).remote()
    counter = ray.remote(Counter).remote(gate.wait.remote())  # returns at once, or this never ends
    pid = counter.pid.remote()
    assert ray.wait([pid], timeout=0)[0] == []
    ray.get(gate.open.remote())
    assert ray.get(pid, timeout=30) != os.getpid()


def test_an_actor_whose_argument_failed_is_dead_and_says_why(ray: Any) -> None:
    @ray.remote
    def fails() -> int:
        raise ValueError("no value")

    counter = ray.remote(Counter).remote(fails.remote())
    with pytest.raises(ActorDiedError, match="no value"):
        ray.get(counter.add.remote())


def test_who_dies_before_an_actor_s_argument_came_leaves_nobody_waiting(ray: Any, wait_until: Wait) -> None:
    class Maker:
        def make(self, box: Any) -> None:
            self.gate = ray.remote(Gate).remote()
            self.counter = ray.remote(Counter).remote(self.gate.wait.remote())
            ray.get(box.keep.remote([self.counter]))
            os._exit(1)

    class Box:
        def keep(self, handles: list[Any]) -> None:
            self.handles = handles

        def call(self) -> Any:
            return ray.get(self.handles[0].add.remote())

    box = ray.remote(Box).remote()
    with pytest.raises(RayActorError):
        ray.get(ray.remote(Maker).remote().make.remote(box))
    with pytest.raises(RayActorError):
        ray.get(box.call.remote(), timeout=30)


# ---------------------------------------------------------------------------------- passing handles
def test_each_caller_s_calls_keep_their_order_however_it_got_the_handle(ray: Any) -> None:
    """Passed, nested, and pickled by hand."""
    queue = ray.remote(Queue).remote()

    @ray.remote
    def puts(handle: Any, key: int, nested: bool = False) -> None:
        if isinstance(handle, bytes):
            handle = pickle.loads(handle)
        if nested:
            ray.get(puts.remote(handle, key + 100))
        ray.get([handle.put.remote(key, item) for item in range(50)])

    pickled = cloudpickle.dumps(queue)
    refs = [puts.remote(queue, 0), puts.remote(queue, 1, nested=True), puts.remote(pickled, 2), puts.remote(pickled, 3)]
    ray.get(refs)
    assert [ray.get(queue.of.remote(key)) for key in (0, 1, 101, 2, 3)] == [list(range(50))] * 5


def test_a_handle_that_a_function_captured_can_be_called_again_and_again(ray: Any) -> None:
    counter = ray.remote(Counter).remote()

    class Captures:
        def __init__(self, make: Callable[[], Any]) -> None:
            self.actor = make()

        def step(self) -> int:
            value: int = ray.get(self.actor.add.remote())
            return value

    captures = ray.remote(Captures).remote(lambda: counter)
    assert [ray.get(captures.step.remote()) for _ in range(2)] == [1, 2]
    stored = ray.get(ray.put(counter))
    assert ray.get(stored.add.remote()) == 3
    assert stored == counter


def test_an_actor_lives_for_a_task_that_cannot_run_yet_and_no_longer(ray: Any, wait_until: Wait) -> None:
    gate = ray.remote(Gate).remote()

    @ray.remote
    def later(actor: Any, waits: Any) -> int:
        ray.get(waits.wait.remote())
        value: int = ray.get(actor.add.remote())
        return value

    counter = ray.remote(Counter).options(max_restarts=3).remote()
    pid = ray.get(counter.pid.remote())
    ref = later.remote(counter, gate)
    del counter
    ray.get(gate.open.remote())
    assert ray.get(ref) == 1
    wait_until(lambda: is_gone(pid))  # and is not restarted


def test_processes_end_with_their_handles(ray: Any, wait_until: Wait) -> None:
    actors = [ray.remote(Counter).remote() for _ in range(5)]
    pids = ray.get([actor.pid.remote() for actor in actors])
    actors.clear()
    wait_until(lambda: all(map(is_gone, pids)))


def test_tasks_never_run_in_an_actor_s_process(ray: Any) -> None:
    counter = ray.remote(Counter).remote()
    pid = ray.get(counter.pid.remote())  # it is there: before that, a worker that has run tasks may become it
    assert pid not in ray.get([ray.remote(os.getpid).remote() for _ in range(50)])


# ---------------------------------------------------------------------------------- names
def test_names_that_are_no_names_are_refused(ray: Any) -> None:
    cls = ray.remote(Counter)
    for wrong, error in ((123, TypeError), ("", ValueError)):
        for call in (
            lambda wrong=wrong: cls.options(name=wrong),
            lambda wrong=wrong: cls.options(name="x", namespace=wrong),
            lambda wrong=wrong: ray.get_actor(wrong),
            lambda wrong=wrong: ray.get_actor("x", namespace=wrong),
        ):
            with pytest.raises(error):
                call()
    with pytest.raises(TypeError):
        ray.get_actor()


def test_get_if_exists_over_and_over_while_the_actor_goes_and_comes(ray: Any) -> None:
    cls = ray.remote(Counter).options(name="comes and goes", get_if_exists=True, max_restarts=-1)
    for _ in range(30):
        cls.remote()
    assert ray.get(cls.remote().add.remote()) == 1


def test_tasks_that_want_the_same_named_actor_at_once_get_one(ray: Any) -> None:
    @ray.remote(num_cpus=0)
    def get_or_create() -> tuple[int, Any]:
        cls = ray.remote(Counter).options(name="shared", namespace="race", get_if_exists=True, lifetime="detached")
        actor = cls.remote()
        return ray.get(actor.pid.remote()), actor

    found = ray.get([get_or_create.remote() for _ in range(6)])
    assert len({pid for pid, _ in found}) == 1
    assert ray.get([actor.add.remote() for _, actor in found]) == [1, 2, 3, 4, 5, 6]
    ray.kill(found[0][1])


def test_the_list_of_named_actors_is_that_of_the_living(ray: Any, wait_until: Wait) -> None:
    cls = ray.remote(Counter)
    unnamed = cls.remote()
    first, second = cls.options(name="one").remote(), cls.options(name="two").remote()
    assert sorted(ray.util.list_named_actors()) == ["one", "two"]
    del first
    wait_until(lambda: ray.util.list_named_actors() == ["two"])
    del second
    wait_until(lambda: ray.util.list_named_actors() == [])
    assert ray.get(unnamed.add.remote()) == 1


# ---------------------------------------------------------------------------------- ending
class Ends(Counter):
    """Notes in a file how it ends."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        atexit.register(self.note, "atexit ")

    def note(self, what: str) -> None:
        with open(self.path, "a") as notes:
            notes.write(what)

    def ready(self) -> None: ...

    def exit(self) -> None:
        import sparkray

        sparkray.actor.exit_actor()
        self.note("went on ")

    def __ray_shutdown__(self) -> None:
        self.note("shutdown ")
        raise ValueError("nobody minds")


@pytest.mark.parametrize("how", ["terminate", "exit_actor", "last handle", "kill"])
def test_what_runs_when_an_actor_ends(ray: Any, tmp_path: Path, wait_until: Wait, how: str) -> None:
    path = tmp_path / "notes"
    actor = ray.remote(Ends).remote(str(path))
    ray.get(actor.ready.remote())
    pid = ray.get(actor.pid.remote())
    if how == "terminate":
        ray.wait([actor.__ray_terminate__.remote()])
    elif how == "exit_actor":
        with pytest.raises(ActorDiedError, match="exit_actor"):
            ray.get(actor.exit.remote())
    elif how == "kill":
        ray.kill(actor)
    del actor
    wait_until(lambda: is_gone(pid))
    assert (path.read_text() if path.exists() else "") == ("" if how == "kill" else "shutdown atexit ")


class Exits:
    """Calls `exit_actor()` in places where its exception gets lost."""

    def __init__(self, in_constructor: bool = False) -> None:
        if in_constructor:
            self.caught()

    def caught(self) -> str:
        import sparkray

        try:
            sparkray.actor.exit_actor()
        except BaseException:  # noqa: BLE001 - that is what users write
            return "caught"

    def ping(self) -> str:
        return "pong"


class ExitsOnLoop(Exits):
    async def caught_later(self) -> str:
        return self.caught()

    async def in_background(self) -> None:
        self.task = asyncio.create_task(self.caught_later())


@pytest.mark.parametrize("how", ["serial", "threaded", "async", "constructor", "async constructor", "background task"])
def test_exit_actor_ends_the_actor_even_where_its_exception_is_caught(ray: Any, how: str, wait_until: Wait) -> None:
    in_constructor = "constructor" in how
    cls = ray.remote(ExitsOnLoop if how in ("async", "async constructor", "background task") else Exits)
    actor = cls.options(max_restarts=-1, **({"max_concurrency": 2} if how == "threaded" else {})).remote(in_constructor)
    if how == "background task":
        ray.get(actor.in_background.remote())

        def dead() -> bool:
            try:
                ray.get(actor.ping.remote())
            except ActorDiedError:
                return True
            return False

        wait_until(dead)
        return
    call = actor.caught_later if how == "async" else actor.caught
    with pytest.raises(ActorDiedError, match="exit_actor"):
        ray.get(call.remote(), timeout=30)
    with pytest.raises(ActorDiedError):
        ray.get(actor.ping.remote(), timeout=30)


@pytest.mark.parametrize("on_loop", [False, True])
def test_what_is_queued_behind_exit_actor_fails(ray: Any, on_loop: bool) -> None:
    actor = ray.remote(ExitsOnLoop if on_loop else Exits).remote()
    first = (actor.caught_later if on_loop else actor.caught).remote()
    refs = [actor.ping.remote() for _ in range(1000)]
    for ref in (first, refs[-1]):
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=30)


class CountsRuns:
    """What it does is told by a file that outlives it."""

    def __init__(self, path: str) -> None:
        self.path = path
        if path.endswith("constructor"):
            self.run(2, "os")

    def run(self, dies: int, how: Any) -> int:
        """How many runs there were before this one; the first `dies` end the process."""
        runs = len(Path(self.path).read_text()) if os.path.exists(self.path) else 0
        with open(self.path, "a") as path:
            path.write("x")
        if runs < dies:
            if how == "os":
                os._exit(0)
            sys.exit(how)
        return runs


@pytest.mark.parametrize("how", [1, "a sentence", 0, None])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exit_code_other_than_0_is_a_crash(ray: Any, tmp_path: Path, how: Any, threads: int) -> None:
    actor = ray.remote(CountsRuns).options(max_restarts=-1, max_task_retries=-1, max_concurrency=threads)
    actor = actor.remote(str(tmp_path / "runs"))
    ref = actor.run.remote(1, how)
    if how in (0, None):
        with pytest.raises(ActorDiedError):
            ray.get(ref, timeout=30)
    else:
        assert ray.get(ref, timeout=30) == 1


def test_a_constructor_that_kills_its_process_is_run_again(ray: Any, tmp_path: Path) -> None:
    cls = ray.remote(CountsRuns).options(max_task_retries=-1)
    path = str(tmp_path / "constructor")
    assert ray.get(cls.options(max_restarts=3).remote(path).run.remote(0, 0), timeout=60) == 3
    with pytest.raises(RayActorError):
        ray.get(cls.options(max_restarts=0).remote(str(tmp_path / "second constructor")).run.remote(0, 0), timeout=30)


def test_kill_ends_what_runs_whatever_no_restart_says(ray: Any) -> None:
    gate = ray.remote(Gate).remote()

    class Hangs:
        def hang(self, waits: Any) -> None:
            ray.get(waits.wait.remote())

    hangs = ray.remote(Hangs).remote()
    ref = hangs.hang.remote(gate)
    ray.kill(hangs, no_restart=False)
    with pytest.raises(RayActorError):
        ray.get(ref, timeout=30)


def test_a_caller_that_restarts_calls_on(ray: Any, wait_until: Wait) -> None:
    """The callee serves a new life of an old caller; a task that is run again, too."""
    counter = ray.remote(Counter).remote()

    class Calls(Counter):
        def __init__(self, callee: Any) -> None:
            self.callee = callee

        def call(self) -> int:
            value: int = ray.get(self.callee.add.remote())
            return value

    calls = ray.remote(Calls).options(max_restarts=1, max_task_retries=1).remote(counter)
    assert [ray.get(calls.call.remote()) for _ in range(3)] == [1, 2, 3]
    os.kill(ray.get(calls.pid.remote()), signal.SIGKILL)
    assert ray.get(calls.call.remote()) == 4

    @ray.remote(max_retries=5)
    def dies_until(least: int) -> int:
        value: int = ray.get(counter.add.remote())
        if value < least:
            os._exit(1)
        return value

    assert ray.get(dies_until.remote(6)) == 6
