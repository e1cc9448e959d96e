"""What happened, as the models are told. Messages come inside `Received`; the rest are facts of one process."""

from __future__ import annotations

from collections.abc import Mapping

from sparkray_core.frozen import frozen
from sparkray_core.ids import NodeId, ObjectId, ProcessId
from sparkray_core.messages import Message


@frozen
class Received:
    sender: ProcessId
    message: Message


@frozen
class ClockTicked:
    """Time went by; `handle`'s `now` says how far."""


@frozen
class ConnectionLost:
    """Node: a local process closed its connection (it is dead or dying)."""

    process: ProcessId


@frozen
class WorkerExited:
    """Node: the zygote reaped this worker."""

    worker: ProcessId
    why: str  # "exit code 1", "killed by SIGKILL"
    no_memory: bool = False  # by the system, because memory ran out


@frozen
class PeerLost:
    """Node or head: a peer node is silent past the limit, its connection is refused, or it came back as another."""

    node: NodeId
    why: str


@frozen
class PeersHeard:
    """Head: the last packet of any kind from each of these nodes came so many seconds ago."""

    ago: Mapping[NodeId, float]


@frozen
class Undelivered:
    """Node: a frame came for a process of this node that is not connected, or for a node that is buried."""

    sender: ProcessId
    to: ProcessId


@frozen
class Spilled:
    """Node: the file is written."""

    file: int


@frozen
class SpillFailed:
    """Node: the file is not there, nor any part of it."""

    file: int
    why: str
    full: bool  # for want of space


@frozen
class Restored:
    """Node: the object is in the segment again."""

    object: ObjectId


@frozen
class RestoreFailed:
    """Node: its file cannot be read."""

    object: ObjectId
    why: str


@frozen
class PeerMapped:
    """Node: whether the segment of this node can be read from here."""

    node: NodeId
    mapped: bool


@frozen
class LaneBroke:
    """Node: chunks that this node has sent by its lane (`run/lanes.py`) may not come."""

    node: NodeId


@frozen
class ChunkCopied:
    """Node: the range is in our segment. None is told of after `ForgetChunks`."""

    object: ObjectId
    first: int
    length: int


@frozen
class MemoryRead:
    """Node: so much of the memory that it may use is in use. Told while it is too much, or was lately."""

    used: int  # bytes, by everybody who shares the limit
    limit: int
    workers: Mapping[ProcessId, int]  # bytes that each has to itself


Event = (
    Received
    | ClockTicked
    | ConnectionLost
    | WorkerExited
    | PeerLost
    | PeersHeard
    | Undelivered
    | Spilled
    | SpillFailed
    | Restored
    | RestoreFailed
    | PeerMapped
    | LaneBroke
    | ChunkCopied
    | MemoryRead
)
