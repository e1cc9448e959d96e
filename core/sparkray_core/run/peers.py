"""The other nodes and the head: a link to each, over the one transport of this process.

A connection of the transport carries packets one way, so a peer can answer only once it knows our address. Raylets
read each other's in the head's table, but the head does not know a raylet before it has received its first message,
which a link does not deliver before both ends have answered each other. Therefore an *introduction*, our address,
goes ahead of every packet to a peer that was not heard yet. Who receives one was reached by an owner of the session's
keys, and needs nothing else to believe it.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from math import inf
from typing import Any

from sparkray_core.ids import HEAD_NODE, SHARDS, NodeId
from sparkray_core.model.link import ACK_DELAY_S, Deliver, Link, LinkEffect, PeerRestarted, PeerSilent, Transmit
from sparkray_core.run.config import NodeConfig
from sparkray_core.run.limits import peer_silence_s
from sparkray_core.run.loop import Loop
from sparkray_core.settings import Settings
from sparkray_core.wire.transport import Transport
from sparkray_core.wire.zmq_transport import ZmqTransport

_INTRODUCTION = b"sparkray lives at "  # no link packet begins so: those begin with 8 random bytes
_HELD_FRAMES = 10_000  # for a node whose address is not known yet; more is a bug of whoever sends there

_ADDRESS = re.compile(rb"(?:tcp|memory)://[A-Za-z0-9_.:\[\]-]{1,255}")
INTRODUCED, ACCEPTED = "introduced", "accepted"  # what is noted
_DESCRIPTORS = 50_000  # of a process that talks to very many nodes, if the system allows so many
_HELD_NODES = 1_000  # unknown ones at once, for the same reason

OnPayloads = Callable[[NodeId, "list[bytes]"], None]
OnLost = Callable[[NodeId, str], None]
log = logging.getLogger(__name__)


class Peers:
    """What is sent in one turn of the loop goes out, one batch to each peer, with `flush`."""

    def __init__(
        self,
        loop: Loop,
        transport: Transport,
        address: str,
        on_payloads: OnPayloads,
        on_lost: OnLost,
        settings: Settings | None = None,
        note: Callable[[tuple[Any, ...]], None] | None = None,
        seed: bytes = b"",
    ) -> None:
        """
        Args:
            address: the transport's, as others reach it.
            on_payloads: gets what one peer sent, in order, nothing twice.
            on_lost: the peer is silent though it should answer, or gone, or another life of it answers.
            note: gets what `replay` needs, to bring another process to where this one is.
            seed: of the links' incarnations, then: the other process's are the same.
        """
        self.address = address
        self._silence_s = peer_silence_s(settings or Settings())
        self._loop = loop
        self._transport = transport
        self._on_payloads = on_payloads
        self._on_lost = on_lost
        self._links: dict[NodeId, Link] = {}
        self._outgoing: dict[NodeId, list[bytes]] = {}
        self._note = note
        self._seed = seed
        self._replaying = False  # nothing is transmitted: a life before has done that
        self._reachable: dict[NodeId, str] = {}  # and where
        self._heard: set[NodeId] = set()
        self._forgotten: set[NodeId] = set()
        self._timer = loop.timer(self._on_clock)
        self._wakes: list[tuple[float, NodeId]] = []  # a heap; a link may have several entries, only the first counts
        self._next_wake: dict[NodeId, float] = {}
        loop.watch(transport.fileno(), self._on_readable)

    @classmethod
    def open(cls, config: NodeConfig, me: NodeId, loop: Loop, on_payloads: OnPayloads, on_lost: OnLost) -> Peers:
        """Over TCP, as the configuration says.

        Raises:
            CannotListen: the address cannot be bound.
        """
        transport, address = open_transport(config, me)
        return cls(loop, transport, address, on_payloads, on_lost, config.settings)

    # ------------------------------------------------------------------------------ who
    def connect(self, node: NodeId, address: str) -> None:
        """The node is reached there; what waited for that goes out with the next `flush`. Ids are used once, so one
        that was forgotten stays so."""
        if node not in self._forgotten:
            self._transport.connect(node, address)
            self._reachable[node] = address

    def address_of(self, node: NodeId) -> str | None:
        return self._reachable.get(node)

    def forget(self, node: NodeId) -> None:
        """Send what was meant for it, then drop the link; what it still sends is not looked at."""
        self._flush_to(node)
        self._forgotten.add(node)
        self._reachable.pop(node, None)
        self._links.pop(node, None)
        self._outgoing.pop(node, None)
        self._next_wake.pop(node, None)
        self._transport.disconnect(node)

    # ------------------------------------------------------------------------------ writing
    def send(self, node: NodeId, frame: bytes) -> bool:
        """To be delivered there, after all that was sent there before, unless the peer is lost. False: it is lost."""
        if node in self._forgotten:
            return False
        if node not in self._reachable and node not in self._outgoing and len(self._outgoing) >= _HELD_NODES:
            log.error("dropped a frame for node %s: frames for too many unknown nodes are held", node.hex())
            return False
        frames = self._outgoing.setdefault(node, [])
        if node not in self._reachable and len(frames) >= _HELD_FRAMES:
            log.error("dropped a frame for node %s, of which nobody has told the address", node.hex())
            return False
        frames.append(frame)
        return True

    def flush(self) -> None:
        for node in list(self._outgoing):
            self._flush_to(node)

    @property
    def unacknowledged(self) -> bool:
        """Whether anything is under way that its receiver has not confirmed."""
        return bool(self._outgoing) or any(link.unacked_bytes for link in self._links.values())

    @property
    def unacknowledged_bytes(self) -> int:
        return sum(link.unacked_bytes for link in self._links.values())

    def silence(self, node: NodeId) -> float:
        """Seconds since anything came from there."""
        link = self._links.get(node)
        return self._loop.clock() - link.heard_at if link is not None else inf

    def close(self, last: Callable[[], object] | None = None) -> None:
        """Send what is left and confirm what was received, without waiting for answers.

        Args:
            last: called before the transport is closed.
        """
        self.flush()
        now = self._loop.clock()
        for node, link in list(self._links.items()):
            self._perform(node, link.tick(now + ACK_DELAY_S))
        if last is not None:
            last()
        self._loop.forget(self._transport.fileno())
        self._transport.close()

    def _flush_to(self, node: NodeId) -> None:
        if node in self._reachable:
            frames = self._outgoing.pop(node, None)
            if frames:
                effects = self._link(node).send(frames, self._loop.clock())
                if not self._replaying:
                    self._perform(node, effects)

    # ------------------------------------------------------------------------------ reading
    def _on_readable(self) -> None:
        while True:
            for node, packet in self._transport.receive():
                self._receive(node, packet)
            if not self._transport.pending():
                break
        for node in self._transport.lost():
            self._on_lost(node, "its connection broke, and nobody listens where it did")

    def _receive(self, node: NodeId, packet: bytes) -> None:
        if node in self._forgotten:
            return
        if packet.startswith(_INTRODUCTION):
            if node not in self._reachable:
                self._introduce(node, packet[len(_INTRODUCTION) :])
            return
        self._heard.add(node)
        link = self._link(node)
        epoch = link.epoch
        effects = link.received(packet, self._loop.clock())
        if self._note is not None and link.epoch != epoch:
            self._note((ACCEPTED, node, *link.accepted))
        self._perform(node, effects)

    def _introduce(self, node: NodeId, address: bytes) -> None:
        if not _ADDRESS.fullmatch(address):
            log.error("node %s says that it lives at %.60r, which is no address", node.hex(), address)
            return
        self.connect(node, address.decode("ascii"))
        if self._note is not None:
            self._note((INTRODUCED, node, address.decode("ascii")))

    def _on_clock(self) -> None:
        now = self._loop.clock()
        while self._wakes and self._wakes[0][0] <= now:
            at, node = heapq.heappop(self._wakes)
            link = self._links.get(node)
            if link is not None and self._next_wake.get(node) == at:
                del self._next_wake[node]
                self._perform(node, link.tick(now))
        if self._wakes:
            self._timer.wake_at(self._wakes[0][0])

    # ------------------------------------------------------------------------------ another process goes on
    def acknowledged(self, node: NodeId) -> int:
        """The last payload that this peer has, of those sent to it."""
        link = self._links.get(node)
        return link.acknowledged if link is not None else 0

    def saved(self) -> dict[str, Any]:
        """All there is to know, to be pickled at once."""
        return {
            "links": self._links,
            "outgoing": self._outgoing,
            "reachable": self._reachable,
            "forgotten": self._forgotten,
        }

    def begin_replay(self, saved: dict[str, Any] | None) -> None:
        """
        Args:
            saved: by a life before; None: replay from its beginning.
        """
        self._replaying = True
        if saved is not None:
            self._links, self._outgoing, self._forgotten = saved["links"], saved["outgoing"], saved["forgotten"]
            for node, address in saved["reachable"].items():
                self.connect(node, address)

    def replay(self, fact: tuple[Any, ...]) -> None:
        """What was noted."""
        if fact[0] == INTRODUCED:
            self.connect(NodeId(fact[1]), fact[2])
        else:
            _, node, peer, epoch = fact
            self._link(node).replay_accepted(peer, epoch, self._loop.clock())

    def replay_received(self, node: NodeId, payloads: int, acknowledged: int) -> None:
        link = self._links.get(node)
        if link is not None:
            link.replay_received(payloads, acknowledged, self._loop.clock())

    def resume(self) -> None:
        """All has been replayed: ask all peers how far they got, and go on."""
        self._replaying = False
        now = self._loop.clock()
        for node, link in self._links.items():
            self._perform(node, link.resumed(now))

    # ------------------------------------------------------------------------------ links
    def _link(self, node: NodeId) -> Link:
        link = self._links.get(node)
        if link is None:
            incarnation = blake2b(node, key=self._seed, digest_size=8).digest() if self._seed else os.urandom(8)
            link = self._links[node] = Link(incarnation, self._loop.clock(), silence_s=self._silence_s)
        return link

    def _perform(self, node: NodeId, effects: Iterable[LinkEffect]) -> None:
        for effect in effects:
            match effect:
                case Transmit(packet):
                    if node not in self._heard:
                        self._transport.send(node, _INTRODUCTION + self.address.encode("ascii"))
                    self._transport.send(node, packet)
                case Deliver(payloads):
                    self._on_payloads(node, payloads)
                case PeerRestarted(unacknowledged):
                    self._on_lost(node, f"it came back as another; {unacknowledged} messages to it may be lost")
                case PeerSilent(seconds):
                    self._on_lost(node, f"it has not answered for {seconds:.1f} s")
        self._schedule(node)

    def _schedule(self, node: NodeId) -> None:
        link = self._links.get(node)
        wake = link.next_wake() if link is not None else None
        if wake is not None and wake < self._next_wake.get(node, float("inf")):
            self._next_wake[node] = wake
            heapq.heappush(self._wakes, (wake, node))
            self._timer.wake_at(wake)


def open_transport(config: NodeConfig, me: NodeId) -> tuple[Transport, str]:
    """Over TCP; and where others reach it. From now on this process may have more descriptors.

    Raises:
        CannotListen: the address cannot be bound.
    """
    assert config.curve_public is not None
    assert config.curve_secret is not None
    keys = config.curve_public, config.curve_secret
    with suppress(OSError, ValueError):  # each connection to another node takes two, and each from one takes one
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < _DESCRIPTORS:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
    port = config.port if me == HEAD_NODE or me.startswith(SHARDS) else 0
    # Raylets need not see who is gone: the head tells all of them.
    transport = ZmqTransport(me, os.urandom(8), keys, config.bind_host, port, notices=me == HEAD_NODE)
    bound = transport.address.rpartition(":")[2]
    return transport, f"tcp://{config.host}:{bound}"
