"""The actor rows of Ray's microbenchmark. See micro_rows.py for the rules that all rows keep."""

from __future__ import annotations

import os
from typing import Any

from micro_measure import Feature, Row, Stopwatch

BATCH = 1000  # calls of one batch to one actor
MANY = 5000  # calls per actor, or per caller, in the rows with several of them
CALLERS = 4
# Ray takes half the cores. On two cores that is one actor, and "1:n" says nothing about n: so at least two.
SERVERS = max(2, (os.cpu_count() or 1) // 2)


def actor_sync(ray: Any, watch: Stopwatch) -> float:
    actor = _server(ray).remote()
    return watch.rate(lambda: ray.get(actor.small_value.remote()))


def actor_async(ray: Any, watch: Stopwatch) -> float:
    return _batches(ray, watch, _server(ray).remote())


def actor_concurrent(ray: Any, watch: Stopwatch) -> float:
    return _batches(ray, watch, _server(ray).options(max_concurrency=16).remote())


def actor_1_n(ray: Any, watch: Stopwatch) -> float:
    return _one_to_n(ray, watch, _server(ray))


def actor_n_n(ray: Any, watch: Stopwatch) -> float:
    return _n_to_n(ray, watch, _server(ray))


def actor_n_n_arg(ray: Any, watch: Stopwatch) -> float:
    """Each caller puts one value, and passes its ref to every call."""
    clients = [_client(ray).remote([_server(ray).remote()]) for _ in range(SERVERS)]
    return watch.rate(lambda: ray.get([c.call_batch_arg.remote(BATCH) for c in clients]), SERVERS * BATCH)


def async_actor_sync(ray: Any, watch: Stopwatch) -> float:
    actor = _async_server(ray).remote()
    return watch.rate(lambda: ray.get(actor.small_value.remote()))


def async_actor_async(ray: Any, watch: Stopwatch) -> float:
    return _batches(ray, watch, _async_server(ray).remote())


def async_actor_arg(ray: Any, watch: Stopwatch) -> float:
    actor = _async_server(ray).remote()
    return watch.rate(lambda: ray.get([actor.small_value_arg.remote(i) for i in range(BATCH)]), BATCH)


def async_actor_1_n(ray: Any, watch: Stopwatch) -> float:
    return _one_to_n(ray, watch, _async_server(ray))


def async_actor_n_n(ray: Any, watch: Stopwatch) -> float:
    return _n_to_n(ray, watch, _async_server(ray))


def _batches(ray: Any, watch: Stopwatch, actor: Any) -> float:
    return watch.rate(lambda: ray.get([actor.small_value.remote() for _ in range(BATCH)]), BATCH)


def _one_to_n(ray: Any, watch: Stopwatch, server: Any) -> float:
    client = _client(ray).remote([server.remote() for _ in range(SERVERS)])
    return watch.rate(lambda: ray.get(client.call_batch.remote(MANY)), MANY * SERVERS)


def _n_to_n(ray: Any, watch: Stopwatch, server: Any) -> float:
    servers = [server.remote() for _ in range(SERVERS)]

    def call_in_turn(actors: list[Any]) -> None:
        ray.get([actors[i % len(actors)].small_value.remote() for i in range(MANY)])

    task = ray.remote(call_in_turn)
    return watch.rate(lambda: ray.get([task.remote(servers) for _ in range(CALLERS)]), CALLERS * MANY)


def _server(ray: Any) -> Any:
    class Server:
        def small_value(self) -> bytes:
            return b"ok"

        def small_value_arg(self, _value: int) -> bytes:
            return b"ok"

    return ray.remote(num_cpus=0)(Server)


def _async_server(ray: Any) -> Any:
    class AsyncServer:
        async def small_value(self) -> bytes:
            return b"ok"

        async def small_value_arg(self, _value: int) -> bytes:
            return b"ok"

    return ray.remote(AsyncServer)


def _client(ray: Any) -> Any:
    class Client:
        def __init__(self, servers: list[Any]) -> None:
            self.servers = servers

        def call_batch(self, count: int) -> None:
            ray.get([server.small_value.remote() for server in self.servers for _ in range(count)])

        def call_batch_arg(self, count: int) -> None:
            value = ray.put(0)
            ray.get([server.small_value_arg.remote(value) for server in self.servers for _ in range(count)])

    return ray.remote(num_cpus=0)(Client)


_THREADED = (Feature.THREADED_ACTORS,)
_ASYNC = (Feature.ASYNC_ACTORS,)

ACTOR_ROWS = (
    Row("actor_sync", "1:1 actor calls sync", actor_sync),
    Row("actor_async", "1:1 actor calls async", actor_async),
    Row("actor_concurrent", "1:1 actor calls concurrent", actor_concurrent, needs=_THREADED),
    Row("actor_1_n", "1:n actor calls async", actor_1_n),
    Row("actor_n_n", "n:n actor calls async", actor_n_n),
    Row("actor_n_n_arg", "n:n actor calls with arg async", actor_n_n_arg),
    Row("async_actor_sync", "1:1 async-actor calls sync", async_actor_sync, needs=_ASYNC),
    Row("async_actor_async", "1:1 async-actor calls async", async_actor_async, needs=_ASYNC),
    Row("async_actor_arg", "1:1 async-actor calls with args async", async_actor_arg, needs=_ASYNC),
    Row("async_actor_1_n", "1:n async-actor calls async", async_actor_1_n, needs=_ASYNC),
    Row("async_actor_n_n", "n:n async-actor calls async", async_actor_n_n, needs=_ASYNC),
)
