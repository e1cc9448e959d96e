"""`RayExecutor`: `concurrent.futures` on tasks. (Ray has no such thing.)"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from sparkray.api import remote
from sparkray.session import core
from sparkray_core.errors import RaySystemError
from sparkray_core.run.object_ref import ObjectRef

P = ParamSpec("P")
T = TypeVar("T")


class _Work:
    """One submission."""

    __slots__ = ("args", "fn", "future", "kwargs", "ref")

    def __init__(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.future: Future[Any] = Future()
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.ref: ObjectRef[Any] | None = None


class RayExecutor(Executor):
    """Each submission is a task. A future can be cancelled as long as its task was not handed in.

    References among the arguments are replaced by their values, as with any task.

    Args:
        max_workers: tasks handed in at a time; None leaves it to the cluster, and hands in all at once.
        ray_remote_args: options of the tasks.
    """

    def __init__(self, max_workers: int | None = None, *, ray_remote_args: Mapping[str, Any] | None = None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._core = core()
        self._call: Any = remote(_call).options(**(ray_remote_args or {}))
        self._most = max_workers
        self._lock = threading.Lock()
        self._line: deque[_Work] = deque()
        self._under_way = 0
        self._is_shut = False
        self._done: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()  # None: have a look whether it is the end
        self._thread = threading.Thread(target=self._serve, name="sparkray-executor", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn(*args, **kwargs)` called.

        Raises:
            RuntimeError: after `shutdown`.
            RaySystemError: after the end of the session.
            TypeError: something cannot be pickled. For work that waits for others, the future raises it.
        """
        work = _Work(fn, args, kwargs)
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if self._core.owner.ended is not None:
                raise RaySystemError(f"the sparkray session of this executor ended: {self._core.owner.ended}")
            if self._most is None or self._under_way < self._most:
                self._hand_in(work)
            else:
                self._line.append(work)
        return work.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; what was submitted is done, unless it is cancelled."""
        with self._lock:
            self._is_shut = True
            dropped = list(self._line) if cancel_futures else []
            if cancel_futures:
                self._line.clear()
        for work in dropped:
            work.future.cancel()
            work.future.set_running_or_notify_cancel()
        self._done.put(None)
        if wait:
            self._thread.join()

    def _hand_in(self, work: _Work) -> None:
        if not work.future.set_running_or_notify_cancel():
            return
        ref = work.ref = self._call.remote(work.fn, *work.args, **work.kwargs)
        work.fn = work.args = work.kwargs = None  # type: ignore[assignment]
        self._under_way += 1
        self._core.notify(ref._entry, partial(self._done.put, work))

    # ------------------------------------------------------------------ the thread
    def _serve(self) -> None:
        while not (self._is_shut and not self._under_way and not self._line):
            work = self._done.get()
            if work is not None:
                self._settle(work)

    def _settle(self, work: _Work) -> None:
        assert work.ref is not None
        with self._lock:  # before the future's callbacks, which may take long
            self._under_way -= 1
            failed = self._hand_in_next()
        try:
            value = self._core.get([work.ref._entry], None)[0]
        except Exception as error:  # noqa: BLE001 - whatever the task raised belongs to the future
            work.future.set_exception(error)
        else:
            work.future.set_result(value)
        for other, why in failed:
            other.future.set_exception(why)

    def _hand_in_next(self) -> list[tuple[_Work, Exception]]:
        """The next in line that can be; those before it that cannot are returned."""
        failed: list[tuple[_Work, Exception]] = []
        before = self._under_way
        while self._line and self._under_way == before:
            work = self._line.popleft()
            why = self._try_to_hand_in(work)
            if why is not None:
                failed.append((work, why))
        return failed

    def _try_to_hand_in(self, work: _Work) -> Exception | None:
        if self._core.owner.ended is not None:  # a call would start another session
            return RaySystemError(f"the sparkray session of this executor ended: {self._core.owner.ended}")
        try:
            self._hand_in(work)
        except Exception as error:  # noqa: BLE001 - the user's __reduce__ runs in there
            return error
        return None


def _call(fn: Any, /, *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)
