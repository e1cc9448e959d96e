"""The actors of a pool: which of them gets the next chunk, and the thread that hears of those that are done.

A chunk goes to the actor with the fewest, unless all have as many as they should: then it waits in line, so that no
actor idles while another has a queue. An actor should have one chunk, and of very short ones some more, which hides the
way there and back. Of a map that waits for all of its chunks one may wait behind another, if they do not take long.

When the session ends everything that is under way fails. From then on nothing here may call the public API, which would
start another session.
"""

from __future__ import annotations

import functools
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any, Protocol

from sparkray.actor_class import ActorClass
from sparkray.actor_handle import ActorHandle
from sparkray.api import get, kill, put, wait
from sparkray.session import core
from sparkray.util.multiprocessing.pool_actor import PoolActor, PoolTaskError
from sparkray_core.errors import ActorDiedError, RayActorError, RayError, RaySystemError
from sparkray_core.run.core import Core
from sparkray_core.run.object_ref import ObjectRef

log = logging.getLogger(__name__)

AHEAD_S = 0.002  # seconds of work that an actor should have beyond the chunk that it runs
BEHIND_S = 0.5  # chunks of at most so many seconds may wait behind another one of their map
MOST_AHEAD = 8  # chunks; what is behind a long one waits, even if another actor gets free
FADING = 0.9  # of the longest duration seen, with each chunk
DEATH_LIMIT_S = 5.0  # how long `join` waits for idle actors to end


class Listener(Protocol):
    """Who wants to hear that a chunk is done."""

    def chunk_done(self, chunk: Chunk) -> None:
        """Called in the crew's thread, once for each chunk."""


class Chunk:
    """Some items of one call to the pool."""

    __slots__ = (
        "core",
        "error",
        "failed",
        "function",
        "how",
        "index",
        "items",
        "kind",
        "listener",
        "results",
        "size",
        "slot",
        "status",
        "together",
    )

    def __init__(
        self,
        listener: Listener,
        index: int,
        function: Any,
        how: int,
        items: list[Any],
        stored: ObjectRef[Any] | None = None,
        together: bool = False,
    ) -> None:
        """
        Args:
            stored: a reference to the function, to be sent in its place.
            together: it may wait behind another one: smaller ones come after it, and nobody sees its results before
                theirs.
        """
        self.listener = listener
        self.kind = _kind(function)
        self.index = index  # among the chunks of this call
        self.function = function if stored is None else stored
        self.how = how
        self.items: Any = items  # or a reference to them
        self.size = len(items)
        self.together = together
        self.core: Core | None = None  # once it was given to an actor
        self.slot: _Slot | None = None
        self.status: ObjectRef[Any] | None = None
        self.results: ObjectRef[Any] | None = None
        self.error: BaseException | None = None  # it did not run to its end
        self.failed = False  # done, and an item raised or all of it failed

    def values(self) -> list[Any]:
        """Once it is done: for each item its result, or `PoolTaskError`, or why the whole chunk failed."""
        if self.error is None:
            assert self.core is not None
            assert self.results is not None
            try:
                return self.core.get([self.results._entry], None)[0]  # type: ignore[no-any-return]
            except Exception as error:  # noqa: BLE001 - unpickling is user code; or they were lost with their node
                self.error = error
        return [self.error] * self.size

    def first_error(self, values: list[Any]) -> BaseException | None:
        """Of its `values`: what is to be raised, if anything."""
        if self.error is not None:
            return self.error
        errors = (value.to_raise() for value in values if isinstance(value, PoolTaskError))
        return next(errors, None) if self.failed else None


class _Slot:
    """One place in the crew."""

    __slots__ = ("actor", "given", "running")

    def __init__(self, actor: ActorHandle) -> None:
        self.actor = actor
        self.running = 0  # chunks that it was given and that are not done
        self.given = 0  # in its life


