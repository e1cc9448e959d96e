"""Generator methods of actors: serial, threaded and async; deaths, cancellation, back-pressure."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkray.exceptions import ActorDiedError, ActorUnavailableError, RayError, TaskCancelledError
from tests.waiting import wait_until

LONG = 60


def outcome(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref, timeout=30)
    except RayError as error:
        return TaskCancelledError if isinstance(error, TaskCancelledError) else type(error)


def outcomes(ray: Any, generator: Any) -> list[Any]:
    """Each item's value, or the class of its error."""
    return [outcome(ray, ref) for ref in generator]


class Plain:
    """As a serial actor or, with max_concurrency, a threaded one."""

    def __init__(self) -> None:
        self.made = 0

    def count_to(self, n: int) -> Iterator[int]:
        for number in range(n):
            self.made += 1
            yield number

    def large(self, n: int) -> Iterator[Any]:
        for number in range(n):
            yield np.full(30_000, number)

    def fails(self) -> Iterator[int]:
        yield 1
        raise KeyError("enough")

    def made_so_far(self) -> int:
        return self.made

    def hangs(self, mark: Path) -> Iterator[int]:
        yield 1
        mark.touch()
        time.sleep(LONG)
        yield 2

    def says_much_and_dies(self) -> Iterator[int]:
        for number in range(5):
            yield number
            time.sleep(0.01)
        os._exit(1)

    def dies(self, mark: Path) -> Iterator[int]:
        yield 1
        wait_until(mark.exists)
        os.kill(os.getpid(), signal.SIGKILL)
        yield 2


class Async(Plain):
    async def count_to(self, n: int) -> AsyncIterator[int]:  # type: ignore[override]
        for number in range(n):
            await asyncio.sleep(0)
            self.made += 1
            yield number

    async def hangs(self, mark: Path) -> AsyncIterator[int]:  # type: ignore[override]
        yield 1
        mark.touch()
        await asyncio.sleep(LONG)
        yield 2


KINDS = {"serial": (Plain, {}), "threaded": (Plain, {"max_concurrency": 3}), "async": (Async, {})}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(ray: Any, request: pytest.FixtureRequest) -> Any:
    cls, options = KINDS[request.param]
    return ray.remote(cls).options(**options)


@pytest.fixture(scope="module")
def actor(kind: Any) -> Any:
    return kind.remote()


def test_items_come_in_order(ray: Any, actor: Any) -> None:
    generators = [actor.count_to.remote(n) for n in (3, 0, 500)]
    assert [outcomes(ray, one) for one in generators] == [[0, 1, 2], [], list(range(500))]
    assert [int(ray.get(ref)[0]) for ref in actor.large.remote(5)] == [0, 1, 2, 3, 4]


def test_errors_and_ends(ray: Any, actor: Any) -> None:
    refs = list(generator := actor.fails.remote())
    assert ray.get(refs[0]) == 1
    with pytest.raises(KeyError):
        ray.get(refs[1])
    assert len(refs) == 2
    assert ray.get(generator.completed()) is None


def test_only_generators_stream(ray: Any, actor: Any) -> None:
    with pytest.raises(ValueError, match="can only be used with generator"):
        actor.made_so_far.options(num_returns="streaming")
    assert outcomes(ray, actor.count_to.options(num_returns="streaming").remote(2)) == [0, 1]


def test_it_pauses_at_so_many_unread_items(ray: Any, actor: Any) -> None:
    before = ray.get(actor.made_so_far.remote())
    generator = actor.count_to.options(_generator_backpressure_num_objects=4).remote(50)
    assert ray.wait([generator], timeout=20) == ([generator], [])
    assert ray.get(next(generator)) == 0
    assert ray.get(next(generator)) == 1
    assert outcomes(ray, generator) == list(range(2, 50))
    assert ray.get(actor.made_so_far.remote()) == before + 50


def test_the_limit_of_a_class_and_of_a_method(ray: Any, tmp_path: Path) -> None:
    class Logs:
        def log(self, name: str) -> Iterator[int]:
            for number in range(20):
                with (tmp_path / name).open("a") as file:
                    file.write("x")
                yield number

        @ray.method(_generator_backpressure_num_objects=5)
        def more(self, name: str) -> Iterator[int]:
            yield from self.log(name)

    def made(name: str) -> int:
        return len((tmp_path / name).read_text()) if (tmp_path / name).exists() else 0

    logs = ray.remote(Logs).options(_actor_generator_backpressure_num_objects=2, max_concurrency=3).remote()
    first, second = logs.log.remote("first"), logs.more.remote("second")
    third = logs.log.options(_generator_backpressure_num_objects=3).remote("third")
    wait_until(lambda: (made("first"), made("second"), made("third")) == (2, 5, 3))
    assert ray.get(next(first)) == 0
    wait_until(lambda: made("first") == 3)
    assert (made("first"), made("second"), made("third")) == (3, 5, 3)
    assert [outcomes(ray, one) for one in (second, third)] == [list(range(20))] * 2


