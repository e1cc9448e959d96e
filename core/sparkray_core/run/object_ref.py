"""References as the user holds them. One process has at most one `ObjectRef` per object, so identity is equality."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sparkray_core.errors import UnknownOwnerError
from sparkray_core.ids import OBJECT_ID_BYTES, ObjectId, count_of, index_of, owner_of
from sparkray_core.model.entries import Entry
from sparkray_core.model.streams import Stream
from sparkray_core.run.public_ids import JobID, TaskID
from sparkray_core.wire import values

if TYPE_CHECKING:
    import asyncio

    from sparkray_core.run.core import Core

T_co = TypeVar("T_co", covariant=True)

# The process's core; None when no session is up. One per process: `connect` sets it, `close` clears it.
current: Core | None = None
# Entries whose ObjectRef died, for the core to take up. Appended to in destructors, which may run anywhere.
dropped: deque[Entry] = deque()
dropped_streams: deque[Stream] = deque()  # of ObjectRefGenerators that died, likewise


def core() -> Core:
    if current is None:
        raise RuntimeError("sparkray is not initialized in this process: call sparkray.init() first")
    return current


def core_for(entry: Entry) -> Core:
    """The core, if it is the one that the reference with this entry is of.

    Raises:
        UnknownOwnerError: the reference is of a session that has ended.
    """
    here = current
    if here is None or (entry.owner is not here.me and not here.owner.refs.knows(entry)):
        raise of_past_session(f"ObjectRef({entry.id.hex()})")
    return here


def of_past_session(what: str) -> Exception:
    """The error for a reference that outlived its session, or was inherited by a forked child."""
    from sparkray_core.run import forked

    forked.refuse()
    return UnknownOwnerError(
        f"{what} is of a sparkray session that has ended: its owner is unknown, and its value is gone. References and "
        f"handles are good for one session only: make new ones after init()."
    )


class ObjectRef(Generic[T_co]):
    """A reference to a value that exists, or will. It keeps the value alive, on whatever node it is.

    `ray.get(ref)` waits for the value. Passed to a remote function as an argument the value is passed; inside a list,
    dict or object the reference is.
    """

    __slots__ = ("__weakref__", "_entry")

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    def __del__(self) -> None:
        if self._entry.weak is None:  # else `_died` tells
            _drop(self._entry)

    def binary(self) -> bytes:
        """The id: 28 bytes, of which `from_binary` makes the reference again."""
        if current is not None:
            with contextlib.suppress(UnknownOwnerError):
                core_for(self._entry).export(self)
        return self._entry.id

    def hex(self) -> str:
        return self._entry.id.hex()

    def is_nil(self) -> bool:
        return self._entry.id == _NIL

    def task_id(self) -> TaskID:
        """The id of the task that makes the value."""
        return TaskID(self._entry.id[:24])

    def job_id(self) -> JobID:
        return JobID.from_hex(core_for(self._entry).job)

    def owner_address(self) -> bytes:
        """Who answers for the value: the id of that process."""
        return bytes(self._entry.owner)

    def call_site(self) -> str:
        """Empty: it is not recorded where references were made."""
        return ""

    @classmethod
    def size(cls) -> int:
        return OBJECT_ID_BYTES

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A reference to nothing. `get` refuses it."""
        global _nil
        if _nil is None:
            _nil = _foreign(_NIL)
        return _nil

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A reference to nothing either, unlike any other."""
        return _foreign(os.urandom(OBJECT_ID_BYTES))

    @classmethod
    def from_binary(cls, id_bytes: bytes) -> ObjectRef[Any]:
        """The reference of this id. It keeps the value from now on; that it was kept until now is the caller's affair.

        Raises:
            ValueError: not an id's length.
        """
        if len(id_bytes) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectRef needs to have length {OBJECT_ID_BYTES} (bytes), got {len(id_bytes)}")
        return cls.nil() if id_bytes == _NIL else core().ref_of(ObjectId(bytes(id_bytes)))

    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]:
        raise NotImplementedError("an ObjectRef cannot be made from a hex string: nothing would keep its value alive")

    def __repr__(self) -> str:
        return f"ObjectRef({self.hex()})"

    def _repr_html_(self) -> str:
        state = "is there" if self._entry.value is not None else "is not there yet: explain(ref) says why"
        return f"<code>ObjectRef({self.hex()})</code> {state}"

    def __reduce__(self) -> Any:
        counted = values.note_ref(self)
        here = core_for(self._entry)
        if not counted:
            here.keep_pickled(self)
        here.export(self)
        return rebuild, (self._entry.id,)

    def __copy__(self) -> ObjectRef[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> ObjectRef[T_co]:
        return self

    def future(self) -> concurrent.futures.Future[T_co]:
        """A future of the value. Cancelling it does not cancel the task."""
        return core_for(self._entry).future(self)

    def as_future(self) -> asyncio.Future[T_co]:
        """The same of asyncio, for `asyncio.wait` and its like. Cancelling it does not cancel the task."""
        import asyncio

        here = core_for(self._entry)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # called between two runs of a loop
            loop = asyncio.get_event_loop()
        future: asyncio.Future[T_co] = loop.create_future()
        here.notify(self._entry, lambda: call_in_loop(loop, self._deliver, future))
        return future

    def _deliver(self, future: asyncio.Future[T_co]) -> None:
        if future.done():  # it was cancelled meanwhile
            return
        try:
            value = core_for(self._entry).load(self._entry)
        except Exception as error:  # noqa: BLE001 - whatever the task raised belongs to the future
            future.set_exception(error)
        else:
            future.set_result(value)

    def _on_completed(self, callback: Callable[[Any], object]) -> None:
        """Call back with the value, or with what the task raised, in a thread of its own."""

        here = core_for(self._entry)

        def call() -> None:
            try:
                outcome = here.load(self._entry)
            except Exception as error:  # noqa: BLE001 - whatever the task raised belongs to who called
                outcome = error
            callback(outcome)

        here.notify(self._entry, lambda: threading.Thread(target=call, daemon=True).start())

    def __await__(self) -> Generator[Any, None, T_co]:
        """The value, or raise the task's error; in whatever asyncio loop runs."""
        here = core_for(self._entry)
        if self._entry.value is None:
            import asyncio

            loop = asyncio.get_running_loop()
            ready: asyncio.Future[None] = loop.create_future()
            here.notify(self._entry, lambda: call_in_loop(loop, _finish, ready))
            yield from ready
        return here.load(self._entry)  # type: ignore[no-any-return]