class Crew:
    """Thread-safe. Its thread ends, and its actors, when it is closed and everything is done."""

    def __init__(
        self,
        size: int,
        actor_class: ActorClass[PoolActor],
        initializer: Callable[..., Any] | None,
        initargs: Iterable[Any] | None,
        most_chunks: int | None,
    ) -> None:
        """
        Args:
            most_chunks: an actor is replaced after so many.
        """
        self._core = core()
        self._make = partial(actor_class.remote, initializer, initargs)
        self._most_chunks = most_chunks
        self._lock = threading.Lock()
        self._slots = [_Slot(self._make()) for _ in range(size)]
        self._line: deque[Chunk] = deque()
        self._longest_s: dict[Any, float] = {}  # of the recent chunks of a kind
        self._outstanding = 0  # chunks submitted and not done
        self._feeders = 0  # iterators that have not come to their end
        self._closed = False
        self._terminated = False
        self._quiet = threading.Condition(self._lock)  # nothing is outstanding any more
        self._events: queue.SimpleQueue[Chunk | Callable[[], None]] = queue.SimpleQueue()  # for the thread
        self._ended = False
        self._leaving: list[ObjectRef[None]] = []  # an answer from each actor that it ends
        get([slot.actor.ping.remote() for slot in self._slots])
        threading.Thread(target=self._serve, name="sparkray-pool", daemon=True).start()

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def evens_out(self) -> bool:
        """More chunks cost it little: none of them wears an actor out."""
        return self._most_chunks is None

    def appetite(self, function: Any) -> int:
        """Chunks of the function that it would like to have at a time."""
        with self._lock:
            return self.size * self._depth(_kind(function))

    @property
    def is_over(self) -> bool:
        """Nothing is run any more."""
        return self._terminated or self.ended_because is not None

    def check_running(self) -> None:
        """Raises `ValueError` after `terminate`, `RaySystemError` after the end of the session."""
        if self._terminated:
            raise ValueError("Pool not running")
        if self.ended_because is not None:
            raise RaySystemError(f"the sparkray session of this pool ended: {self.ended_because}")

    @property
    def ended_because(self) -> str | None:
        """Why the session is over, if it is."""
        return self._core.owner.ended

    def wait_idle(self, timeout: float | None) -> bool:
        with self._lock:
            return self._quiet.wait_for(lambda: not self._outstanding, timeout)

    @property
    def is_sound(self) -> bool:
        with self._lock:
            return self.ended_because is None and all(slot.actor._actor.state != "dead" for slot in self._slots)

    def submit(self, chunk: Chunk) -> None:
        """Raises `TypeError` when something in it cannot be pickled, and what `check_running` raises."""
        with self._lock:
            self.check_running()
            slot = self._free_slot(chunk)
            if slot is None:  # a snapshot: what the caller does to the items afterwards is not seen
                chunk.items = put(chunk.items)
                self._line.append(chunk)
            else:
                self._give(slot, chunk)
            self._outstanding += 1

    def feed(self) -> None:
        """Somebody will submit more chunks, also after `close`; until `fed`."""
        with self._lock:
            self._feeders += 1

    def fed(self) -> None:
        """Safe in a destructor."""
        self._events.put(self._one_feeder_less)

    def close(self) -> None:
        """What was submitted is done, then the actors end. Safe in a destructor."""
        self._events.put(self._close)

    def terminate(self) -> None:
        """Kill the actors. What is not done fails with `ActorDiedError`."""
        with self._lock:
            self._closed = self._terminated = True
            if self.ended_because is None:
                for slot in self._slots:
                    kill(slot.actor)
            line, self._line = self._line, deque()
        for chunk in line:
            chunk.error = ActorDiedError("the pool was terminated before this was begun")
            self._events.put(chunk)
        self._events.put(self._end_if_done)

    def join(self) -> None:
        """After `close` or `terminate`: wait until what was submitted is done and the actors have ended."""
        self.wait_idle(None)
        with self._lock:
            if self._feeders:
                return
            self._quiet.wait_for(lambda: self._ended)
        if self._leaving and self.ended_because is None:
            wait(self._leaving, num_returns=len(self._leaving), timeout=DEATH_LIMIT_S)

    # ------------------------------------------------------------------ with the lock held
    def _depth(self, kind: Any) -> int:
        """Chunks that an actor should have, if they are of this kind."""
        longest = self._longest_s.get(kind)
        if self._most_chunks is not None or longest is None:
            return 1
        return 1 + min(MOST_AHEAD, int(AHEAD_S / max(longest, 1e-6)))

    def _free_slot(self, chunk: Chunk) -> _Slot | None:
        slot = min(self._slots, key=lambda slot: slot.running)
        depth = self._depth(chunk.kind)
        if chunk.together and self._longest_s.get(chunk.kind, BEHIND_S) < BEHIND_S:
            depth = max(depth, 2)
        return slot if slot.running < depth else None

    def _give(self, slot: _Slot, chunk: Chunk) -> None:
        status, chunk.results = slot.actor.run_batch.remote(chunk.function, chunk.how, chunk.items)
        chunk.status, chunk.core, chunk.slot = status, self._core, slot
        chunk.function = chunk.items = None
        slot.running += 1
        slot.given += 1
        self._core.notify(status._entry, partial(self._events.put, chunk))

    def _replace(self, slot: _Slot) -> None:
        """A new actor in the place of one that is dead or has done its share."""
        self._slots[self._slots.index(slot)] = _Slot(self._make())

    # ------------------------------------------------------------------ the thread
    def _serve(self) -> None:
        while not self._ended:
            event = self._events.get()
            if isinstance(event, Chunk):
                self._take(event)
            else:
                event()

    def _take(self, chunk: Chunk) -> None:
        """A chunk is done: the next one in line may go, and whoever waits for it hears."""
        seconds = None
        if chunk.error is None:
            assert chunk.status is not None
            try:
                [(seconds, chunk.failed)] = self._core.get([chunk.status._entry], None)
            except RayError as error:
                chunk.error = error
        chunk.failed = chunk.failed or chunk.error is not None
        unsent: list[Chunk] = []
        with self._lock:
            self._account(chunk, seconds)
            while self._line and (slot := self._free_slot(self._line[0])) is not None:
                self._give_or_fail(slot, self._line.popleft(), unsent)
        for each in [chunk, *unsent]:
            _tell(each)
        with self._lock:
            self._outstanding -= 1 + len(unsent)
            if not self._outstanding:
                self._quiet.notify_all()
        self._end_if_done()

    def _account(self, chunk: Chunk, seconds: float | None) -> None:
        slot = chunk.slot
        if seconds is not None:
            self._longest_s[chunk.kind] = max(seconds, FADING * self._longest_s.get(chunk.kind, 0.0))
        if slot is None:
            return
        slot.running -= 1
        worn = self._most_chunks is not None and slot.given >= self._most_chunks
        dead = isinstance(chunk.error, RayActorError) and slot.actor._actor.state == "dead"
        if (worn or dead) and slot in self._slots and not self.is_over:
            self._replace(slot)

    def _give_or_fail(self, slot: _Slot, chunk: Chunk, unsent: list[Chunk]) -> None:
        if self.ended_because is None:
            self._give(slot, chunk)
            return
        # With the session over, a call would start another one.
        chunk.error, chunk.failed = RaySystemError(f"the sparkray session ended: {self.ended_because}"), True
        unsent.append(chunk)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
        self._end_if_done()

    def _one_feeder_less(self) -> None:
        with self._lock:
            self._feeders -= 1
        self._end_if_done()

    def _end_if_done(self) -> None:
        with self._lock:
            if self._closed and not self._outstanding and not self._feeders and not self._ended:
                if self.ended_because is None:
                    self._leaving = [slot.actor.__ray_terminate__.remote() for slot in self._slots]
                self._slots = []
                self._ended = True
                self._quiet.notify_all()


def _tell(chunk: Chunk) -> None:
    try:
        chunk.listener.chunk_done(chunk)
    except Exception:
        log.exception("a callback of a pool raised")


def _kind(function: Any) -> Any:
    """What chunks have in common that take about as long: a function's code, without what it is bound to."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    if isinstance(function, FunctionType):
        return function.__code__
    return getattr(function, "__qualname__", type(function))
