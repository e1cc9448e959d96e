"""Rows that Ray's microbenchmark does not have: what a session costs, actor creation, and larger values."""

from __future__ import annotations

import statistics
import time
from typing import Any

from micro_measure import Absent, Row, Stopwatch
from micro_session import start

ACTORS = 10  # created at once
MANY_ACTORS = 1000
ITEMS = 1000  # of one stream
MEGABYTE = 128 * 1024  # float64 values
PUT_VALUES = 32 * 1024 * 1024  # float64 values of one large put: 268 MB, which every store on a laptop holds
UNTIMED_PUTS = 3
WARM_PUTS = 9


def init_to_result(ray: Any, watch: Stopwatch) -> float:
    """Seconds from the call of init (the import is done) until the first task's value is here."""

    def first() -> int:
        return 1

    begun = time.perf_counter()
    start(ray)
    ray.get(ray.remote(first).remote())
    return time.perf_counter() - begun


def shutdown(ray: Any, watch: Stopwatch) -> float:
    """Seconds that shutdown takes to return, in a session that ran a task and holds an actor."""

    class Idle:
        def ready(self) -> bool:
            return True

    start(ray)
    actor = ray.remote(num_cpus=0)(Idle).remote()
    ray.get(actor.ready.remote())
    begun = time.perf_counter()
    ray.shutdown()
    return time.perf_counter() - begun


def actors_created(ray: Any, watch: Stopwatch) -> float:
    """Actors per second, from the order until each has answered a call. Killing them is not in the clock."""

    class Fresh:
        def ready(self) -> bool:
            return True

    factory = ray.remote(num_cpus=0)(Fresh)

    def create() -> float:
        begun = time.perf_counter()
        actors = [factory.remote() for _ in range(ACTORS)]
        ray.get([actor.ready.remote() for actor in actors])
        seconds = time.perf_counter() - begun
        for actor in actors:
            ray.kill(actor)
        return seconds

    return watch.rate_of_timed_part(create, ACTORS)


def thousand_actors(ray: Any, watch: Stopwatch) -> float:
    """Seconds until a thousand actors, all alive at once, have each answered a call."""
    if ray.__name__ == "ray":
        raise Absent("an idle process of Ray holds about 150 MB, and its actors have one each: 1,000 do not fit here")

    class Fresh:
        def __init__(self, number: int) -> None:
            self.number = number

        def value(self) -> int:
            return self.number

    factory = ray.remote(num_cpus=0)(Fresh)
    begun = time.perf_counter()
    actors = [factory.remote(number) for number in range(MANY_ACTORS)]
    if ray.get([actor.value.remote() for actor in actors]) != list(range(MANY_ACTORS)):
        raise RuntimeError("not every actor answered with its own number")
    return time.perf_counter() - begun


def stream_of_task(ray: Any, watch: Stopwatch) -> float:
    """Items per second that a streaming task yields and its caller gets, one after the other."""

    def count() -> Any:
        for number in range(ITEMS):
            yield 2 * number  # not `yield from`: Ray cannot, from what is no generator

    task = ray.remote(num_returns="streaming")(count)
    return watch.rate(lambda: _read_all(ray, task.remote()), ITEMS)


def stream_of_actor(ray: Any, watch: Stopwatch) -> float:
    """The same from a method of an actor."""

    class Counter:
        def count(self) -> Any:
            for number in range(ITEMS):
                yield 2 * number

    actor = ray.remote(num_cpus=0)(Counter).remote()
    return watch.rate(lambda: _read_all(ray, actor.count.options(num_returns="streaming").remote()), ITEMS)


def _read_all(ray: Any, stream: Any) -> None:
    last = [ray.get(ref) for ref in stream][-1]
    if last != 2 * (ITEMS - 1):
        raise RuntimeError(f"the last of {ITEMS} items was {last}")


def put_megabyte(ray: Any, watch: Stopwatch) -> float:
    """As Ray's small puts, with a value that goes to shared memory in both systems."""
    import numpy as np

    array = np.ones(MEGABYTE)
    return watch.rate(lambda: ray.put(array))


def get_megabyte(ray: Any, watch: Stopwatch) -> float:
    import numpy as np

    ref = ray.put(np.ones(MEGABYTE))
    return watch.rate(lambda: ray.get(ref))


def put_large_cold(ray: Any, watch: Stopwatch) -> float:
    """The first large put of a session: its pages of the store were never touched."""
    return _timed_put(ray, _large_array(ray))


def put_large_warm(ray: Any, watch: Stopwatch) -> float:
    """The median of the puts that follow, each after the one before it was released."""
    array = _large_array(ray)
    for _ in range(UNTIMED_PUTS):
        _timed_put(ray, array)
    return statistics.median(_timed_put(ray, array) for _ in range(WARM_PUTS))


def _large_array(ray: Any) -> Any:
    import numpy as np

    ray.get(ray.put(0))  # whatever the very first put sets up is not what these rows are about
    return np.ones(PUT_VALUES)  # ones, not zeros: untouched zeros are one page, read from the processor's cache


def _timed_put(ray: Any, array: Any) -> float:
    begun = time.perf_counter()
    ref = ray.put(array)
    seconds = time.perf_counter() - begun
    del ref
    time.sleep(0.2)  # the release travels to the store
    return float(array.nbytes / 1e9 / seconds)


EXTRA_ROWS = (
    Row("actors_created", "actors created", actors_created, extra=True),
    Row("thousand_actors", "1,000 actors created and called", thousand_actors, "s", extra=True),
    Row("stream_of_task", "items of a streaming task", stream_of_task, extra=True),
    Row("stream_of_actor", "items of an actor's stream", stream_of_actor, extra=True),
    Row("put_megabyte", "put calls of 1 MB", put_megabyte, extra=True),
    Row("get_megabyte", "get calls of 1 MB", get_megabyte, extra=True),
    Row("put_large_cold", "first put of 268 MB", put_large_cold, "GB/s", extra=True),
    Row("put_large_warm", "later put of 268 MB", put_large_warm, "GB/s", extra=True),
    Row("init_to_result", "init to first result", init_to_result, "s", extra=True, starts_session=True),
    Row("shutdown", "shutdown", shutdown, "s", extra=True, starts_session=True),
)
