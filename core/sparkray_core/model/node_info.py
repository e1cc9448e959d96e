"""What everyone knows of a node, from its joining on; `NodeTable` carries it and `nodes()` shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparkray_core.ids import NodeId
from sparkray_core.messages import JoinNode, Resources


@dataclass(frozen=True, slots=True)
class NodeInfo:
    node: NodeId
    address: str  # tcp://host:port of the raylet's ROUTER
    host: str
    pid: int  # of the keeper
    resources: Resources  # in all
    labels: dict[str, str]
    store_bytes: int
    folder: str
    alive: bool = True
    why: str = ""  # it is not alive
    visits: bool = False  # there for one driver only: the head places nothing on it
    draining: str = ""  # why it is to leave: the head places nothing new on it

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: dict[str, Any]) -> NodeInfo:
        """Fields that this version does not know are left out."""
        return cls(**{name: fact for name, fact in facts.items() if name in cls.__dataclass_fields__})

    @classmethod
    def joining(cls, message: JoinNode) -> NodeInfo:
        return cls(
            message.node,
            message.address,
            message.host,
            message.pid,
            message.resources,
            message.labels,
            message.store_bytes,
            message.folder,
            visits=message.visits,
        )

    def join(self) -> JoinNode:
        return JoinNode(
            self.node,
            self.address,
            self.host,
            self.pid,
            self.resources,
            self.labels,
            self.store_bytes,
            self.folder,
            self.visits,
        )

    def __str__(self) -> str:
        return f"node {self.node.hex()} on {self.host}"