def test_letting_go_ends_the_producer(ray: Any, actor: Any) -> None:
    before = ray.get(actor.made_so_far.remote())
    generator = actor.count_to.options(_generator_backpressure_num_objects=2).remote(1000)
    next(generator)
    del generator
    # A serial actor is at it until it hears of that.
    assert ray.get(actor.made_so_far.remote(), timeout=20) <= before + 3


def test_letting_go_of_a_stream_that_waits_for_a_thread_ends_it(ray: Any, tmp_path: Path) -> None:
    """It is in no queue of ours any more, and does not run yet."""

    class Gate:
        def waits(self, opened: Path) -> None:
            wait_until(opened.exists)

        def count(self) -> Iterator[int]:
            yield from range(100)

        def answers(self) -> int:
            return 7

    actor = ray.remote(max_concurrency=2, concurrency_groups={"beside": 1})(Gate).remote()
    waiting = [actor.waits.remote(tmp_path / "opened") for _ in range(2)]
    generators = [actor.count.options(_generator_backpressure_num_objects=1).remote() for _ in range(2)]
    beside = actor.answers.options(concurrency_group="beside")
    assert ray.get(beside.remote(), timeout=20) == 7  # so the others have been handed to the threads
    generators.clear()
    assert ray.get(beside.remote(), timeout=20) == 7
    last = actor.answers.remote()
    (tmp_path / "opened").touch()

    assert ray.get([*waiting, last], timeout=20) == [None, None, 7]


def test_cancel(ray: Any, kind: Any, tmp_path: Path) -> None:
    actor = kind.remote()
    generator = actor.hangs.remote(tmp_path / "hangs")
    wait_until((tmp_path / "hangs").exists)
    ray.cancel(generator)
    first = next(generator)
    assert ray.get(first) == 1
    if (
        "max_concurrency" not in kind._options.__slots__ or kind._options.max_concurrency is None
    ):  # no signal gets there
        assert outcomes(ray, generator) == [TaskCancelledError]
        assert outcomes(ray, actor.count_to.remote(2)) == [0, 1]
    ray.kill(actor)


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_death_in_the_middle_is_the_last_item(ray: Any, kind: Any, tmp_path: Path, restarts: int) -> None:
    actor = kind.options(max_restarts=restarts).remote()
    generator = actor.dies.remote(tmp_path / "read")
    assert ray.get(next(generator)) == 1
    (tmp_path / "read").touch()
    assert outcomes(ray, generator) == [ActorUnavailableError if restarts else ActorDiedError]
    with pytest.raises(StopIteration):
        next(generator)


def test_what_was_yielded_before_a_death_is_not_lost(ray: Any, kind: Any) -> None:
    generators = [kind.remote().says_much_and_dies.remote() for _ in range(8)]
    assert [outcomes(ray, one) for one in generators] == [[0, 1, 2, 3, 4, ActorDiedError]] * 8


def test_handles_in_tasks_read_streams_in_threads(ray: Any, actor: Any) -> None:
    @ray.remote
    def total(actor: Any) -> int:
        found: list[int] = []

        def read() -> None:
            found.extend([ray.get(ref) for ref in actor.count_to.remote(100)])

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return sum(found)

    assert ray.get(total.remote(actor), timeout=60) == 2 * 4950


def test_a_paused_producer_whose_reader_died_ends(ray: Any, tmp_path: Path) -> None:
    class Source:
        async def endless(self) -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
            finally:
                (tmp_path / "closed").touch()

    @ray.remote(max_retries=0)
    def reads_and_dies(source: Any) -> None:
        generator = source.endless.options(_generator_backpressure_num_objects=3).remote()
        ray.get(next(generator))
        os.kill(os.getpid(), signal.SIGKILL)

    source = ray.remote(Source).remote()
    assert outcome(ray, reads_and_dies.remote(source)) is not None
    wait_until((tmp_path / "closed").exists)
