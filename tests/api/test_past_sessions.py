"""References and handles do not outlive their session, and a forked child has none of its parent's."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparkray as ray
from sparkray.exceptions import ActorHandleNotFoundError, RayError, RaySystemError, UnknownOwnerError
from sparkray_core.run import object_ref
from tests.waiting import wait_until

LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def no_session() -> Iterator[None]:
    ray.shutdown()
    yield
    ray.shutdown()


@ray.remote
def one(*_: Any) -> int:
    return 1


@ray.remote
def items() -> Any:
    yield 1
    yield 2


class Cell:
    def get(self) -> int:
        return 1


class Past:
    """What was made in a session that has ended."""

    def __init__(self) -> None:
        ray.init(num_cpus=2)
        self.small, self.large = one.remote(), ray.put(np.zeros(1 << 20))
        self.pending = ray.remote(time.sleep).remote(60)
        self.lost = one.remote(self.pending)
        self.actor = ray.remote(Cell).remote()
        self.method = self.actor.get
        self.items: Any = items.remote()
        ray.get([self.small, self.actor.get.remote()])
        next(self.items)
        ray.shutdown()

    @property
    def refs(self) -> list[Any]:
        return [self.small, self.large, self.pending, self.lost]


def future_of(ref: Any) -> object:
    return ref.future().result(LIMIT_S)


async def _await(ref: Any) -> object:
    return await ref


async def _wait_async(ref: Any) -> object:
    return await ray.wait_async([ref])


def run(coroutine: Any) -> object:
    import asyncio

    return asyncio.run(coroutine)


USES: dict[str, Callable[[Any], object]] = {
    "get": ray.get,
    "get of a list": lambda ref: ray.get([ref]),
    "wait": lambda ref: ray.wait([ref], timeout=LIMIT_S),
    "wait_async": lambda ref: run(_wait_async(ref)),
    "cancel": ray.cancel,
    "future": future_of,
    "await": lambda ref: run(_await(ref)),
}
PASSES: dict[str, Callable[[Any], object]] = {
    "passed": one.remote,
    "passed by name": lambda ref: ray.remote(lambda a: a).remote(a=ref),
    "passed inside a list": lambda ref: one.remote([ref]),
    "put inside a list": lambda ref: ray.put([ref]),
    "in a closure": lambda ref: ray.remote(lambda: ref).remote(),
}


def test_without_a_session_using_what_is_left_of_one_starts_none() -> None:
    past = Past()
    for ref in past.refs:
        for name, use in USES.items():
            with pytest.raises(UnknownOwnerError, match=r"of a sparkray session that has ended: its owner is unknown"):
                use(ref)
            assert not ray.is_initialized(), name
    for use_items in (next, lambda items: ray.wait([items]), ray.cancel):
        with pytest.raises(UnknownOwnerError):
            use_items(past.items)
    for use_actor in (past.actor.get.remote, past.method.remote, lambda: ray.kill(past.actor)):
        with pytest.raises(ActorHandleNotFoundError):
            use_actor()
    assert not ray.is_initialized()


def test_a_new_session_refuses_what_is_of_an_old_one_and_goes_on() -> None:
    past = Past()
    ray.init(num_cpus=1)
    ref = None
    for ref in past.refs:
        for name, use in (USES | PASSES).items():
            with pytest.raises(UnknownOwnerError, match="owner is unknown"):
                use(ref)
            assert ray.get(one.remote()) == 1, name
    _use_what_is_no_reference(past)
    del past, ref  # the end of these is nobody's business either
    actor = ray.remote(Cell).remote()
    kept = ray.put([1])
    assert ray.get([one.remote(kept), actor.get.remote(), one.remote([kept, actor])]) == [1, 1, 1]


def _use_what_is_no_reference(past: Past) -> None:
    for use_items in (next, lambda items: ray.wait([items]), ray.cancel):
        with pytest.raises(UnknownOwnerError):
            use_items(past.items)
    for use_actor in (
        past.actor.get.remote,
        past.method.remote,
        lambda: ray.kill(past.actor),
        lambda: one.remote(past.actor),
        lambda: one.remote([past.actor]),
    ):
        with pytest.raises(ActorHandleNotFoundError):
            use_actor()


def test_the_errors_are_rays_classes() -> None:
    assert issubclass(UnknownOwnerError, ValueError)
    assert issubclass(UnknownOwnerError, RayError)
    assert issubclass(ActorHandleNotFoundError, ValueError)
    assert issubclass(ActorHandleNotFoundError, RayError)


def test_borrowed_references_are_not_taken_for_old_ones() -> None:
    ray.init(num_cpus=2)

    @ray.remote
    def uses(refs: list[Any], actor: Any) -> Any:
        ready, _ = ray.wait(refs, num_returns=len(refs))
        return ray.get(ready), ray.get(one.remote(refs[0])), ray.get(actor.get.remote()), refs

    actor = ray.remote(Cell).remote()
    values, passed, called, back = ray.get(uses.remote([ray.put(1), one.remote()], actor))
    assert (values, passed, called) == ([1, 1], 1, 1)
    assert ray.get(back) == [1, 1]


# ------------------------------------------------------------------------------------------ fork
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def in_child(what: Callable[[], object]) -> str:
    """Run it in a forked child, which then exits as Python does; what it returned or raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "the child raised"
        try:
            try:
                text = str(what())
            except Exception as error:  # noqa: BLE001 - to be told
                text = f"{type(error).__name__}: {error}"
            os.write(write, text.encode())
            ray.shutdown()  # as atexit does
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as end:
        told = end.read()
    os.waitpid(pid, 0)
    return told


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="no fork")
def test_a_forked_child_is_refused_and_the_parents_session_goes_on() -> None:
    context = ray.init(num_cpus=1)
    ref, actor, array = one.remote(), ray.remote(Cell).remote(), ray.get(ray.put(np.arange(1 << 20)))
    assert ray.get([ref, actor.get.remote()]) == [1, 1]
    for use in (
        lambda: ray.get(ref),
        lambda: ray.wait([ref]),
        one.remote,
        actor.get.remote,
        lambda: ray.put(1),
        lambda: ray.kill(actor),
        ray.nodes,
    ):
        told = in_child(use)
        assert told.startswith("RaySystemError: process "), told
        assert "was forked from one with a sparkray session" in told
        assert "spawn" in told
    assert in_child(ray.is_initialized) == "False"
    assert in_child(lambda: int(array.sum())) == str(int(array.sum()))  # what was read before stays readable
    assert in_child(lambda: context.disconnect()) == "None"
    assert os.path.isdir(context["session_dir"])
    assert ray.get([one.remote(), actor.get.remote(), ref]) == [1, 1, 1]


