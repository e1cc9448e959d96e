"""Packets between nodes over TCP: one ROUTER that hears everybody, one DEALER to each peer that there was something to
say to, all with CURVE.

The session has one key pair, which every node of it holds. A client must know the public key to be able to speak to the
ROUTER at all, and must prove to own the same pair: libzmq asks the ZAP socket below, which is answered in the loop's
own thread. So there is no thread of ours, and a peer without the key never gets a byte past libzmq.

This module, `zmq_breaks` and `zmq_probe` alone import zmq. A context must not cross a fork: make the transport after
the last one.
"""

from __future__ import annotations

import hmac
import logging
from contextlib import suppress

import zmq
from zmq.utils import z85

from sparkray_core.ids import NodeId
from sparkray_core.wire.descriptors import Descriptors
from sparkray_core.wire.frames import MAX_FRAME_BYTES
from sparkray_core.wire.zmq_breaks import Breaks

log = logging.getLogger(__name__)

LINGER_MS = 200  # `close` waits so long at most for a last word to leave; to a peer that reads it takes a few ms
HEARTBEAT_MS = 2_000  # libzmq pings an idle connection so often ...
HEARTBEAT_TIMEOUT_MS = 10_000  # ... and breaks and remakes one that does not answer: TCP alone would wait for minutes
RECONNECT_MS, RECONNECT_MAX_MS = 50, 2_000
HANDSHAKE_MS = 10_000  # for a peer that connects and says nothing
MAX_PACKET_BYTES = MAX_FRAME_BYTES + (1 << 20)  # a frame with the link's header
TURN_PACKETS = 1000  # of one `receive`, so that other sockets have their turn

MOST_SOCKETS = 16_000  # of a context; libzmq's own limit is 1,023, and each costs it some bytes ahead

_ZAP_ADDRESS = "inproc://zeromq.zap.01"  # fixed by ZeroMQ RFC 27
_DOMAIN = b"sparkray"


class CannotListen(OSError):
    """The address cannot be bound: the port is taken, or the interface is not of this host."""

    def __init__(self, endpoint: str, why: str) -> None:
        super().__init__(endpoint, why)
        self.endpoint, self.why = endpoint, why

    def __str__(self) -> str:
        return f"cannot listen on {self.endpoint}: {self.why}. Name another port (0 takes a free one) or interface."


def new_session_keys() -> tuple[bytes, bytes]:
    """(public, secret), 40 characters each. Both are secrets of the session: whoever has them is of it."""
    public, secret = zmq.curve_keypair()
    return public, secret


