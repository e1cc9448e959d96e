"""Who is gone for good, at once: libzmq mends broken connections in silence, and one has to ask it about them.

A connection breaks because the network failed for a moment, or because the process at its other end is no more: then
the system there closes all its sockets, the one on which it listened among them. So a *probe* follows each break, a
plain TCP connection to where the peer listens:

    it is refused, or ends without a byte     nobody listens there: the peer is gone
    libzmq's greeting comes                   the peer lives, and has connected again by now
    nothing comes                             the machine is not reached, or the process stopped: its silence decides

One monitor watches the ROUTER. Its events name connections by their descriptors. Whose one is, its first message tells
(ZMQ_SRCFD): so messages are looked at more closely while there is a new connection that has said nothing yet.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

import zmq

from sparkray_core.ids import NodeId
from sparkray_core.wire.descriptors import Descriptors

log = logging.getLogger(__name__)

_NOBODY = (errno.ECONNREFUSED, errno.ECONNRESET)
_EVENT = struct.Struct("=HI")  # what, and which descriptor


class Breaks:
    """Of the connections that come in at one ROUTER."""

    def __init__(
        self, router: zmq.Socket[bytes], descriptors: Descriptors, address_of: Callable[[NodeId], str | None]
    ) -> None:
        """
        Args:
            descriptors: gets what there is to wait for.
            address_of: where a peer listens, as tcp://host:port; None: not known, or of no interest any more.
        """
        self._monitor = router.get_monitor_socket(int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED))
        self._router = router
        self._descriptors = descriptors
        self._address_of = address_of
        self._fileno = self._monitor.fileno()
        self._peers: dict[int, tuple[NodeId, str]] = {}  # by descriptor: who speaks there, and from which host
        self._probes: dict[int, tuple[NodeId, socket.socket]] = {}  # by descriptor
        self._gone: list[NodeId] = []
        self.unknown: set[int] = set()  # connections of which it is not known yet whose they are
        descriptors.add(self._fileno)
        self._monitor.getsockopt(zmq.EVENTS)  # libzmq signals what comes to who has looked before, and found nothing

    def heard(self, node: NodeId, frame: zmq.Frame) -> None:
        """A message of this peer came in this frame."""
        with suppress(zmq.ZMQError):  # no connection: not over TCP
            descriptor = int(frame.get(zmq.SRCFD))
            if descriptor in self.unknown:
                self.unknown.discard(descriptor)
                self._peers[descriptor] = node, str(frame.get("Peer-Address"))

    def read(self, ready: set[int]) -> None:
        """
        Args:
            ready: the descriptors that have something.
        """
        if self._fileno in ready:
            with suppress(zmq.Again):
                while True:
                    self._happened(*_EVENT.unpack(self._monitor.recv_multipart(zmq.DONTWAIT)[0]))
        for descriptor in [descriptor for descriptor in self._probes if descriptor in ready]:
            self._answered(descriptor)

    def gone(self) -> list[NodeId]:
        """Who is gone, of which this has not told yet. To be believed once all that arrived from them has been read."""
        gone, self._gone = self._gone, []
        return gone

    def forget(self, node: NodeId) -> None:
        for descriptor in [descriptor for descriptor, (probed, _) in self._probes.items() if probed == node]:
            self._end_probe(descriptor)

    def close(self) -> None:
        for descriptor in list(self._probes):
            self._end_probe(descriptor)
        self._descriptors.remove(self._fileno)
        self._router.disable_monitor()
        self._monitor.close(0)

    def _happened(self, event: int, descriptor: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self.unknown.add(descriptor)
            return
        self.unknown.discard(descriptor)
        peer = self._peers.pop(descriptor, None)
        if peer is not None:
            self._probe(*peer)

    def _probe(self, node: NodeId, heard_from: str) -> None:
        address = self._address_of(node)
        if address is None or any(probed == node for probed, _ in self._probes.values()):
            return
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        with suppress(ValueError):  # a name: to look it up could take long, and it came from there
            heard_from = str(ipaddress.IPv4Address(host))
        try:
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0))
        except OSError as error:
            log.warning("node %s cannot be looked for: %s", node.hex(), error)
            return
        probe.setblocking(False)
        code = probe.connect_ex((heard_from, int(port)))
        if code in (0, errno.EINPROGRESS):
            self._probes[probe.fileno()] = node, probe
            self._descriptors.add(probe.fileno())
            return
        probe.close()
        if code in _NOBODY:
            self._gone.append(node)

    def _answered(self, descriptor: int) -> None:
        node, probe = self._probes[descriptor]
        try:
            gone = not probe.recv(1)
        except BlockingIOError:
            return
        except OSError as error:
            gone = error.errno in _NOBODY
        self._end_probe(descriptor)
        if gone:
            self._gone.append(node)

    def _end_probe(self, descriptor: int) -> None:
        _, probe = self._probes.pop(descriptor)
        self._descriptors.remove(descriptor)
        probe.close()