def test_a_forked_child_may_have_a_session_of_its_own() -> None:
    ray.init(num_cpus=1)
    ref = one.remote()
    ray.get(ref)

    def own() -> tuple[int, str]:
        ray.init(num_cpus=1)
        try:
            ray.get(ref)
        except UnknownOwnerError:
            return ray.get(one.remote()), "refused"
        return 0, "taken"

    assert in_child(own) == "(1, 'refused')"
    assert ray.get(one.remote()) == 1


def test_a_child_that_lives_on_does_not_hold_up_the_parents_shutdown() -> None:
    context = ray.init(num_cpus=1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)  # until the parent has ended its session
        os._exit(0)
    ray.shutdown()
    try:
        gone = "the keeper has ended, whoever has a copy of its pipe"
        wait_until(lambda: not os.path.exists(context["session_dir"]), gone)
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(pid, 0)


def _use_in_pool(_: int) -> str:
    try:
        ray.put(1)
    except RaySystemError as error:
        return str(error)
    return "used"


def test_a_forking_multiprocessing_pool_is_told_too_and_ends_without_harm() -> None:
    context = ray.init(num_cpus=1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        told = pool.map(_use_in_pool, range(4))
    assert all("was forked from one with a sparkray session" in text for text in told)
    assert ray.get(one.remote()) == 1
    assert os.path.isdir(context["session_dir"])


def test_a_process_that_a_task_forks_is_told_too() -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def forks() -> str:
        return in_child(lambda: ray.put(1))

    assert "was forked from one with a sparkray session" in ray.get(forks.remote())
    assert ray.get(one.remote()) == 1


# ------------------------------------------------------------------------------------------ signals
def test_the_drivers_signal_handlers_are_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(num_cpus=1)
        ray.get(one.remote())
        assert {number: signal.getsignal(number) for number in before} == dict.fromkeys(before, note)
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
        os.kill(os.getpid(), signal.SIGINT)
        assert seen == [signal.SIGINT]
        signal.signal(signal.SIGTERM, note)  # set after init
        os.kill(os.getpid(), signal.SIGTERM)
        assert ray.get(one.remote()) == 1
        assert seen == [signal.SIGINT, signal.SIGTERM]
        ray.shutdown()
        assert {number: signal.getsignal(number) for number in before} == dict.fromkeys(before, note)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_sigterm_ends_a_driver_as_without_us_and_nothing_is_left() -> None:
    code = "import sparkray, time\nprint(sparkray.init(num_cpus=1)['session_dir'], flush=True)\ntime.sleep(60)\n"
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    folder = driver.stdout.readline().strip()
    driver.terminate()
    assert driver.wait(LIMIT_S) == -signal.SIGTERM
    driver.stdout.close()
    deadline = time.monotonic() + LIMIT_S
    while os.path.exists(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_core_of_a_child_is_none() -> None:
    ray.init(num_cpus=1)
    assert in_child(lambda: object_ref.current) == "None"