class ZmqTransport:
    """A `Transport` over TCP.

    How to wait: a selector watches `fileno()`, level-triggered. At every wake call `receive` until `pending` is false:
    libzmq signals a change only, so that what is left unread is not signalled again.
    """

    def __init__(
        self,
        node: NodeId,
        incarnation: bytes,
        keys: tuple[bytes, bytes],
        host: str = "127.0.0.1",
        port: int = 0,
        notices: bool = False,
    ) -> None:
        """Bind, and start libzmq's own two threads.

        Args:
            incarnation: 8 bytes, the link's; so that a new life of a node is another peer to libzmq.
            keys: of the session, from `new_session_keys`.
            host: numeric address of the interface to listen on, which is also the one that others are told.
            port: 0 takes a free one.
            notices: `lost` tells who is gone.

        Raises:
            CannotListen: nothing is left open.
        """
        self._public, self._secret = keys
        self._key = z85.decode(self._public)
        self._identity = node + incarnation
        self._peers: dict[NodeId, str] = {}  # where they are
        self._dealers: dict[NodeId, zmq.Socket[bytes]] = {}
        self._refused: set[bytes] = set()
        self._more = False  # the last `receive` stopped at its turn's end
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MOST_SOCKETS)
        self._authenticator = self._context.socket(zmq.REP)
        self._router = self._context.socket(zmq.ROUTER)
        endpoint = f"tcp://{host}:{port or '*'}"
        try:
            self._authenticator.bind(_ZAP_ADDRESS)
            self._configure(self._router)
            self._router.curve_server = True
            self._router.zap_domain = _DOMAIN
            self._router.handshake_ivl = HANDSHAKE_MS
            self._router.maxmsgsize = MAX_PACKET_BYTES
            self._router.router_handover = True  # a connection remade while its old half is not known to be broken
            self._router.bind(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise CannotListen(endpoint, zmq.strerror(error.errno or 0)) from None
        self._address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._descriptors = Descriptors()
        self._asked = self._authenticator.fileno()
        for descriptor in (self._router.fileno(), self._asked):
            self._descriptors.add(descriptor)
        self._authenticator.getsockopt(zmq.EVENTS)  # from now on its descriptor tells whether anything has come
        self._breaks = Breaks(self._router, self._descriptors, self._address_of) if notices else None

    def _configure(self, socket: zmq.Socket[bytes]) -> None:
        socket.linger = LINGER_MS
        socket.sndhwm = socket.rcvhwm = 0  # a full queue would drop packets; the link knows how much is out
        socket.curve_publickey = self._public
        socket.curve_secretkey = self._secret
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        socket.heartbeat_ttl = HEARTBEAT_TIMEOUT_MS

    @property
    def address(self) -> str:
        return self._address

    def connect(self, peer: NodeId, address: str) -> None:
        if self._peers.get(peer) != address:
            self.disconnect(peer)
            self._peers[peer] = address

    def disconnect(self, peer: NodeId) -> None:
        if self._peers.pop(peer, None) is not None:
            dealer = self._dealers.pop(peer, None)
            if dealer is not None:
                dealer.close()
            if self._breaks is not None:
                self._breaks.forget(peer)

    def send(self, peer: NodeId, packet: bytes) -> bool:
        dealer = self._dealers.get(peer) or self._dealer(peer)
        if dealer is None:
            return False
        try:
            dealer.send(packet, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def _dealer(self, peer: NodeId) -> zmq.Socket[bytes] | None:
        """A new one, for the first packet to this peer. (Most nodes never talk to most others.) None: there is no way
        to it; a later packet tries again."""
        address = self._peers.get(peer)
        if address is None:
            return None
        dealer = None
        try:
            dealer = self._context.socket(zmq.DEALER)
            self._configure(dealer)
            dealer.routing_id = self._identity
            dealer.curve_serverkey = self._public
            dealer.reconnect_ivl = RECONNECT_MS
            dealer.reconnect_ivl_max = RECONNECT_MAX_MS
            dealer.connect(address)
        except zmq.ZMQError as error:  # no address; or more sockets than libzmq or the system gives us
            log.error("node %s cannot be reached at %s: %s", peer.hex(), address, zmq.strerror(error.errno or 0))
            if dealer is not None:
                dealer.close(0)
            return None
        self._dealers[peer] = dealer
        return dealer

    def receive(self) -> list[tuple[NodeId, bytes]]:
        ready = self._descriptors.ready()
        if self._asked in ready:
            self._authenticate()
        arrived: list[tuple[NodeId, bytes]] = []
        self._more = True
        try:
            if self._breaks is not None:
                self._breaks.read(ready)
                while self._breaks.unknown and len(arrived) < TURN_PACKETS:
                    self._receive_from_new(self._breaks, arrived)
            while len(arrived) < TURN_PACKETS:
                parts = self._router.recv_multipart(zmq.DONTWAIT)
                if len(parts) == 2 and len(parts[0]) == 16:
                    arrived.append((NodeId(parts[0][:8]), parts[1]))
        except zmq.Again:
            self._more = False  # so the next arrival makes the descriptor readable
        return arrived

    def _receive_from_new(self, breaks: Breaks, arrived: list[tuple[NodeId, bytes]]) -> None:
        """One packet, with a look at the connection by which it came."""
        frames = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
        if len(frames) == 2 and len(frames[0].buffer) == 16:
            node = NodeId(frames[0].bytes[:8])
            breaks.heard(node, frames[1])
            arrived.append((node, frames[1].bytes))

    def lost(self) -> list[NodeId]:
        return [] if self._breaks is None else [node for node in self._breaks.gone() if node in self._peers]

    def _address_of(self, peer: NodeId) -> str | None:
        return self._peers.get(peer)

    def pending(self) -> bool:
        return self._more

    def fileno(self) -> int:
        return self._descriptors.fileno

    def close(self) -> None:
        for peer in list(self._peers):
            self.disconnect(peer)
        if self._breaks is not None:
            self._breaks.close()
        self._descriptors.close()
        self._router.close()
        self._authenticator.close(0)
        self._context.term()

    def _authenticate(self) -> None:
        """Answer libzmq's questions whether a client's key is welcome (ZeroMQ RFC 27)."""
        with suppress(zmq.Again):
            while True:
                request = self._authenticator.recv_multipart(zmq.DONTWAIT)
                version, number, domain, address, _, mechanism, *keys = request
                facts = version, domain, mechanism
                welcome = facts == (b"1.0", _DOMAIN, b"CURVE") and hmac.compare_digest(keys[0], self._key)
                if not welcome and address not in self._refused:
                    self._refused.add(address)
                    log.warning("a peer at %s was refused: its key is of another session", address.decode())
                status = [b"200", b"OK"] if welcome else [b"400", b"No access"]
                self._authenticator.send_multipart([version, number, *status, b"", b""])
