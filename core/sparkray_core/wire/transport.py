"""How packets reach another node: as datagrams would. What is lost on the way is the link's to mend (`model.link`)."""

from __future__ import annotations

from typing import Protocol

from sparkray_core.ids import NodeId


class Transport(Protocol):
    """One node's way to all others. For one thread; nothing blocks but `close`, and that not for long."""

    @property
    def address(self) -> str:
        """Where others connect to."""
        ...

    def connect(self, peer: NodeId, address: str) -> None:
        """Send to this peer there from now on. It need not be there yet. Known at that address already: nothing."""
        ...

    def disconnect(self, peer: NodeId) -> None:
        """Forget the peer; what was sent last may or may not arrive. Unknown: nothing."""
        ...

    def send(self, peer: NodeId, packet: bytes) -> bool:
        """Put a packet on its way; False if the peer is not connected, and the packet dropped as if lost.

        (A peer may be heard before its address is known here: it read ours in the head's table first.)
        """
        ...

    def receive(self) -> list[tuple[NodeId, bytes]]:
        """What has arrived, with its senders; at most a turn's worth."""
        ...

    def lost(self) -> list[NodeId]:
        """Peers that are gone for good, for certain, and were not told of before: nobody is where they listened. (That
        nobody is told of says nothing.) To be asked when all that has arrived was read: it may be their last word."""
        ...

    def pending(self) -> bool:
        """Whether the last `receive` may have left something, so that it must be called again before the loop waits."""
        ...

    def fileno(self) -> int:
        """For a selector: readable when something may have arrived since `receive` left nothing pending."""
        ...

    def close(self) -> None:
        """Give up all sockets and threads; what was sent last has a moment to leave."""
        ...
