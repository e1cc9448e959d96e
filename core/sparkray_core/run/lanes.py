"""Lanes: chunks of large objects from raylet to raylet, by TLS over a connection of their own beside the link.

A link's CURVE is the same code on every processor; TLS has AES, for which they have instructions, and is several times
as fast. A thread at either end does the work. Nothing but chunks goes there, and which way one came is all the same:

    source  AskLane ──────link──────> puller       with the first large chunk, which goes by the link, too
            <─────link── LaneAt(port)              0: there is none to be had
            ══════════ connects, TLS ═════════>
            chunk, chunk, ... ════════════════>    what cannot be sent goes by the link after all
                                                   it breaks: the puller asks again for what it lacks (`LaneBroke`)
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sparkray_core.ids import NodeId, ObjectId
from sparkray_core.messages import ObjectChunk
from sparkray_core.run.loop import Loop
from sparkray_core.run.mailbox import Mailbox

if TYPE_CHECKING:
    import ssl

WORTH_BYTES = 1 << 20  # a smaller chunk is no reason to open one
MOST_BYTES = 64 << 20  # of one chunk; whoever says more is broken
MOST_LANES = 64  # either way: each is a thread. The next nodes' chunks go by their links
CONNECT_S = 3.0  # a port that a firewall keeps silent about costs this once
RETRY_S = 60.0  # after which a node is asked for a lane again, if there was none to be had
IDLE_S = 30.0  # then it is closed
STALLED_S = 10.0  # for which the other end may not confirm what was sent, or not answer at all
CLOSE_S = 1.0
KEPT_BUFFERS = 8  # of a chunk each

_CHUNK = struct.Struct("<28sQQI")  # object, first byte, size of the object, length of what follows

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A lane to a node, as its source has it."""

    node: NodeId
    host: str
    chunks: queue.SimpleQueue[ObjectChunk | None] = field(default_factory=queue.SimpleQueue)
    port: int | None = None  # None: asked for
    over_at: float = 0.0  # when there was none, or it broke: since then everything goes by the link
    sock: socket.socket | None = None


@dataclass(frozen=True, slots=True)
class _Came:
    node: NodeId
    chunk: ObjectChunk | None  # None: the lane is over


@dataclass(frozen=True, slots=True)
class _Over:
    lane: _Outgoing
    unsent: ObjectChunk | None
    why: str  # empty: nobody needed it any more


