"""`ActorPool`: work for a fixed set of actors, each of which does one thing at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from sparkray.actor_handle import ActorHandle
from sparkray.api import get, wait
from sparkray.session import core
from sparkray_core.errors import ActorDiedError
from sparkray_core.run.completions import Completions
from sparkray_core.run.object_ref import ObjectRef

V = TypeVar("V")

Call = Callable[[ActorHandle, V], Any]


class _Job:
    """One submitted value: given to an actor, or failed before it could be."""

    __slots__ = ("actor", "error", "future", "index", "missing")

    def __init__(self, index: int, actor: ActorHandle | None, future: Any, error: BaseException | None = None) -> None:
        self.index = index
        self.actor = actor
        self.future = future  # an ObjectRef, or a list of them (a method of several returns)
        self.error = error
        self.missing = len(self.refs)

    @property
    def refs(self) -> list[ObjectRef[Any]]:
        if self.future is None:
            return []
        return self.future if isinstance(self.future, list) else [self.future]


class ActorPool:
    """Hands values to whichever of its actors is free; those for which none is free wait in line.

    `fn(actor, value)` returns the reference of a call: `lambda actor, value: actor.double.remote(value)`. An actor that
    died leaves the pool. For one thread at a time.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: list[ActorHandle] = list(actors)  # used from the end
        self._line: deque[tuple[Call[Any], Any]] = deque()
        self._jobs: dict[int, _Job] = {}
        self._job_of: dict[ObjectRef[Any], _Job] = {}
        self._failed: deque[_Job] = deque()  # of the jobs, those that never got to an actor
        self._bag = Completions(core())
        self._next_index = 0
        self._next_return = 0

    # ------------------------------------------------------------------ all at once
    def map(self, fn: Call[V], values: Iterable[V]) -> Iterator[Any]:
        """The results of `fn` for each value, in the order of the values, as they are asked for.

        Results of earlier submissions that nobody took are dropped. After an error the pool still has what was behind
        it: go on with `get_next`.
        """
        self._drop_all()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call[V], values: Iterable[V]) -> Iterator[Any]:
        """As `map`, in the order in which the results come."""
        self._drop_all()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next_unordered)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    # ------------------------------------------------------------------ one by one
    def submit(self, fn: Call[V], value: V) -> None:
        """Give the value to a free actor now, or to the next one that gets free."""
        if not self._idle:
            self._line.append((fn, value))
            return
        actor = self._idle.pop()
        try:
            future = _call(fn, actor, value)
        except BaseException:
            self._idle.append(actor)
            raise
        self._add(actor, future)

    def has_next(self) -> bool:
        """Whether there are results to come."""
        return bool(self._jobs or self._line)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of submission.

        Args:
            timeout: seconds.
            ignore_if_timedout: give the result up; its actor is free again for the pool, though it may still be busy.

        Raises:
            TimeoutError: it is not there yet.
            StopIteration: there are no results to come.
            ValueError: `get_next_unordered` has taken the last one in order.
            ActorDiedError: the actor died; or no actor is left for this value.
        """
        self._check_next()
        if self._next_return >= self._next_index:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        job = self._jobs[self._next_return]
        if timeout is not None and job.error is None:
            _, late = wait(job.refs, num_returns=len(job.refs), timeout=timeout)
            if late:
                raise self._timed_out(job, ignore_if_timedout)
        return self._finish(job)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result that comes first. Arguments and errors as with `get_next`; what is given up is the oldest."""
        self._check_next()
        job = self._next_done(timeout)
        if job is None:
            raise self._timed_out(next(iter(self._jobs.values())), ignore_if_timedout)
        return self._finish(job)

    # ------------------------------------------------------------------ the actors
    def has_free(self) -> bool:
        """Whether a value would be given to an actor at once."""
        return bool(self._idle) and not self._line

    def pop_idle(self) -> ActorHandle | None:
        """Take a free actor out of the pool; None if there is none."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Add an actor. Raises `ValueError` if it is in the pool."""
        if actor in self._idle or any(job.actor is actor for job in self._jobs.values()):
            raise ValueError("Actor already belongs to current ActorPool")
        self._free(actor)

    # ------------------------------------------------------------------ inside
    def _add(self, actor: ActorHandle | None, future: Any, error: BaseException | None = None) -> None:
        job = self._jobs[self._next_index] = _Job(self._next_index, actor, future, error)
        self._next_index += 1
        if error is not None:
            self._failed.append(job)
        for ref in job.refs:
            self._job_of[ref] = job
            self._bag.add(ref)

    def _free(self, actor: ActorHandle, soon: bool = True) -> None:
        """The actor can take a value.

        Args:
            soon: before the other free ones. An actor whose job was given up may still be at it.
        """
        while self._line:
            fn, value = self._line.popleft()
            try:
                future = _call(fn, actor, value)
            except Exception as error:  # noqa: BLE001 - the user's function; whoever asks for this result gets it
                self._add(None, None, error)
            else:
                self._add(actor, future)
                return
        self._idle.insert(len(self._idle) if soon else 0, actor)

    def _check_next(self) -> None:
        if not self.has_next():
            raise StopIteration("No more results to get")
        if not self._jobs:  # all actors died with values still in line: one answer for each
            self._line.popleft()
            raise ActorDiedError(f"no actor of the pool is alive; {len(self._line)} further values wait for one")

    def _next_done(self, timeout: float | None) -> _Job | None:
        if self._failed:
            return self._failed[0]
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ref := self._bag.next(timeout)) is not None:
            job = self._job_of.pop(ref)
            job.missing -= 1
            if not job.missing:
                return job
            if deadline is not None:
                timeout = max(0.0, deadline - time.monotonic())
        return None

    def _timed_out(self, job: _Job, ignore: bool) -> TimeoutError:
        if not ignore:
            return TimeoutError("Timed out waiting for result")
        self._forget(job)
        assert job.actor is not None
        self._free(job.actor, soon=False)
        return TimeoutError(f"Timed out waiting for result. The task {job.future} has been ignored.")

    def _finish(self, job: _Job) -> Any:
        if job.error is not None:
            self._forget(job)
            raise job.error
        assert job.actor is not None
        try:
            value = get(job.future)
        except ActorDiedError:
            self._forget(job)
            raise
        except Exception:  # not Ctrl-C: then the result is still to come
            self._forget(job)
            self._free(job.actor)
            raise
        self._forget(job)
        self._free(job.actor)
        return value

    def _forget(self, job: _Job) -> None:
        del self._jobs[job.index]
        self._next_return = max(self._next_return, job.index + 1)
        if job.error is not None:
            self._failed.remove(job)
        for ref in job.refs:
            self._job_of.pop(ref, None)
            self._bag.discard(ref)

    def _drop_all(self) -> None:
        """Take no result of what was submitted. It runs all the same."""
        while self._jobs:
            job = next(iter(self._jobs.values()))
            self._forget(job)
            if job.actor is not None:
                self._free(job.actor, soon=False)


def _call(fn: Call[V], actor: ActorHandle, value: V) -> Any:
    future = fn(actor, value)
    refs = future if isinstance(future, list) else [future]
    if not refs or any(type(ref) is not ObjectRef for ref in refs):
        raise TypeError(f"fn(actor, value) must return what the actor's method.remote() returned, not {future!r}")
    return future
