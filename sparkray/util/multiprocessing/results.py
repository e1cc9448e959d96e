"""What the calls of a pool return: a result to wait for, or an iterator of results."""

from __future__ import annotations

import itertools
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from multiprocessing import TimeoutError
from typing import Any

from sparkray.api import put
from sparkray.util.multiprocessing.crew import Chunk, Crew
from sparkray.util.multiprocessing.pool_actor import ONE


class AsyncResult:
    """The result of `apply_async`, or the results of `map_async`, once they are there."""

    def __init__(
        self,
        chunks: int,
        callback: Callable[[Any], object] | None = None,
        error_callback: Callable[[Any], object] | None = None,
        single: bool = False,
    ) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._single = single
        self._chunks: list[Chunk | None] = [None] * chunks  # those that are done
        self._missing = chunks
        self._failed = False  # a chunk came that has an error
        self._done = threading.Event()
        self._lock = threading.Lock()  # guards `_values`
        self._values: list[Any] | None = None
        self._error: BaseException | None = None  # the first in order; known once the values are
        if not chunks:
            if callback is not None:
                callback([])
            self._done.set()

    def wait(self, timeout: float | None = None) -> None:
        """Return when it is there, or after `timeout` seconds."""
        self._done.wait(timeout)

    def ready(self) -> bool:
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether no call raised. Raises `ValueError` while that is not known."""
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return not self._failed

    def get(self, timeout: float | None = None) -> Any:
        """The result; of a map, the list of results in order.

        Raises:
            multiprocessing.TimeoutError: not there within `timeout` seconds.
            Exception: what the call raised; of a map, the first in order.
            RayError: the actor died, or a result cannot be sent.
        """
        if not self._done.wait(timeout):
            raise TimeoutError
        values = self._load()
        if self._error is not None:
            raise self._error
        return values[0] if self._single else values

    def chunk_done(self, chunk: Chunk) -> None:
        """Called in the pool's thread."""
        self._chunks[chunk.index] = chunk
        self._missing -= 1
        try:
            if chunk.failed:
                self._fail(chunk.first_error(chunk.values()))
            if not self._missing and not self._failed and self._callback is not None:
                values = self._load()
                if self._error is None:
                    self._callback(values[0] if self._single else values)
                else:  # it was sent well, but cannot be unpickled here
                    self._fail(self._error)
        finally:
            if not self._missing:
                self._done.set()

    def _fail(self, error: BaseException | None) -> None:
        if not self._failed:
            self._failed = True
            if self._error_callback is not None:
                self._error_callback(error)

    def _load(self) -> list[Any]:
        """All values; the first error among them is noted."""
        with self._lock:
            if self._values is None:
                self._values = []
                for chunk in self._chunks:
                    assert chunk is not None
                    values = chunk.values()
                    if self._error is None:
                        self._error = chunk.first_error(values)
                    self._values += values
                self._chunks = []
            return self._values


class IMapIterator:
    """The results of `imap`. Submits as many chunks as keep the actors busy, and one for each that is taken."""

    def __init__(self, crew: Crew, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int) -> None:
        self._crew = crew
        self._func = func
        self._stored = put(func)  # pickled once
        self._items = iter(iterable)
        self._chunksize = chunksize
        self._exhausted = False
        self._submitted = 0  # chunks
        self._taken = 0
        self._came: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        self._ready: deque[Any] = deque()  # results of chunks that were taken
        crew.feed()
        self._fed = weakref.finalize(self, crew.fed)
        self._fed.atexit = False
        self._feed()

    def chunk_done(self, chunk: Chunk) -> None:
        """Called in the pool's thread."""
        self._came.put(chunk)

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next result; what a call raised is one too, as a `PoolTaskError`.

        Raises:
            StopIteration: there are no more.
            multiprocessing.TimeoutError: none came within `timeout` seconds.
            ValueError: the pool was terminated, and what was under way has been taken.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ready:
            if self._taken == self._submitted:
                if not self._exhausted:
                    self._crew.check_running()
                raise StopIteration
            chunk = self._next_chunk(deadline)
            self._taken += 1
            if not self._crew.is_over:
                self._feed()
            self._ready.extend(chunk.values())
        return self._ready.popleft()

    def _next_chunk(self, deadline: float | None) -> Chunk:
        raise NotImplementedError

    def _wait_chunk(self, deadline: float | None) -> Chunk:
        try:
            return self._came.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None

    def _feed(self) -> None:
        most = self._crew.appetite(self._func)
        while not self._exhausted and self._submitted - self._taken < most:
            items = list(itertools.islice(self._items, self._chunksize))
            if len(items) < self._chunksize:
                self._exhausted = True
            if items:
                self._crew.submit(Chunk(self, self._submitted, self._func, ONE, items, self._stored))
                self._submitted += 1
        if self._exhausted:
            self._fed()


class OrderedIMapIterator(IMapIterator):
    """Results in the order of the items."""

    def __init__(self, crew: Crew, func: Callable[[Any], Any], iterable: Iterable[Any], chunksize: int) -> None:
        self._early: dict[int, Chunk] = {}
        super().__init__(crew, func, iterable, chunksize)

    def _next_chunk(self, deadline: float | None) -> Chunk:
        while self._taken not in self._early:
            chunk = self._wait_chunk(deadline)
            self._early[chunk.index] = chunk
        return self._early.pop(self._taken)


class UnorderedIMapIterator(IMapIterator):
    """Results in the order in which their chunks are done."""

    def _next_chunk(self, deadline: float | None) -> Chunk:
        return self._wait_chunk(deadline)
