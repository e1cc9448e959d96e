"""The processes of this node, as the raylet sees them: accepted, greeted, read from and written to."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from sparkray_core.ids import NodeId, ProcessId, node_of, raylet_of
from sparkray_core.run.loop import Loop
from sparkray_core.wire import hello
from sparkray_core.wire.codec import BadFrame
from sparkray_core.wire.frames import Body, Connection, ConnectionLost, FrameTooLarge

NEIGHBOUR = "neighbour"  # the role of a raylet of the same host, in its hello
OnFrames = Callable[[ProcessId, "list[bytes]"], None]
log = logging.getLogger(__name__)


class LocalPeers:
    """Connections by process. What is sent in one turn of the loop is written by one `flush`."""

    def __init__(
        self,
        loop: Loop,
        node: NodeId,
        listener: socket.socket,
        token: bytes,
        segment: int,
        on_frames: OnFrames,
        on_lost: Callable[[ProcessId], None],
    ) -> None:
        """
        Args:
            segment: the descriptor that every process is handed before any frame.
            on_frames: gets what one process sent, in order; it may raise `BadFrame`, which ends the connection.
            on_lost: the process closed its connection, or was cut off.
        """
        self._loop = loop
        self._node = node
        self._listener = listener
        self._token = token
        self._segment = segment
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._greeting: dict[hello.Handshake, None] = {}  # oldest first
        self._connections: dict[ProcessId, Connection] = {}
        self._outgoing: dict[ProcessId, list[bytes]] = {}
        self._overdue = loop.timer(self._drop_overdue)
        loop.watch(listener.fileno(), self._accept)

    def __contains__(self, process: ProcessId) -> bool:
        return process in self._connections

    # ------------------------------------------------------------------------------ writing
    def send(self, to: ProcessId, frame: Body) -> bool:
        """Write the frame at the next `flush`. False: the process is not connected (any more), and misses it."""
        connection = self._connections.get(to)
        if connection is None:
            log.debug("dropped a frame to %s, which is not connected", to.hex())
            return False
        if isinstance(frame, bytes):
            self._outgoing.setdefault(to, []).append(frame)
        else:  # large: by itself, after what came before it
            self._write_gathered(connection)
            self._write(connection, connection.send, frame)
        return True

    def flush(self) -> None:
        for process in list(self._outgoing):
            self._write_gathered(self._connections[process])

    def close(self) -> None:
        """Close the listener and all connections, after writing what the sockets take at once."""
        self.flush()
        self._loop.forget(self._listener.fileno())
        self._listener.close()
        for handshake in list(self._greeting):
            self._end_greeting(handshake)
            handshake.close()
        for process in list(self._connections):
            self._close(process)

    def _write_gathered(self, connection: Connection) -> None:
        frames = self._outgoing.pop(connection.peer, None)
        if frames is None:
            return
        if len(frames) == 1:
            self._write(connection, connection.send, frames[0])
        else:
            self._write(connection, connection.send_many, frames)

    def _write(self, connection: Connection, write: Callable[[Any], None], what: Body | list[bytes]) -> None:
        try:
            write(what)
        except FrameTooLarge as error:
            log.error("dropped what was for process %s [%s]", connection.peer.hex(), error)
        self._loop.want_write(connection.fileno(), connection.wants_write)

    def _write_on(self, connection: Connection) -> None:
        connection.flush()
        self._loop.want_write(connection.fileno(), connection.wants_write)

    # ------------------------------------------------------------------------------ reading
    def _read(self, connection: Connection) -> bool:
        """Whether there was anything."""
        try:
            frames = connection.receive()
            self._on_frames(connection.peer, frames)
        except ConnectionLost as lost:
            log.debug("%s", lost)
        except BadFrame as bad:
            log.error("process %s is cut off: %s", connection.peer.hex(), bad)
        else:
            return bool(frames)
        self._lose(connection)
        return False

    def end(self, process: ProcessId) -> None:
        """It has ended: hand on what it wrote before, and let it go, even if a child of it holds the socket open."""
        connection = self._connections.get(process)
        while connection is not None and process in self._connections:
            if not self._read(connection):
                self._lose(connection)

    def _lose(self, connection: Connection) -> None:
        if connection.peer in self._connections:
            self._close(connection.peer)
            self._on_lost(connection.peer)

    def _close(self, process: ProcessId) -> None:
        connection = self._connections.pop(process)
        self._outgoing.pop(process, None)
        self._loop.forget(connection.fileno())
        connection.close()

    # ------------------------------------------------------------------------------ greeting
    def _accept(self) -> None:
        while (handshake := hello.accept(self._listener, self._token, self._loop.clock())) is not None:
            if len(self._greeting) >= hello.MOST_GREETING:
                oldest = next(iter(self._greeting))
                self._end_greeting(oldest)
                oldest.close()
            self._greeting[handshake] = None
            self._loop.watch(handshake.fileno(), partial(self._greet, handshake))
            self._overdue.wake_at(handshake.deadline)

    def _greet(self, handshake: hello.Handshake) -> None:
        descriptor = handshake.fileno()
        try:
            greeted = handshake.receive()
        except hello.HelloRefused as refused:
            log.warning("%s", refused)
            self._greeting.pop(handshake, None)
            self._loop.forget(descriptor)
            return
        if greeted is None:
            return
        self._end_greeting(handshake)
        connection, said = greeted
        if said.role == NEIGHBOUR and said.process == raylet_of(node_of(said.process)):
            self._show(connection)
            return
        try:
            if node_of(said.process) != self._node or said.process == raylet_of(self._node):
                raise hello.HelloRefused(f"process {said.process.hex()} is none of node {self._node.hex()}")
            if said.process in self._connections:
                raise hello.HelloRefused(f"process {said.process.hex()} is connected already")
            hello.send_fd(connection.sock, self._segment)
        except (hello.HelloRefused, OSError) as error:
            log.warning("%s", error)
            connection.close()
            return
        log.debug("process %s (%s) connected", said.process.hex(), said.role)
        self._connections[connection.peer] = connection
        self._loop.watch(descriptor, partial(self._read, connection), partial(self._write_on, connection))

    def _show(self, connection: Connection) -> None:
        """A raylet of this host, which is to read what it pulls from us in place. It gets the segment, and that is all.

        It may only read: its descriptor is another one than ours, where the system has a way to open it anew.
        """
        descriptor = self._segment
        with contextlib.suppress(OSError):
            descriptor = os.open(f"/proc/self/fd/{self._segment}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            hello.send_fd(connection.sock, descriptor)
        except OSError as error:
            log.warning("the segment cannot be shown to %s: %s", connection.peer.hex(), error)
        finally:
            connection.close()
            if descriptor != self._segment:
                os.close(descriptor)

    def _end_greeting(self, handshake: hello.Handshake) -> None:
        self._greeting.pop(handshake, None)
        self._loop.forget(handshake.fileno())

    def _drop_overdue(self) -> None:
        now = self._loop.clock()
        for handshake in list(self._greeting):
            if handshake.deadline <= now:
                log.warning("a peer did not say hello in time")
                self._end_greeting(handshake)
                handshake.close()
            else:
                self._overdue.wake_at(handshake.deadline)
