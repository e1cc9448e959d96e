"""What is special in local mode. (Most of the API's tests run in it, too: see `LOCAL_MODE_TOO` in conftest.py.)"""

from __future__ import annotations

import asyncio
import os
import pdb
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import sparkray
from sparkray.exceptions import ActorDiedError, RaySystemError, TaskUnschedulableError
from sparkray.session import core
from sparkray_core.ids import HEAD, ProcessId
from sparkray_core.messages import Message, TaskResults

LIMIT_S = 20.0


@pytest.fixture
def ray() -> Iterator[Any]:
    sparkray.init(local_mode=True, num_cpus=2)
    yield sparkray
    sparkray.shutdown()


def test_what_is_submitted_has_run_here_when_that_returns(ray: Any) -> None:
    os.environ["RAN"] = ""

    @ray.remote
    def note(number: int) -> int:
        os.environ["RAN"] += str(number)
        return os.getpid()

    refs = [note.remote(number) for number in range(3)]
    assert os.environ.pop("RAN") == "012"
    assert ray.get(refs) == [os.getpid()] * 3


def test_a_debugger_can_be_entered_in_a_task(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []
    monkeypatch.setattr(pdb, "set_trace", lambda *_, **__: entered.append("here"))

    @ray.remote
    def broken() -> None:
        import pdb

        pdb.set_trace()

    ray.get(broken.remote())
    assert entered == ["here"]


def test_values_are_snapshots(ray: Any) -> None:
    class Holder:
        def __init__(self, items: list[int]) -> None:
            self.items = items

        def append(self) -> list[int]:
            self.items.append(1)
            return self.items

    mine = [0]
    holder = ray.remote(Holder).remote(mine)
    first = ray.get(holder.append.remote())
    first.append("changed")
    assert ray.get(holder.append.remote()) == [0, 1, 1]
    assert mine == [0]


def test_coroutines_of_an_actor_wait_for_each_other_and_for_tasks(ray: Any) -> None:
    class Gate:
        def __init__(self) -> None:
            self.open = asyncio.Event()

        async def wait(self) -> str:
            await self.open.wait()
            return "through"

        async def let_through(self) -> None:
            self.open.set()

    gate = ray.remote(Gate).remote()
    waiting = [gate.wait.remote() for _ in range(3)]
    assert ray.wait(waiting, timeout=0)[0] == []
    gate.let_through.remote()
    assert ray.get(waiting) == ["through"] * 3

    async def outside() -> Any:
        return await gate.wait.remote()

    assert asyncio.run(outside()) == "through"


def test_what_can_never_run_raises_at_once_and_an_actor_may_call_itself(ray: Any) -> None:
    class Selfish:
        def call(self, me: Any) -> Any:
            return ray.get(me.other.remote())

        def other(self) -> int:
            return 1

    selfish = ray.remote(Selfish).remote()
    assert ray.get(selfish.call.remote(selfish)) == 1  # serial and reentrant: no second worker is needed

    @ray.remote(num_cpus=3)
    def large() -> None: ...

    with pytest.raises(TaskUnschedulableError, match="3 CPU"):
        ray.get(large.remote())
    with pytest.raises(ActorDiedError, match="asks for 3 CPU"):
        ray.get(ray.remote(num_cpus=3)(Selfish).remote().other.remote())
    with pytest.raises(RaySystemError, match="local mode"):
        core().ask(HEAD, "events")


def test_restarts_and_retries_are_there(ray: Any) -> None:
    class Flaky:
        def __init__(self) -> None:
            self.runs = 0

        def run(self, until: int) -> int:
            self.runs += 1
            if self.runs < until:
                raise ValueError(f"run {self.runs}")
            return self.runs

    actor = ray.remote(max_restarts=1, max_task_retries=3)(Flaky).remote()
    assert ray.get(actor.run.options(retry_exceptions=True).remote(3)) == 3
    ray.kill(actor, no_restart=False)
    assert ray.get(actor.run.remote(1)) == 1
    ray.kill(actor)
    with pytest.raises(ActorDiedError):
        ray.get(actor.run.remote(1))


def test_a_thread_waits_for_a_result_that_another_thread_is_just_bringing(
    ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the end of a task's code and its value's arrival nothing seems to go on, to anybody else."""

    class Gate:
        def __init__(self) -> None:
            self.opened = asyncio.Event()

        async def wait(self) -> int:
            await self.opened.wait()
            return 7

        async def open(self) -> None:
            self.opened.set()

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    gate = ray.remote(Gate).remote()
    doubled = double.remote(gate.wait.remote())
    here: Any = core()
    tell, brings, waits = here._tell, threading.Event(), threading.Event()

    def tell_slowly(sender: ProcessId, message: Message) -> None:
        if isinstance(message, TaskResults) and sender not in here._by_worker:  # of no actor, so of `double`
            brings.set()
            assert waits.wait(LIMIT_S)
        tell(sender, message)

    def look_twice() -> Any:
        looks.append(1)
        if len(looks) == 2:
            waits.set()
        return others_run()

    looks: list[int] = []
    others_run = here._others_run
    monkeypatch.setattr(here, "_tell", tell_slowly)
    opener = threading.Thread(target=lambda: ray.get([gate.open.remote(), doubled]))
    opener.start()
    assert brings.wait(LIMIT_S)
    monkeypatch.setattr(here, "_others_run", look_twice)

    assert ray.get(doubled) == 14
    opener.join(LIMIT_S)
