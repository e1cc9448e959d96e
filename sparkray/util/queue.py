"""A first-in, first-out queue that tasks, actors and the driver share. It lives in an actor."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from sparkray.actor_handle import ActorHandle
from sparkray.api import get, kill, remote, wait
from sparkray_core.errors import ActorDiedError

# A call that waits for an item or for room counts as running: with Ray's default of 1000, so many waiting consumers
# would keep every producer out.
WAITING_CALLS = 1_000_000


class Empty(queue.Empty):
    """There is no item, or not as many as asked for, or none came in time."""


class Full(queue.Full):
    """There is no room for the item, or not for all of them, or none came in time."""


class Queue:
    """Items in the order in which they were put, among those of one producer. Can be passed to tasks and actors.

    Args:
        maxsize: items; 0 is no limit.
        actor_options: of the actor that holds it, e.g. {"num_cpus": 1, "name": "jobs"}.
    """

    def __init__(self, maxsize: int = 0, actor_options: Mapping[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        options = {"max_concurrency": WAITING_CALLS, **(actor_options or {})}
        self.actor: ActorHandle | None = _RemoteQueueActor.options(**options).remote(maxsize)

    # ------------------------------------------------------------------ how it is
    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        return get(self._actor.qsize.remote())  # type: ignore[no-any-return]

    def qsize(self) -> int:
        return self.size()

    def empty(self) -> bool:
        return get(self._actor.empty.remote())  # type: ignore[no-any-return]

    def full(self) -> bool:
        return get(self._actor.full.remote())  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ putting
    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item.

        Args:
            block: wait for room; otherwise there has to be some.
            timeout: seconds to wait; None waits without limit.

        Raises:
            Full: no room, or none in time.
            ValueError: a timeout below 0.
        """
        if not block:
            return self.put_nowait(item)
        get(self._actor.put.remote(item, _checked(timeout)))
        return None

    def put_nowait(self, item: Any) -> None:
        """Add an item, or raise `Full`."""
        self.put_nowait_batch([item])

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all the items, or raise `Full` and add none. Raises `TypeError` for what is no iterable."""
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        try:
            get(self._actor.put_nowait_batch.remote(list(items)))
        except Full as full:  # in place of the dual error with the actor's traceback
            raise Full(_text(full)) from None

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As `put`, in a coroutine."""
        if block:
            await self._actor.put.remote(item, _checked(timeout))
            return
        try:
            await self._actor.put_nowait_batch.remote([item])
        except Full as full:  # in place of the dual error with the actor's traceback
            raise Full(_text(full)) from None

    # ------------------------------------------------------------------ getting
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next item.

        Args:
            block: wait for one; otherwise there has to be one.
            timeout: seconds to wait; None waits without limit.

        Raises:
            Empty: no item, or none in time.
            ValueError: a timeout below 0.
        """
        if not block:
            return self.get_nowait()
        return get(self._actor.get.remote(_checked(timeout)))

    def get_nowait(self) -> Any:
        """Take the next item, or raise `Empty`."""
        return self.get_nowait_batch(1)[0]

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take so many items, or raise `Empty` and take none.

        Raises:
            TypeError: `num_items` is no int.
            ValueError: it is below 0.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        try:
            items: list[Any] = get(self._actor.get_nowait_batch.remote(num_items))
        except Empty as empty:
            raise Empty(_text(empty)) from None
        return items

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As `get`, in a coroutine."""
        if block:
            return await self._actor.get.remote(_checked(timeout))
        try:
            return (await self._actor.get_nowait_batch.remote(1))[0]
        except Empty as empty:
            raise Empty(_text(empty)) from None

    # ------------------------------------------------------------------ the end
    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the actor; its items are gone, and whoever waits for it gets `ActorDiedError`.

        Args:
            force: at once. Otherwise calls that were made before are answered first.
            grace_period_s: seconds that these get.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            wait([actor.nobody_waits.remote()], timeout=grace_period_s)
        kill(actor)

    @property
    def _actor(self) -> ActorHandle:
        if self.actor is None:
            raise ActorDiedError("this queue was shut down")
        return self.actor


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")
    return timeout


def _text(error: Exception) -> str:
    """What the actor said, without its traceback."""
    return str(getattr(error, "cause", error))


class _QueueActor:
    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.items: asyncio.Queue[Any] = asyncio.Queue(maxsize)
        self.waiting = 0  # calls
        self.idle = asyncio.Event()  # `waiting` is 0 again

    def qsize(self) -> int:
        return self.items.qsize()

    def empty(self) -> bool:
        return self.items.empty()

    def full(self) -> bool:
        return self.items.full()

    async def put(self, item: Any, timeout: float | None) -> None:
        if not self.items.full():  # also where the time is 0, for which `wait_for` does not begin
            self.items.put_nowait(item)
            return
        try:
            await self._in_time(self.items.put(item), timeout)
        except asyncio.TimeoutError:
            raise Full(f"there was no room in the queue for {timeout:g} s; maxsize is {self.maxsize}") from None

    async def get(self, timeout: float | None) -> Any:
        if not self.items.empty():
            return self.items.get_nowait()
        try:
            return await self._in_time(self.items.get(), timeout)
        except asyncio.TimeoutError:
            raise Empty(f"the queue was empty for {timeout:g} s") from None

    async def _in_time(self, call: Coroutine[Any, Any, Any], timeout: float | None) -> Any:
        self.waiting += 1
        try:
            return await (call if timeout is None else asyncio.wait_for(call, timeout))
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.idle.set()

    async def nobody_waits(self) -> None:
        """Returns once all calls of `put` and `get` that were made before are answered."""
        while self.waiting:
            self.idle.clear()
            await self.idle.wait()

    def put_nowait_batch(self, items: list[Any]) -> None:
        if 0 < self.maxsize < len(items) + self.items.qsize():
            raise Full(
                f"Cannot add {len(items)} items to queue of size {self.items.qsize()} and maxsize {self.maxsize}."
            )
        for item in items:
            self.items.put_nowait(item)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self.items.qsize():
            raise Empty(f"Cannot get {num_items} items from queue of size {self.items.qsize()}.")
        return [self.items.get_nowait() for _ in range(num_items)]


_RemoteQueueActor = remote(_QueueActor)
