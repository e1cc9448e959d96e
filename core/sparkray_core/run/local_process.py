"""A driver's or worker's sockets and its owner model, and the turn that joins them.

One lock guards the model and the connections. It is never held while user code runs: values are pickled before it is
taken and unpickled after it was given back.

    f.remote() --> pending --+                         +--> connection to a worker on this host (direct)
                             +--> Owner.submit/handle -+
    sockets ----> turn ------+     effects             +--> connection to the raylet (everything else)

What the process's own code wants of it (get, wait, put, ...) is in `core.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparkray_core.ids import HEAD, NodeId, ObjectId, ProcessId, node_of, raylet_of
from sparkray_core.messages import (
    ActorChanged,
    EndSession,
    LeaseLost,
    Message,
    NameResults,
    NodeGone,
    PushCalls,
    PushTasks,
    Registered,
    RegisterProcess,
    SetGroup,
    TaskResults,
    UnpinObjects,
)
from sparkray_core.model.effects import Effect, MakeAgain, Send, WakeAt
from sparkray_core.model.entries import Entry
from sparkray_core.model.owner import Owner, Task
from sparkray_core.run import object_ref
from sparkray_core.run.limits import owner_limits
from sparkray_core.run.near import Near, socket_path
from sparkray_core.run.pins import Pins
from sparkray_core.run.pump import Getter, Pump, now
from sparkray_core.run.readiness import WRITE
from sparkray_core.run.records import Records
from sparkray_core.run.unhandled import Unhandled
from sparkray_core.settings import Settings
from sparkray_core.store.segment import Segment
from sparkray_core.wire import hello
from sparkray_core.wire.checking import wrong_field
from sparkray_core.wire.codec import ENVELOPE_BYTES, HOT, MALFORMED, BadFrame, decode, encode
from sparkray_core.wire.frames import Connection, ConnectionLost

if TYPE_CHECKING:
    from sparkray_core.run.warmth import MapAhead
    from sparkray_core.store.copying import Copier

log = logging.getLogger(__name__)

# What has to come in order, or quickly, to a worker of this host.
_PUSHED = frozenset({PushTasks, PushCalls, SetGroup, NameResults})
BATCH = 64  # submissions after which the submitting thread hands them in itself
# Has the objects of this number made again, and calls `made_again` then. Called with the lock held: it only takes note.
Maker = Callable[[int], None]
OTHERS_S = 0.05  # for so long after a message that is no task's result, what comes is handled as it comes
BATCHES = 10_000  # of submissions whose time is remembered: 0.2 s of tasks one by one at their quickest, mostly hours


class LocalProcess:
    """Connected from `connect` until `close`. Every method may be called from any thread."""

    def __init__(self, me: ProcessId, folder: str, token: bytes, role: str, settings: Settings | None = None) -> None:
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
        self.settings = settings or Settings()
        keeper = self.raylet_id if role == "worker" else None
        self.owner = Owner(self.me, owner_limits(self.settings), keeper)
        self.lock = threading.Lock()
        self.pump = Pump(f"sparkray-{role}", self._turn)
        self.counter = itertools.count(1)
        self.pending: deque[Task] = deque()
        self.records = Records(self.settings.task_records)
        self.handed_in: deque[tuple[int, float]] = deque(maxlen=BATCHES)  # tasks from this number on: when (monotonic)
        # For what is not the owner's, or not its alone. Called with the lock held.
        self.handlers: dict[type, Callable[[ProcessId, Any], None]] = {
            LeaseLost: self._on_death,
            ActorChanged: self._on_death,
        }
        self.on_quiet: Callable[[], None] | None = None  # called by the side thread's turns, lock not held
        # Called around waits of user code, with what is waited for if nothing but all of it ends the wait.
        self.on_block: Callable[[Getter | None, list[Entry] | None], Callable[[], None] | None] | None = None
        self.on_pause: Callable[[], None] | None = None  # called when such a wait was paused
        self._connections: dict[ProcessId, Connection] = {}
        self._by_fd: dict[int, Any] = {}
        self._others_until = 0.0  # something else than results of tasks came: who sent it may soon want more
        self._greeting: dict[hello.Handshake, None] = {}  # connected, but the token is still to come; oldest first
        self._near = Near(folder, self.node)
        self._unpins: deque[ObjectId] = deque()
        self.unhandled = Unhandled()
        self.pins = Pins(0)
        self.copier: Copier | None = None  # from the first large value on
        self.mapping: MapAhead | None = None
        # What the last `wait` left, until the next turn: it must not keep objects alive for longer than that.
        self.rest: list[Any] | None = None
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
            self.pins = Pins(welcome.store_bytes if self.role == "driver" else 0)
        except BaseException:
            connection.close()
            raise
        self.session = welcome.session
        self.raylet = connection
        self._add(connection)
        self._become_current()
        with self.lock:
            self._handle(connection, behind)
        self.pump.start()

    def _await_welcome(self, connection: Connection) -> tuple[Registered, list[bytes]]:
        """The raylet's welcome, and the frames that came right behind it."""
        limit = self.settings.reply_limit_s
        while True:
            if not select.select([connection], [], [], limit)[0]:
                raise ConnectionLost(connection.peer, f"it did not answer within {limit:g} s")
            frames = connection.receive()
            if frames:
                message = decode(frames[0], ENVELOPE_BYTES)
                assert isinstance(message, Registered), message
                return message, frames[1:]

    def listen(self) -> None:
        """Let the processes of this node connect to us directly. Workers do, before they register."""
        self._listener = hello.listen(socket_path(self.folder, self.me))
        self._by_fd[self._listener.fileno()] = self._listener
        self.pump.register(self._listener.fileno())

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
        if self.mapping is not None:
            self.mapping.close()
        copier, self.copier = self.copier, None
        if copier is not None:
            copier.close()
        self.segment.close()
        if self._listener is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket_path(self.folder, self.me))

    def abandon(self) -> None:
        """In a child that was forked from this process: give up the sockets, which the parent goes on with.

        They are not taken out of the sets of the two epolls, which are the parent's too. The wake-up pipe stays open: a
        destructor may still write to it, and must not hit a file that got its number.
        """
        self._closed = True
        self.pump.abandon()
        for connection in list(self._by_fd.values()):
            connection.close()

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
            moment = now()
            self.handed_in.append((tasks[0].count, moment))
            self._perform(self.owner.submit(tasks, moment))
        unpins: list[ObjectId] = []
        if count:
            entries = [dropped.popleft() for _ in range(count)]
            if self.pins.held:
                unpins = self.pins.dropped(entries)
            self._perform(self.owner.drop(entries))
        while object_ref.dropped_streams:
            self._perform(self.owner.drop_stream(object_ref.dropped_streams.popleft()))
        released = self._unpins  # after `dropped`: of what rests, nobody is told that its last view died
        while released:
            unpins += self.pins.released(released.popleft())
        if unpins:
            self._send(self.raylet_id, UnpinObjects(unpins))

    def next_entry(self) -> Entry:
        return Entry(self.me, next(self.counter))

    # ------------------------------------------------------------------ turning
    def _turn(self, timeout: float | None) -> bool:
        """Poll, and handle what came. Only the pump's leader calls this."""
        try:
            events = self.pump.poll(timeout)
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
                self._on_alarm()
            if self.pump.idle and events and now() >= self._others_until:
                self.pump.lull = self.owner.leasing.lull()
        self.rest = None
        if self.on_quiet is not None:
            self.on_quiet()
        if self.unhandled.waiting:
            self.unhandled.report()
        return bool(events)

    def _kick_if_any(self) -> None:
        if self.pending or object_ref.dropped or object_ref.dropped_streams or self._unpins:
            self._kick()

    def _ready(self, fd: int, event: int) -> None:
        source = self._by_fd.get(fd)
        if isinstance(source, Connection):
            if event & WRITE:
                source.flush()
                if not source.wants_write:
                    self.pump.want_write(fd, wanted=False)
            if event & ~WRITE:
                self._read(source)
        elif isinstance(source, hello.Handshake):
            self._shake(fd, source)
        elif source is not None:
            self._accept()
        else:
            self.pump.calm(fd)

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
        peer = connection.peer
        for frame in frames:
            try:
                message = decode(frame, ENVELOPE_BYTES)
            except BadFrame as bad:
                log.warning("a frame from %s cannot be read and is dropped: %s", connection.peer.hex(), bad.why)
                continue
            kind = type(message)
            if kind is not TaskResults:
                self._others_until = now() + OTHERS_S
                if isinstance(message, NodeGone):
                    self._part_from(message.node)
            handler = handlers.get(kind)
            sender = ProcessId(frame[16:32])
            if (
                sender != peer and connection is not self.raylet
            ):  # which relays what others sent, and checks whose it is
                log.warning("%s of %s in the name of %s is dropped", kind.__name__, peer.hex(), sender.hex())
                continue
            # Those are not looked into: it would cost as much as handling them. What they say counts only if it is
            # about tasks that their sender has from us, or calls of ours.
            if kind not in HOT and (wrong := wrong_field(message)) is not None:
                log.warning("%s of %s is dropped: its %s is not of its type", kind.__name__, sender.hex(), wrong)
                continue
            try:
                if handler is not None:
                    handler(sender, message)
                else:
                    self._perform(owner.handle(sender, message, now()))
            except MALFORMED:
                log.exception("%s of process %s makes no sense and is dropped", kind.__name__, sender.hex())

    def _on_death(self, sender: ProcessId, message: LeaseLost | ActorChanged) -> None:
        """A worker that works for us died, perhaps. What it had said before counts: its connection is read first."""
        worker = self.owner.worker_lost(message)
        connection = self._connections.get(worker) if worker is not None else None
        if connection is not None:
            self._read_to_its_end(connection)
        self._perform(self.owner.handle(sender, message, now()))

    def _part_from(self, node: NodeId) -> None:
        """It is dead, or will find out that it was given up. What its processes had told us before counts, no more."""
        self._near.bury(node)
        for process, connection in list(self._connections.items()):
            if node_of(process) == node and connection is not self.raylet:
                self._read_to_its_end(connection)
                if self._connections.get(process) is connection:
                    self._lose(connection, "its node is gone")

    def _read_to_its_end(self, connection: Connection) -> None:
        """Or to where there is nothing more for now."""
        while connection is not self.raylet:
            try:
                frames = connection.receive()
            except ConnectionLost as lost:
                self._lose(connection, lost.why)
                break
            if not frames:
                break
            self._handle(connection, frames)

    def _accept(self) -> None:
        for late in [shake for shake in self._greeting if shake.deadline <= now()]:
            self._end_greeting(late)
        while (shake := hello.accept(self._listener, self.token, now())) is not None:
            if len(self._greeting) >= hello.MOST_GREETING:
                self._end_greeting(next(iter(self._greeting)))
            self._greeting[shake] = None
            self._by_fd[shake.fileno()] = shake
            self.pump.register(shake.fileno())

    def _end_greeting(self, shake: hello.Handshake) -> None:
        """It connected and has not shown the token in time, or too many others did so after it."""
        fd = shake.fileno()
        del self._greeting[shake], self._by_fd[fd]
        self.pump.unregister(fd)
        shake.close()

    def _shake(self, fd: int, shake: hello.Handshake) -> None:
        try:
            done = shake.receive()
        except hello.HelloRefused as refused:
            log.warning("%s", refused)
            self._greeting.pop(shake, None)
            del self._by_fd[fd]
            self.pump.unregister(fd)
            return
        if done is not None:
            self._greeting.pop(shake, None)
            connection, _ = done
            if connection.peer in (self.me, self.raylet_id):
                log.warning("a peer was refused: it says that it is our raylet, or we")
                del self._by_fd[fd]
                self.pump.unregister(fd)
                connection.close()
                return
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
            from sparkray_core.run.child import word_left

            effects: list[Effect] = []
            self.owner.end(f"the raylet of this node is gone ({word_left(self.folder) or why})", effects)
            self._give_up_asking()
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
            elif type(effect) is MakeAgain:
                maker: Maker = effect.maker  # type: ignore[assignment]
                maker(effect.delivery)
            else:
                raise TypeError(f"an owner does not wish for {effect}")

    def _frame(self, to: ProcessId, message: Message) -> bytes:
        return to + self.me + encode(message)

    def _send(self, to: ProcessId, message: Message) -> None:
        connection = self._connections.get(to)
        if connection is None:
            if to == self.me:  # tasks too: a worker that is free again may get those which it has left behind
                handler = self.handlers.get(type(message))
                if handler is not None:
                    handler(self.me, message)
                else:
                    self._perform(self.owner.handle(self.me, message, now()))
                return
            connection = self._route(to, message)
        connection.send(to + self.me + encode(message))
        if connection.wants_write:
            self.pump.want_write(connection.fileno(), wanted=True)

    def _route(self, to: ProcessId, message: Message) -> Connection:
        """Straight to a worker of this host when work is pushed to it; by way of the raylet otherwise."""
        path = self._near.path_of(to) if type(message) in _PUSHED else None
        if path is not None:
            try:
                connection = hello.connect(path, self.token, self.me, self.role, to)
            except ConnectionLost as lost:
                # It died since; the raylet says so itself. Or it does not listen, then the raylet relays.
                log.debug("no direct way: %s", lost)
                self._near.does_not_listen(to)
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

    def _on_alarm(self) -> None:
        """The owner's alarm rang, or another's. The lock is held."""

    def _become_current(self) -> None:
        """Connected: references of this process are ours from now on."""

    def _give_up_asking(self) -> None:
        """The raylet is gone: whoever waits for its answer waits in vain. Called with the lock held."""
