"""The twin of `zmq_transport` for tests: a network in one process that loses, doubles, delays and parts at will."""

from __future__ import annotations

import heapq
import random
from itertools import count

from sparkray_core.ids import NodeId


class MemoryNetwork:
    """Carries packets between the transports that it hands out. Without faults they arrive at once."""

    def __init__(
        self, dice: random.Random | None = None, loss: float = 0.0, doubling: float = 0.0, delay_s: float = 0.0
    ) -> None:
        """
        Args:
            dice: needed for any fault; one seed is one course of events.
            loss, doubling: probabilities, for each packet.
            delay_s: mean of an exponential distribution, so that packets overtake each other. A delayed packet
                arrives when `advance` has moved the clock so far.
        """
        self.now = 0.0
        self.loss, self.doubling, self.delay_s = loss, doubling, delay_s
        self._dice = dice
        self._transports: dict[str, MemoryTransport] = {}
        self._under_way: list[tuple[float, int, str, NodeId, bytes]] = []  # due, tie-breaker, to, sender, packet
        self._count = count()
        self._parted: set[frozenset[NodeId]] = set()

    def transport(self, node: NodeId) -> MemoryTransport:
        transport = MemoryTransport(self, node, f"memory://{next(self._count)}")
        self._transports[transport.address] = transport
        return transport

    def part(self, one: NodeId, other: NodeId) -> None:
        """Lose everything between these two, what is under way too, until `heal`."""
        self._parted.add(frozenset({one, other}))

    def heal(self, one: NodeId, other: NodeId) -> None:
        self._parted.discard(frozenset({one, other}))

    def next_arrival(self) -> float | None:
        """When the next delayed packet is due."""
        return self._under_way[0][0] if self._under_way else None

    def advance(self, now: float) -> None:
        """Move the clock; what is due by then has arrived."""
        self.now = max(now, self.now)
        while self._under_way and self._under_way[0][0] <= self.now:
            _, _, address, sender, packet = heapq.heappop(self._under_way)
            self._arrive(address, sender, packet)

    def carry(self, sender: NodeId, address: str, packet: bytes) -> None:
        dice = self._dice
        if dice is None:
            self._arrive(address, sender, packet)
            return
        for _ in range(2 if dice.random() < self.doubling else 1):
            if dice.random() < self.loss:
                continue
            due = self.now + (dice.expovariate(1 / self.delay_s) if self.delay_s else 0.0)
            heapq.heappush(self._under_way, (due, next(self._count), address, sender, packet))
        self.advance(self.now)

    def _arrive(self, address: str, sender: NodeId, packet: bytes) -> None:
        to = self._transports.get(address)
        if to is not None and frozenset({sender, to.node}) not in self._parted:
            to.arrived.append((sender, packet))

    def forget(self, address: str) -> None:
        self._transports.pop(address, None)


class MemoryTransport:
    """A `Transport`; made by `MemoryNetwork.transport`."""

    def __init__(self, network: MemoryNetwork, node: NodeId, address: str) -> None:
        self.node = node
        self.arrived: list[tuple[NodeId, bytes]] = []
        self.gone: list[NodeId] = []  # what `lost` is to tell
        self._address = address
        self._network = network
        self._peers: dict[NodeId, str] = {}

    @property
    def address(self) -> str:
        return self._address

    def connect(self, peer: NodeId, address: str) -> None:
        self._peers[peer] = address

    def disconnect(self, peer: NodeId) -> None:
        self._peers.pop(peer, None)

    def send(self, peer: NodeId, packet: bytes) -> bool:
        address = self._peers.get(peer)
        if address is None:
            return False
        self._network.carry(self.node, address, packet)
        return True

    def receive(self) -> list[tuple[NodeId, bytes]]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def lost(self) -> list[NodeId]:
        gone, self.gone = self.gone, []
        return [node for node in gone if node in self._peers]

    def pending(self) -> bool:
        return bool(self.arrived)

    def fileno(self) -> int:
        """-1: there is nothing to wait for but the test's own clock."""
        return -1

    def close(self) -> None:
        self._peers.clear()
        self._network.forget(self._address)
