"""`Pool`: `multiprocessing.Pool` whose processes are actors."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from sparkray import session
from sparkray.api import cluster_resources, put
from sparkray.util.multiprocessing.crew import Chunk, Crew
from sparkray.util.multiprocessing.pool_actor import CALL, ONE, STAR, PoolTaskError, RemotePoolActor
from sparkray.util.multiprocessing.results import (
    AsyncResult,
    IMapIterator,
    OrderedIMapIterator,
    UnorderedIMapIterator,
)

log = logging.getLogger(__name__)

CHUNKS_PER_PROCESS = 4  # of a `map` without chunksize, as with multiprocessing
LAST_PER_PROCESS = 8 * CHUNKS_PER_PROCESS  # towards its end a chunk is smaller, but so many would be enough for all

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "OrderedIMapIterator",
    "Pool",
    "PoolTaskError",
    "UnorderedIMapIterator",
]

Callback = Callable[[Any], object]


class Pool:
    """A pool of actors under the interface of `multiprocessing.Pool`.

    Arguments are pickled when a method is called. An actor that dies takes what it had with it, and is replaced.

    Args:
        processes: actors; as many as the cluster has CPUs if not given. They hold no CPU.
        initializer: called with `initargs` in each actor when it starts.
        maxtasksperchild: an actor is replaced after so many chunks. A call of `apply` is a chunk.
        context: for multiprocessing's sake; ignored with a warning.
        ray_address: of the session to join, if there is none yet; as with `sparkray.init(address=...)`.
        ray_remote_args: options of the actors.

    Raises:
        ValueError: fewer than 1 process, or more than the cluster has CPUs.
        ActorDiedError: the initializer raised.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: Mapping[str, Any] | None = None,
    ) -> None:
        if context is not None:
            log.warning("the 'context' of a Pool is ignored: its processes are actors")
        if processes is not None and processes <= 0:
            raise ValueError("Processes in the pool must be >0.")
        _ensure_session(processes, ray_address)
        cpus = int(cluster_resources().get("CPU", 0))
        if processes is None:
            processes = max(cpus, 1)
        elif processes > cpus:
            raise ValueError(
                f"Tried to start a pool with {processes} processes on an existing cluster, but there are only {cpus} "
                f"CPUs in the cluster."
            )
        actor_class = RemotePoolActor.options(**(ray_remote_args or {}))
        self._crew = Crew(processes, actor_class, initializer, initargs, maxtasksperchild)
        self._closed = False
        weakref.finalize(self, self._crew.close).atexit = False  # at exit the session ends anyhow

    # ------------------------------------------------------------------ one call
    def apply(
        self, func: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func(*args, **kwargs)` in one of the actors."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `apply`, without waiting.

        Args:
            callback: called with the result, in a thread of the pool; it holds up other results while it runs.
            error_callback: called with the exception instead.
        """
        self._check_running()
        result = AsyncResult(1, callback, error_callback, single=True)
        self._crew.submit(Chunk(result, 0, func, CALL, [(tuple(args or ()), dict(kwargs or {}))]))
        return result

    # ------------------------------------------------------------------ many calls
    def map(self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """`[func(item) for item in iterable]`.

        Args:
            chunksize: items that go to an actor at a time. If not given, a quarter of an actor's share, and smaller
                chunks towards the end.
        """
        return self._map_async(func, ONE, iterable, chunksize, None, None).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[[Any], Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
    ) -> AsyncResult:
        """As `map`, without waiting.

        Args:
            callback: called with the list of results, in order, when all are there and none is an error.
            error_callback: called with the first exception that comes, once.
        """
        return self._map_async(func, ONE, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """`[func(*item) for item in iterable]`; otherwise as `map`."""
        return self._map_async(func, STAR, iterable, chunksize, None, None).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        chunksize: int | None = None,
    ) -> AsyncResult:
        """As `starmap`, without waiting; callbacks as with `map_async`."""
        return self._map_async(func, STAR, iterable, chunksize, callback, error_callback)

    def imap(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> OrderedIMapIterator:
        """The results of `map` one by one, in order; items are taken as results are.

        What a call raised is among the results, as a `PoolTaskError`: it is not raised.
        """
        self._check_running()
        return OrderedIMapIterator(self._crew, func, iterable, self._chunksize(iterable, chunksize))

    def imap_unordered(
        self, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> UnorderedIMapIterator:
        """As `imap`, in the order in which the chunks are done."""
        self._check_running()
        return UnorderedIMapIterator(self._crew, func, iterable, self._chunksize(iterable, chunksize))

    def _map_async(
        self,
        func: Callable[..., Any],
        how: int,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callback | None,
        error_callback: Callback | None,
    ) -> AsyncResult:
        self._check_running()
        items = list(iterable)
        size = self._chunksize(items, chunksize)
        tapers = chunksize is None and self._crew.evens_out
        even = [size] * -(-len(items) // size)  # the last one has what is left
        sizes = tapering(len(items), self._crew.size, size) if tapers else even
        result = AsyncResult(len(sizes), callback, error_callback, single=False)
        stored = put(func) if len(sizes) > 1 else None  # pickled once
        least = min(sizes, default=0)
        start = 0
        for index, size in enumerate(sizes):
            together = tapers and size > 2 * least  # the last ones go to whoever is free then
            self._crew.submit(Chunk(result, index, func, how, items[start : start + size], stored, together))
            start += size
        return result

    def _chunksize(self, iterable: Iterable[Any], asked: int | None) -> int:
        if asked is not None:
            if asked < 1:
                raise ValueError(f"Chunksize must be 1+, not {asked}")
            return int(asked)
        try:
            items = len(iterable)  # type: ignore[arg-type]
        except TypeError:
            return 1
        return max(1, -(-items // (self._crew.size * CHUNKS_PER_PROCESS)))

    # ------------------------------------------------------------------ the end
    def close(self) -> None:
        """Take no more calls. What was submitted is done, then the actors end."""
        if not self._closed:
            self._closed = True
            self._crew.close()

    def terminate(self) -> None:
        """Take no more calls and kill the actors: what is not done fails with `ActorDiedError`."""
        self._closed = True
        self._crew.terminate()

    def join(self) -> None:
        """Wait for the end that `close` or `terminate` began. Raises `ValueError` before either."""
        if not self._closed:
            raise ValueError("Pool is still running")
        self._crew.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    # ------------------------------------------------------------------ how it is
    @property
    def processes(self) -> int:
        return self._crew.size

    def wait_idle(self, timeout: float) -> bool:
        """Wait at most so many seconds until all that was submitted is done; whether it is."""
        return self._crew.wait_idle(timeout)

    @property
    def is_sound(self) -> bool:
        """It takes calls, and all its actors are alive as far as is known."""
        return not self._closed and self._crew.is_sound

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")
        self._crew.check_running()


def tapering(items: int, processes: int, most: int) -> list[int]:
    """The sizes of chunks, of which a process that is free takes the next.

    At most `most` items, and towards the end a share of what is left, so that all end at about the same time: guided
    self-scheduling (Polychronopoulos and Kuck, IEEE Trans. Computers C-36, 1987), with two thirds of an even share.
    """
    least = max(1, items // (processes * LAST_PER_PROCESS))
    sizes: list[int] = []
    while items > 0:
        sizes.append(min(items, most, max(least, -(-2 * items // (3 * processes)))))
        items -= sizes[-1]
    return sizes


def _ensure_session(processes: int | None, address: str | None) -> None:
    if session.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        session.init(num_cpus=processes)
    elif address == "local":
        session.init(address=address, num_cpus=processes)
    else:
        session.init(address=address)