class Lanes:
    """All methods are for the loop's thread."""

    def __init__(
        self,
        node: NodeId,
        secret: bytes | None,
        host: str,
        loop: Loop,
        ask: Callable[[NodeId], object],
        by_link: Callable[[NodeId, ObjectChunk], object],
        on_chunk: Callable[[NodeId, ObjectChunk], object],
        on_broken: Callable[[NodeId], object],
    ) -> None:
        """
        Args:
            secret: of the session; None: there are no lanes.
            host: numeric address to listen on.
            ask: send `AskLane`.
            by_link: send a chunk that could not go by its lane.
            on_chunk: one has come.
            on_broken: this node's lane to here is over; chunks may be lost.
        """
        self._node = node
        self._secret = secret
        self._host = host
        self._loop = loop
        self._ask = ask
        self._by_link = by_link
        self._on_chunk = on_chunk
        self._on_broken = on_broken
        self._out: dict[NodeId, _Outgoing] = {}
        self._listener: socket.socket | None = None
        self._incoming: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._told: Mailbox[_Came | _Over] | None = None
        self._buffers: queue.SimpleQueue[bytearray] = queue.SimpleQueue()  # whose pages are warm
        self._made: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        self._making = threading.Lock()
        self._closed = False

    # ------------------------------------------------------------------------------ of a source
    def send(self, node: NodeId, address: str | None, chunk: ObjectChunk) -> bool:
        """False: it has to go by the link.

        Args:
            address: of the node's link, "tcp://host:port".
        """
        lane = self._out.get(node)
        if lane is None or (lane.over_at and self._loop.clock() >= lane.over_at + RETRY_S):
            crowded = sum(not lane.over_at for lane in self._out.values()) >= MOST_LANES
            if len(chunk.data) >= WORTH_BYTES and address is not None and not crowded and self._can():
                self._out[node] = _Outgoing(node, address.partition("//")[2].rpartition(":")[0].strip("[]"))
                self._ask(node)
            return False
        if lane.over_at or lane.port is None:
            return False
        lane.chunks.put(chunk)
        return True

    def learn(self, node: NodeId, port: int) -> None:
        """The answer to what was asked."""
        lane = self._out.get(node)
        if lane is None or lane.port is not None:
            return
        lane.port = port
        if port:
            self._begin(partial(self._feed, lane, self._mailbox()), f"to-{node.hex()[:6]}")
        else:
            lane.over_at = self._loop.clock()

    # ------------------------------------------------------------------------------ of a puller
    def open(self) -> int:
        """The port where others' lanes end; 0: there is none."""
        if self._listener is None and self._can():
            try:
                family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
                self._listener = socket.create_server((self._host, 0), family=family)
            except OSError as error:
                log.warning("no lanes for large objects: %s cannot be listened on: %s", self._host, error)
                return 0
            self._listener.setblocking(False)
            self._mailbox()
            self._loop.watch(self._listener.fileno(), self._accept)
        return 0 if self._listener is None else int(self._listener.getsockname()[1])

    def _can(self) -> bool:
        return self._secret is not None and importlib.util.find_spec("cryptography") is not None

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._incoming) >= MOST_LANES:
            sock.close()
            return
        self._incoming.add(sock)
        self._begin(partial(self._drain, sock, self._mailbox()), "from")

    # ------------------------------------------------------------------------------ both
    def forget(self, node: NodeId) -> None:
        """It is dead."""
        lane = self._out.pop(node, None)
        if lane is not None:
            _end(lane)

    def close(self) -> None:
        self._closed = True
        for lane in self._out.values():
            _end(lane)
        for sock in list(self._incoming):
            _shut(sock)
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
        for thread in list(self._threads):
            thread.join(CLOSE_S)
        if self._told is not None:
            self._told.close()

    def _mailbox(self) -> Mailbox[_Came | _Over]:
        if self._told is None:
            self._told = Mailbox(self._loop, self._on_told)
        return self._told

    def _begin(self, work: Callable[[], None], name: str) -> None:
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        thread = threading.Thread(target=work, name=f"sparkray-lane-{name}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _on_told(self, told: _Came | _Over) -> None:
        if isinstance(told, _Over):
            self._on_over(told.lane, told.unsent, told.why)
        elif told.chunk is not None:
            self._on_chunk(told.node, told.chunk)  # which is done with its bytes then
            if isinstance(told.chunk.data, bytearray) and self._buffers.qsize() < KEPT_BUFFERS:
                self._buffers.put(told.chunk.data)
        else:
            self._on_broken(told.node)

    def _on_over(self, lane: _Outgoing, unsent: ObjectChunk | None, why: str) -> None:
        """Nothing is put there any more: what its thread has not sent goes by the link."""
        if self._out.get(lane.node) is not lane:
            return  # the node is dead
        if why:
            log.info("the lane to node %s is over, and its chunks go by the link: %s", lane.node.hex(), why)
            lane.over_at = self._loop.clock()
        else:
            del self._out[lane.node]
        if unsent is not None:
            self._by_link(lane.node, unsent)
        with contextlib.suppress(queue.Empty):
            while (chunk := lane.chunks.get_nowait()) is not None:
                self._by_link(lane.node, chunk)

    # ------------------------------------------------------------------------------ in threads
    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        with self._making:
            if self._made is None:
                from sparkray_core.wire import session_tls  # and `ssl`: 0.2 s that a node without lanes does not need

                assert self._secret is not None
                self._made = session_tls.contexts(self._secret)
            return self._made

    def _feed(self, lane: _Outgoing, told: Mailbox[_Came | _Over]) -> None:
        chunk: ObjectChunk | None = None
        why = ""
        try:
            with self._connect(lane) as sock:
                sock.sendall(self._node)
                while (chunk := lane.chunks.get(timeout=IDLE_S)) is not None:
                    sock.sendall(_CHUNK.pack(chunk.object, chunk.first, chunk.size, len(chunk.data)))
                    sock.sendall(chunk.data)
                    chunk = None
        except queue.Empty:
            pass
        except (OSError, ImportError, ValueError) as error:  # ssl.SSLError is an OSError
            why = str(error) or type(error).__name__
        told.put(_Over(lane, chunk, why))

    def _connect(self, lane: _Outgoing) -> ssl.SSLSocket:
        context = self._contexts()[1]
        assert lane.port
        sock = socket.create_connection((lane.host, lane.port), CONNECT_S)
        lane.sock = sock
        try:
            _watch_over(sock)
            tls = context.wrap_socket(sock)
        except BaseException:
            sock.close()
            raise
        lane.sock = tls
        tls.settimeout(None)
        return tls

    def _drain(self, sock: socket.socket, told: Mailbox[_Came | _Over]) -> None:
        node: NodeId | None = None
        tls = sock
        try:
            sock.settimeout(CONNECT_S)
            _watch_over(sock)
            tls = self._contexts()[0].wrap_socket(sock, server_side=True)
            self._incoming.add(tls)
            self._incoming.discard(sock)
            said = bytearray(len(self._node))
            _receive_into(tls, said)
            node = NodeId(bytes(said))
            tls.settimeout(None)
            header = bytearray(_CHUNK.size)
            while True:
                _receive_into(tls, header)
                some, first, size, length = _CHUNK.unpack(header)
                if length > MOST_BYTES or first + length > size:
                    raise ValueError(f"{length} bytes at {first} of {size} make no sense")
                data = self._buffer(length)
                _receive_into(tls, data)
                told.put(_Came(node, ObjectChunk(ObjectId(some), first, size, data)))
        except EOFError:
            pass
        except (OSError, ImportError, ValueError) as error:
            if not self._closed:
                log.info("a lane from %s is over: %s", "an unknown" if node is None else node.hex(), error)
        finally:
            tls.close()
            sock.close()
            self._incoming.discard(sock)
            self._incoming.discard(tls)
            if node is not None:
                told.put(_Came(node, None))

    def _buffer(self, length: int) -> bytearray:
        with contextlib.suppress(queue.Empty):
            while len(found := self._buffers.get_nowait()) != length:
                pass
            return found
        return bytearray(length)


def _end(lane: _Outgoing) -> None:
    lane.chunks.put(None)
    if lane.sock is not None:
        _shut(lane.sock)


def _shut(sock: socket.socket) -> None:
    """Whoever reads or writes there returns."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which would wait


def _receive_into(sock: socket.socket, data: bytearray) -> None:
    """All of it. Raises `EOFError` when it ends before."""
    with memoryview(data) as view:
        at = 0
        while at < len(data):
            came = sock.recv_into(view[at:])
            if not came:
                raise EOFError
            at += came


def _watch_over(sock: socket.socket) -> None:
    """A connection whose other end vanished without a word breaks after STALLED_S."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 4), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on macOS, which then takes its hours
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_S * 1000))
