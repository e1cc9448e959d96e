"""The head's books of its shards: who has joined, and which nodes' burials wait for what shards have of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparkray_core.ids import NodeId, ProcessId, raylet_of, shard_node
from sparkray_core.messages import CloseNode, EstateClosed, Message, ShardTable
from sparkray_core.model.effects import ConnectPeer, Effect, Send
from sparkray_core.model.limits import HeadLimits


@dataclass(slots=True)
class Closing:
    """A node that is dead, while shards are asked for what its owners had recorded."""

    why: str
    until: float  # when it is buried without
    asked: dict[NodeId, None]  # shards that have not answered
    estates: list[EstateClosed] = field(default_factory=list)


class Shards:
    def __init__(self, limits: HeadLimits, out: list[Effect]) -> None:
        self.count = limits.shards
        self.limits = limits
        self.out = out
        self.all: dict[NodeId, str] = {}  # that have joined, and where they are
        self.closing: dict[NodeId, Closing] = {}

    def joined(self, shard: NodeId, address: str) -> bool:
        """Whether it is new, and one of ours: then it has to be told of the nodes, and they of it."""
        if shard in self.all or shard not in (shard_node(number) for number in range(self.count)):
            return False
        self.all[shard] = address
        self.out.append(ConnectPeer(shard, address))
        return True

    def table(self) -> ShardTable:
        return ShardTable(self.count, list(self.all.items()))

    def processes(self) -> list[ProcessId]:
        return [raylet_of(shard) for shard in self.all]

    def tell(self, message: Message) -> None:
        self.out.extend(Send(shard, message) for shard in self.processes())

    # ------------------------------------------------------------------ nodes that die
    def close(self, node: NodeId, why: str, now: float) -> bool:
        """Ask for what its owners had recorded. False: there is nobody to ask, so it can be buried at once."""
        if not self.all:
            return False
        if node not in self.closing:
            self.closing[node] = Closing(why, now + self.limits.close_s, dict.fromkeys(self.all))
            self.tell(CloseNode(node, why))
        return True

    def left(self, node: NodeId, estate: EstateClosed) -> bool:
        """Whether it is to wait for the burial of its owner's node."""
        closing = self.closing.get(node)
        if closing is not None:
            closing.estates.append(estate)
        return closing is not None

    def closed(self, shard: NodeId, node: NodeId) -> str | None:
        """A shard has answered. If it was the last, why the node is to be buried."""
        closing = self.closing.get(node)
        if closing is None:
            return None
        closing.asked.pop(shard, None)
        return None if closing.asked else closing.why

    def overdue(self, now: float) -> list[tuple[NodeId, str]]:
        return [(node, closing.why) for node, closing in self.closing.items() if closing.until <= now]

    def bury(self, node: NodeId) -> list[EstateClosed]:
        """What there is of its owners."""
        closing = self.closing.pop(node, None)
        return closing.estates if closing is not None else []

    def next_wake(self) -> float | None:
        return min((closing.until for closing in self.closing.values()), default=None)
