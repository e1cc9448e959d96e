"""What a call of a remote generator returns: its items' references, as they come."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

from sparkray_core.model.entries import Entry
from sparkray_core.model.streams import Stream
from sparkray_core.run import object_ref
from sparkray_core.run.object_ref import ObjectRef, call_in_loop
from sparkray_core.run.public_ids import TaskID
from sparkray_core.wire import values

T_co = TypeVar("T_co", covariant=True)


class ObjectRefGenerator(Generic[T_co]):
    """Iterate over it, by `for` or `async for`, to get an `ObjectRef` for each item that the remote generator yields.

    The generator runs at once, whether somebody reads or not. What it raises is one more reference, the last one, whose
    `get` raises it. The owner of the items is the process that made the call, and only there it can be read.
    """

    __slots__ = ("__weakref__", "_completed", "_stream")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._completed: ObjectRef[None] | None = None

    def __iter__(self) -> ObjectRefGenerator[T_co]:
        return self

    def __next__(self) -> ObjectRef[T_co]:
        """The next item's reference, whose value is there. Waits for it.

        Raises:
            StopIteration: there are no more.
            RaySystemError: the session ended.
        """
        ref = self._take()
        if ref is None:
            ref = self._wait(None)
            if ref is None:
                raise StopIteration
        return ref

    @property
    def _entry(self) -> Any:
        """By the name that `wait` knows from references: a stream looks like an `Entry` to those who wait."""
        return self._stream

    def task_id(self) -> TaskID:
        """The id of the task that yields the items."""
        return TaskID(self._stream.end.id[:24])

    def _take(self) -> ObjectRef[T_co] | None:
        entry = object_ref.core_for(self._stream.end).take(self._stream)
        return None if entry is None else ObjectRef(entry)

    def _wait(self, timeout: float | None) -> ObjectRef[T_co] | None:
        """None at the end, or after `timeout` seconds."""
        here, stream = object_ref.core(), self._stream
        while True:
            here.wait([stream], 1, timeout)  # type: ignore[list-item]
            ref = self._take()  # another thread may have been quicker
            if ref is not None or stream.over or timeout is not None:
                return ref

    def _next_sync(self, timeout_s: float | None = None) -> ObjectRef[T_co] | None:
        """As `next`, but None if nothing came in time (seconds; None and below 0 wait without limit)."""
        ref = self._take()
        if ref is None:
            ref = self._wait(None if timeout_s is None or timeout_s < 0 else timeout_s)
            if ref is None and self._stream.over:
                raise StopIteration
        return ref

    def __aiter__(self) -> ObjectRefGenerator[T_co]:
        return self

    async def __anext__(self) -> ObjectRef[T_co]:
        """As `next`, while other coroutines run."""
        stream = self._stream
        while True:
            ref = self._take()
            if ref is not None:
                return ref
            if stream.over:
                raise StopAsyncIteration
            import asyncio  # whoever awaits has imported it

            loop = asyncio.get_running_loop()
            ready: asyncio.Future[None] = loop.create_future()
            object_ref.core().notify(stream, lambda: call_in_loop(loop, object_ref._finish, ready))  # type: ignore[arg-type]  # noqa: B023
            await ready

    def completed(self) -> ObjectRef[None]:
        """A reference whose value is None once the generator has ended; `get` raises if the system ended it."""
        if self._completed is None:
            entry: Entry = self._stream.end
            with object_ref.core_for(entry).lock:
                entry.held = True
            self._completed = ObjectRef(entry)
        return self._completed

    def next_ready(self) -> bool:
        """Whether `next` gives a reference without waiting."""
        object_ref.core_for(self._stream.end).look()
        return bool(self._stream.items)

    def is_finished(self) -> bool:
        """Whether the generator has ended and everything was read."""
        object_ref.core_for(self._stream.end).look()
        return self._stream.over and not self._stream.items

    def __del__(self) -> None:
        object_ref.dropped_streams.append(self._stream)
        if object_ref.current is not None and object_ref.current.pump.asleep:
            object_ref.current.pump.wake()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "An ObjectRefGenerator cannot be pickled, passed to a task or put: it is read by the process that made the "
            "call. Pass the references that it gives."
        )

    def __repr__(self) -> str:
        return f"<ObjectRefGenerator of task {self._stream.end.id[:24].hex()}>"


class DynamicObjectRefGenerator:
    """The value of a task with num_returns="dynamic": references to what it has yielded, in order."""

    def __init__(self, refs: list[ObjectRef[Any]]) -> None:
        self._refs = refs

    def __iter__(self) -> Any:
        while self._refs:
            yield self._refs.pop(0)

    def __len__(self) -> int:
        return len(self._refs)


class _Named:
    """Pickled, it is a reference to an object of another process, which that process will have."""

    def __init__(self, some: bytes) -> None:
        self.some = some

    def __reduce__(self) -> Any:
        return object_ref.rebuild, (self.some,)


def gathered(objects: list[bytes]) -> bytes:
    """The pickled value of a task with num_returns="dynamic" whose items have these ids."""
    inline = values.to_inline(values.serialize(DynamicObjectRefGenerator([_Named(some) for some in objects])))  # type: ignore[misc]
    assert isinstance(inline, bytes)
    return inline