_NIL = b"\xff" * OBJECT_ID_BYTES
_nil: ObjectRef[Any] | None = None


def _foreign(some_id: bytes) -> ObjectRef[Any]:
    """A reference of an owner that there is not."""
    entry = Entry(owner_of(some_id), count_of(some_id), index_of(ObjectId(some_id)))
    entry.held = False
    return ObjectRef(entry)


def call_in_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Have the loop call the function soon, from any thread; not at all, if it is closed meanwhile."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _finish(ready: Any) -> None:
    if not ready.done():  # it may have been cancelled meanwhile
        ready.set_result(None)


def rebuild(some_object: bytes) -> ObjectRef[Any]:
    """The ObjectRef of an id that came from another process."""
    ref = core().ref_of(ObjectId(some_object))
    values.found_ref(ref)
    return ref


def _drop(entry: Entry) -> None:
    dropped.append(entry)
    if current is not None and current.pump.asleep:
        current.pump.wake()


class _Weak(weakref.ref[Any]):
    """To a ref, or an actor's handle, that others can find. While its destructor runs they still can, in another
    thread, and it would live on: so it is not its destructor that says that it is gone, but the end of this.
    """

    __slots__ = ("entry",)
    entry: Entry | None


def _died(weak: weakref.ref[Any]) -> None:
    assert isinstance(weak, _Weak)
    entry, weak.entry = weak.entry, None  # they refer to each other
    if entry is not None:
        _drop(entry)


def remember(ref: Any) -> None:
    """Make the ref, or the actor's handle, findable by its entry, so that the same id gives the same one."""
    entry = ref._entry
    if entry.weak is None or entry.weak() is None:
        weak = _Weak(ref, _died)
        weak.entry = entry
        entry.weak = weak
