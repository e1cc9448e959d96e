"""A driver's or worker's half of the engine: its sockets, its owner model, its view of the store.

One lock guards the model and the connections. It is never held while user code runs: values are pickled before it is
taken and unpickled after it was given back.

    f.remote() --> pending --+                         +--> connection to a worker on this node (direct)
                             +--> Owner.submit/handle -+
    sockets ----> turn ------+     effects             +--> connection to the raylet (everything else)
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sparkray_core import errors
from sparkray_core.ids import HEAD, ObjectId, ProcessId, node_of, object_id, raylet_of, task_id
from sparkray_core.messages import (
    ERROR,
    FAILED,
    STORED,
    AllocateObject,
    Answer,
    Ask,
    EndSession,
    Message,
    ObjectAllocated,
    ObjectGone,
    ObjectPinned,
    ObjectRefused,
    PinObject,
    PushCalls,
    PushTasks,
    Registered,
    RegisterProcess,
    SealObjects,
    UnpinObjects,
    Value,
)
from sparkray_core.model.effects import Effect, Send, WakeAt
from sparkray_core.model.entries import Entry, bare, is_failure, place
from sparkray_core.model.owner import Actor, Owner, Task
from sparkray_core.run import object_ref
from sparkray_core.run.limits import INLINE_BYTES
from sparkray_core.run.object_ref import ObjectRef, remember
from sparkray_core.run.pump import Getter, Pump, now
from sparkray_core.store.segment import Segment
from sparkray_core.wire import hello, values
from sparkray_core.wire.codec import ENVELOPE_BYTES, BadFrame, decode, encode
from sparkray_core.wire.frames import Connection, ConnectionLost

log = logging.getLogger(__name__)

BATCH = 64  # submissions after which the submitting thread hands them in itself
REPLY_LIMIT_S = 60.0  # a raylet that does not answer for so long is taken for dead


class Core:
    """Connected from `connect` until `close`. Every method may be called from any thread."""

    def __init__(self, me: ProcessId, folder: str, token: bytes, role: str) -> None:
        """
        Args:
            folder: the node's, where its raylet listens.
            role: "driver" or "worker".
        """
        self.me = me
        self.node = node_of(me)
        self.raylet_id = raylet_of(self.node)
        self.folder = folder
        self.role = role
        self.token = token
        self.owner = Owner(self.me)
        self.lock = threading.Lock()
        self.pump = Pump(f"sparkray-{role}", self._turn)
        self.counter = itertools.count(1)
        self.pending: deque[Task] = deque()
        self.handlers: dict[type, Callable[[ProcessId, Any], None]] = {
            Answer: self._on_answer,
            ObjectAllocated: self._on_reply,
            ObjectRefused: self._on_reply,
            ObjectPinned: self._on_reply,
            ObjectGone: self._on_reply,
        }
        self.on_quiet: Callable[[], None] | None = None  # called by the side thread's turns, lock not held
        self.on_block: Callable[[], Callable[[], None] | None] | None = None  # called around waits of user code
        self._connections: dict[ProcessId, Connection] = {}
        self._by_fd: dict[int, Any] = {}
        self._undirected: set[ProcessId] = set()  # on this node, but cannot be reached directly
        self._replies: dict[Any, _Reply] = {}
        self._unpins: deque[ObjectId] = deque()
        self._listener: Any = None
        self._closed = False

    # ------------------------------------------------------------------ session
    def connect(self) -> None:
        """Join the node whose raylet listens in `folder`.

        Raises:
            ConnectionLost: no raylet there, or it refused us.
        """
        path = os.path.join(self.folder, "raylet.sock")
        connection = hello.connect(path, self.token, self.me, self.role, self.raylet_id)
        try:
            fd = hello.recv_fd(connection.sock, self.raylet_id)
            connection.send(self._frame(self.raylet_id, RegisterProcess(self.role, os.getpid())))
            welcome, behind = self._await_welcome(connection)
            self.segment = Segment.attach(fd, welcome.store_bytes)
        except BaseException:
            connection.close()
            raise
        self.session = welcome.session
        self.raylet = connection
        self._add(connection)
        object_ref.dropped.clear()
        object_ref.current = self
        with self.lock:
            self._handle(connection, behind)
        self.pump.start()

    @staticmethod
    def _await_welcome(connection: Connection) -> tuple[Registered, list[bytes]]:
        """The raylet's welcome, and the frames that came right behind it."""
        while True:
            if not select.select([connection], [], [], REPLY_LIMIT_S)[0]:
                raise ConnectionLost(connection.peer, f"it did not answer within {REPLY_LIMIT_S:g} s")
            frames = connection.receive()
            if frames:
                message = decode(frames[0], ENVELOPE_BYTES)
                assert isinstance(message, Registered), message
                return message, frames[1:]

    def listen(self) -> None:
        """Let the processes of this node connect to us directly. Workers do, before they register."""
        self._listener = hello.listen(self._path_of(self.me))
        self._by_fd[self._listener.fileno()] = self._listener
        self.pump.register(self._listener.fileno())

    def _path_of(self, process: ProcessId) -> str:
        return os.path.join(self.folder, f"{process[8:].hex()}.sock")

    def close(self, why: str = "sparkray.shutdown() was called") -> None:
        """Leave the session. Whatever still waits gets a `RaySystemError`."""
        if self._closed:
            return
        with self.lock:
            self._closed = True
            effects: list[Effect] = []
            self.owner.end(why, effects)
        if object_ref.current is self:
            object_ref.current = None
        self.pump.close()
        for connection in list(self._by_fd.values()):
            connection.close()
        self._by_fd.clear()
        self.segment.close()
        if self._listener is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path_of(self.me))

    def end_session(self, why: str) -> None:
        """Ask the head to end the session for all."""
        with self.lock:
            self._send(HEAD, EndSession(why))

    # ------------------------------------------------------------------ submitting
    def submit(self, task: Task) -> None:
        """Hand a task or call in: at once if somebody idles for want of it, else with the next batch."""
        pending = self.pending
        pending.append(task)
        target = task.actor or task.shape
        if target.hungry:  # type: ignore[union-attr]
            self.kick()
        elif len(pending) >= BATCH:
            self.kick()
            self.pump.poll_once()
        elif self.pump.asleep:
            self.pump.wake()

    def kick(self) -> None:
        """Pass what was submitted and what was let go to the model."""
        with self.lock:
            self._kick()

    def _kick(self) -> None:
        dropped = object_ref.dropped
        count = len(dropped)  # before `pending`: a ref may have died right after the submission that uses it
        pending = self.pending
        if pending:
            tasks = []
            while pending:
                tasks.append(pending.popleft())
            self._perform(self.owner.submit(tasks, now()))
        if count:
            self._perform(self.owner.drop([dropped.popleft() for _ in range(count)]))
        if self._unpins:
            unpins = [self._unpins.popleft() for _ in range(len(self._unpins))]
            self._send(self.raylet_id, UnpinObjects(unpins))

    def next_entry(self) -> Entry:
        return Entry(self.me, next(self.counter))

    # ------------------------------------------------------------------ turning
    def _turn(self, timeout: float | None) -> bool:
        """Poll, and handle what came. Only the pump's leader calls this."""
        try:
            events = self.pump.inner.poll(timeout)
        except ValueError:
            return False  # closed
        with self.lock:
            if self._closed:
                return False
            self._kick_if_any()
            for fd, event in events:
                self._ready(fd, event)
            alarm = self.pump.next_wake
            if alarm is not None and now() >= alarm:
                self.pump.next_wake = None
                self._perform(self.owner.tick(now()))
        if self.on_quiet is not None:
            self.on_quiet()
        return bool(events)

    def _kick_if_any(self) -> None:
        if self.pending or object_ref.dropped or self._unpins:
            self._kick()

    def _ready(self, fd: int, event: int) -> None:
        source = self._by_fd.get(fd)
        if isinstance(source, Connection):
            if event & select.EPOLLOUT:
                source.flush()
                if not source.wants_write:
                    self.pump.want_write(fd, wanted=False)
            if event & ~select.EPOLLOUT:
                self._read(source)
        elif isinstance(source, hello.Handshake):
            self._shake(fd, source)
        elif source is not None:
            self._accept()

    def _read(self, connection: Connection) -> None:
        try:
            frames = connection.receive()
        except ConnectionLost as lost:
            self._lose(connection, lost.why)
            return
        self._handle(connection, frames)

    def _handle(self, connection: Connection, frames: list[bytes]) -> None:
        handlers = self.handlers
        owner = self.owner
        for frame in frames:
            try:
                message = decode(frame, ENVELOPE_BYTES)
            except BadFrame as bad:
                log.warning("a frame from %s cannot be read and is dropped: %s", connection.peer.hex(), bad.why)
                continue
            handler = handlers.get(type(message))
            sender = ProcessId(frame[16:32])
            if handler is not None:
                handler(sender, message)
            else:
                self._perform(owner.handle(sender, message, now()))

    def _accept(self) -> None:
        while (shake := hello.accept(self._listener, self.token, now())) is not None:
            self._by_fd[shake.fileno()] = shake
            self.pump.register(shake.fileno())

    def _shake(self, fd: int, shake: hello.Handshake) -> None:
        try:
            done = shake.receive()
        except hello.HelloRefused as refused:
            log.warning("%s", refused)
            del self._by_fd[fd]  # the kernel took the closed socket out of the epoll
            return
        if done is not None:
            connection, _ = done
            self._by_fd[fd] = self._connections[connection.peer] = connection

    def _add(self, connection: Connection) -> None:
        self._connections[connection.peer] = connection
        self._by_fd[connection.fileno()] = connection
        self.pump.register(connection.fileno())

    def _lose(self, connection: Connection, why: str) -> None:
        fd = connection.fileno()
        self.pump.unregister(fd)
        del self._by_fd[fd]
        if self._connections.get(connection.peer) is connection:
            del self._connections[connection.peer]
        connection.close()
        if connection is self.raylet:
            effects: list[Effect] = []
            self.owner.end(f"the raylet of this node is gone ({why})", effects)
            for reply in self._replies.values():
                reply.finish()
            if self.role == "worker":
                os._exit(1)

    # ------------------------------------------------------------------ performing
    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if type(effect) is Send:
                self._send(effect.to, effect.message)
            elif type(effect) is WakeAt:
                if self.pump.next_wake is None or effect.at < self.pump.next_wake:
                    self.pump.next_wake = effect.at
            else:
                raise TypeError(f"an owner does not wish for {effect}")

    def _frame(self, to: ProcessId, message: Message) -> bytes:
        return to + self.me + encode(message)

    def _send(self, to: ProcessId, message: Message) -> None:
        connection = self._connections.get(to)
        if connection is None:
            if to == self.me:
                self._perform(self.owner.handle(self.me, message, now()))
                return
            connection = self._route(to, message)
        connection.send(to + self.me + encode(message))
        if connection.wants_write:
            self.pump.want_write(connection.fileno(), wanted=True)

    def _route(self, to: ProcessId, message: Message) -> Connection:
        """Straight to a worker of this node when work is pushed to it; by way of the raylet otherwise."""
        kind = type(message)
        if (kind is PushTasks or kind is PushCalls) and node_of(to) == self.node and to not in self._undirected:
            try:
                connection = hello.connect(self._path_of(to), self.token, self.me, self.role, to)
            except ConnectionLost as lost:
                # It died since; the raylet says so itself. Or it does not listen, then the raylet relays.
                log.debug("no direct way: %s", lost)
                self._undirected.add(to)
                return self.raylet
            self._add(connection)
            return connection
        return self.raylet

    def send(self, to: ProcessId, message: Message) -> None:
        with self.lock:
            self._send(to, message)

    def perform(self, effects: list[Effect]) -> None:
        with self.lock:
            self._perform(effects)

    # ------------------------------------------------------------------ asking
    def _on_reply(self, sender: ProcessId, message: Any) -> None:
        reply = self._replies.get((type(message) in (ObjectPinned, ObjectGone), message.object))
        if reply is not None:
            reply.messages.append(message)
            reply.entry_ready(None)

    def _on_answer(self, sender: ProcessId, message: Answer) -> None:
        reply = self._replies.get(message.request)
        if reply is not None:
            reply.messages.append(message)
            reply.entry_ready(None)

    def ask(self, to: ProcessId, what: str) -> Any:
        """A question to the raylet or the head, and its answer."""
        number = next(self.counter)
        return self._call(number, to, Ask(number, what)).value

    def _call(self, key: Any, to: ProcessId, message: Message) -> Any:
        with self.lock:
            self._check_open()
            reply = self._replies.get(key)
            if reply is None:
                reply = self._replies[key] = _Reply(1)
                self._send(to, message)
            else:  # another thread asks for the same: both get an answer of their own
                reply.missing += 1
                self._send(to, message)
            reply.users += 1
        self.pump.lead(reply, now() + REPLY_LIMIT_S)
        with self.lock:
            reply.users -= 1
            if not reply.users:
                del self._replies[key]
            if reply.messages:
                return reply.messages.pop()
            self._check_open()
        raise errors.RaySystemError(f"{to.hex()} did not answer {type(message).__name__} within {REPLY_LIMIT_S:g} s")

    def _check_open(self) -> None:
        if self.owner.ended is not None:
            raise errors.RaySystemError(f"the sparkray session ended: {self.owner.ended}")

    # ------------------------------------------------------------------ waiting
    def get(self, entries: Sequence[Entry], timeout: float | None) -> list[Any]:
        """The values, in order.

        Raises:
            GetTimeoutError: not all were there in time (seconds).
            RayError: the first failure that shows, without waiting for the rest.
        """
        missing = [entry for entry in entries if entry.value is None]
        if missing:
            deadline = None if timeout is None or timeout < 0 else now() + timeout
            getter = Getter(0, _entry_failed)
            self._wait(getter, missing, len(missing), deadline)
            if getter.failed is not None:
                self.load(getter.failed)
            if any(entry.value is None for entry in entries):
                names = [entry.id.hex() for entry in entries if entry.value is None]
                raise errors.GetTimeoutError(
                    f"{len(names)} of {len(entries)} values were not there after {timeout:g} s (first: {names[0]}); "
                    f"the tasks run on and the references stay usable"
                )
        return [self.load(entry) for entry in entries]

    def wait(self, entries: Sequence[Entry], wanted: int, timeout: float | None) -> None:
        """Return once `wanted` of the entries are there, or after `timeout` seconds."""
        missing = [entry for entry in entries if entry.value is None]
        wanted -= len(entries) - len(missing)
        if wanted > 0:
            self._wait(Getter(0), missing, wanted, None if timeout is None else now() + timeout)

    def _wait(self, getter: Getter, entries: list[Entry], wanted: int, deadline: float | None) -> None:
        """Put the getter on the entries, and lead or follow until `wanted` of them came."""
        with self.lock:
            self._kick()
            waiting = [entry for entry in entries if entry.value is None]
            getter.missing += wanted - (len(entries) - len(waiting))
            if self.owner.ended is None:
                self._perform(self.owner.want(waiting))
            for entry in waiting:
                if entry.waiters is None:
                    entry.waiters = [getter]
                else:
                    entry.waiters.append(getter)
            if self.owner.ended is not None:
                getter.finish()
        if getter.missing <= 0:
            self._unwait(getter, waiting)
            return
        unblock = self.on_block() if self.on_block is not None else None
        try:
            self.pump.lead(getter, deadline)
        finally:
            self._unwait(getter, waiting)
            if unblock is not None:
                unblock()
        if getter.missing > 0 or self.owner.ended is not None:
            with self.lock:
                if self.owner.ended is not None and any(entry.value is None for entry in entries):
                    self._check_open()

    def _unwait(self, getter: Getter, entries: list[Entry]) -> None:
        with self.lock:
            for entry in entries:
                if entry.waiters and entry.value is None:
                    with contextlib.suppress(ValueError):
                        entry.waiters.remove(getter)

    def future(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        watcher = _Watcher(self, ref, future)
        with self.lock:
            self._kick()
            self._perform(self.owner.want([ref._entry]))
            if ref._entry.value is None:
                ref._entry.waiters = [*(ref._entry.waiters or ()), watcher]
                self.pump.wake()
                return future
        watcher.deliver()
        return future

    # ------------------------------------------------------------------ values
    def load(self, entry: Entry) -> Any:
        """The value of an entry that is there. Raises what it holds, if that is a failure."""
        value = entry.value
        if type(value) is bytes:
            return values.from_inline(value)
        assert value is not None
        value = bare(value)
        if type(value) is bytes:
            return values.from_inline(value)
        kind = value[0]
        if kind == STORED:
            return self.read(entry.id, list(place(value)[1]))
        if kind == FAILED:
            raise errors.by_name(value[1], value[2])  # type: ignore[arg-type]
        if kind == ERROR:
            error = values.from_inline(value)
            raise error.as_instanceof_cause() if isinstance(error, errors.RayTaskError) else error
        return values.from_inline(value)

    def put(self, value: object) -> ObjectRef[Any]:
        """An immutable snapshot of the value, as an object that this process owns."""
        serialized = values.serialize(value)
        entry = self.next_entry()
        if serialized.size <= INLINE_BYTES and not serialized.refs:
            entry.value = values.to_inline(serialized)
            return ObjectRef(entry)
        stored = self.store(entry.id, serialized)
        inner = [ref._entry for ref in serialized.refs]
        with self.lock:
            self.owner.put(entry, stored, inner)
        return ObjectRef(entry)

    def store(self, some_object: ObjectId, serialized: values.Serialized) -> Value:
        """The value as it travels: inline if small, else written to this node's segment."""
        if serialized.size <= INLINE_BYTES:
            return values.to_inline(serialized)
        size = values.segment_size(serialized)
        with self.room(some_object, size) as view:
            values.write_to(view, serialized)
        return (STORED, size, (self.node,))

    def room(self, some_object: ObjectId, size: int) -> _Room:
        """Space in the segment to write one object to; sealed when the `with` block ends."""
        answer = self._call((False, some_object), self.raylet_id, AllocateObject(some_object, size))
        if isinstance(answer, ObjectRefused):
            raise errors.ObjectStoreFullError(answer.why)
        return _Room(self, some_object, self.segment.write_view(answer.offset, size))

    def read(self, some_object: ObjectId, nodes: list[Any]) -> Any:
        """A stored value, read in place. Its memory stays pinned until the last view of it died."""
        kind, parts = values.read_from(self.pin(some_object, nodes))
        value = values.deserialize(kind, parts)
        if kind == ERROR:
            raise value.as_instanceof_cause() if isinstance(value, errors.RayTaskError) else value
        return value

    def pin(self, some_object: ObjectId, nodes: list[Any]) -> memoryview:
        answer = self._call((True, some_object), self.raylet_id, PinObject(some_object, nodes))
        if isinstance(answer, ObjectGone):
            raise errors.ObjectLostError(f"object {some_object.hex()} is lost: {answer.why}")
        unpins = self._unpins

        def release() -> None:
            unpins.append(some_object)

        return self.segment.pinned_view(answer.offset, answer.size, release)

    # ------------------------------------------------------------------ references
    def export(self, ref: ObjectRef[Any]) -> None:
        """The ref's id is about to be seen outside."""
        with self.lock:
            self.owner.refs.export(ref._entry)
            remember(ref)

    def ref_of(self, some_object: ObjectId) -> ObjectRef[Any]:
        """The one ObjectRef of this process for an id that came in."""
        with self.lock:
            entry = self.owner.refs.find(some_object)
            known = entry.weak() if entry.weak is not None else None
            if known is not None:
                return known  # type: ignore[no-any-return]
            ref: ObjectRef[Any] = ObjectRef(entry)
            entry.held = True
            remember(ref)
            return ref

    def known_object(self, some_object: ObjectId, value: Value) -> ObjectRef[Any]:
        """A ref to an object that somebody wrote to a store on our behalf, under an id of ours."""
        with self.lock:
            entry = Entry(self.me, int.from_bytes(some_object[16:24], "big"), int.from_bytes(some_object[24:], "big"))
            self.owner.put(entry, value, [])
        return ObjectRef(entry)

    def actor(self, entry: Entry) -> Actor:
        with self.lock:
            actor, effects = self.owner.calls.known(entry)
            self._perform(effects)
        return actor

    def object_id_of(self, count: int, index: int = 0) -> ObjectId:
        return object_id(task_id(self.me, count), index)


class _Reply(Getter):
    __slots__ = ("messages", "users")

    def __init__(self, missing: int) -> None:
        super().__init__(missing)
        self.messages: list[Any] = []
        self.users = 0


class _Room:
    """An allocated, not yet sealed object."""

    __slots__ = ("_core", "_object", "_view")

    def __init__(self, core: Core, some_object: ObjectId, view: memoryview) -> None:
        self._core = core
        self._object = some_object
        self._view = view

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._view.release()
        # Written or not: an unsealed object would hold its room for ever. What was not written has no header.
        self._core.send(self._core.raylet_id, SealObjects([self._object]))


class _Watcher:
    """Delivers an entry's value to a future. Values are loaded in a thread of their own: user code runs in them."""

    __slots__ = ("_core", "_future", "_ref")

    def __init__(self, core: Core, ref: ObjectRef[Any], future: concurrent.futures.Future[Any]) -> None:
        self._core = core
        self._ref = ref
        self._future = future

    def entry_ready(self, entry: Entry) -> None:
        threading.Thread(target=self.deliver, daemon=True).start()

    def deliver(self) -> None:
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            value = self._core.load(self._ref._entry)
        except BaseException as error:  # noqa: BLE001 - whatever the task raised belongs to the future
            self._future.set_exception(error)
        else:
            self._future.set_result(value)


def _entry_failed(entry: Entry) -> bool:
    return entry.value is not None and is_failure(entry.value)
