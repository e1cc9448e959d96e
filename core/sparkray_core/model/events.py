"""What happened, as the models are told. Messages come inside `Received`; the rest are facts of one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sparkray_core.ids import NodeId, ObjectId, ProcessId
from sparkray_core.messages import Message


@dataclass(frozen=True, slots=True)
class Received:
    sender: ProcessId
    message: Message


@dataclass(frozen=True, slots=True)
class ClockTicked:
    """Time went by; `handle`'s `now` says how far."""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """Node: a local process closed its connection (it is dead or dying)."""

    process: ProcessId


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """Node: the zygote reaped this worker."""

    worker: ProcessId
    why: str  # "exit code 1", "killed by SIGKILL"
    no_memory: bool = False  # by the system, because memory ran out


@dataclass(frozen=True, slots=True)
class PeerLost:
    """Node or head: a peer node is silent past the limit, its connection is refused, or it came back as another."""

    node: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Node: a frame came for a process of this node that is not connected, or for a node that is buried."""

    sender: ProcessId
    to: ProcessId


@dataclass(frozen=True, slots=True)
class Spilled:
    """Node: the file is written."""

    file: int


@dataclass(frozen=True, slots=True)
class SpillFailed:
    """Node: the file is not there, nor any part of it."""

    file: int
    why: str
    full: bool  # for want of space


@dataclass(frozen=True, slots=True)
class Restored:
    """Node: the object is in the segment again."""

    object: ObjectId


@dataclass(frozen=True, slots=True)
class RestoreFailed:
    """Node: its file cannot be read."""

    object: ObjectId
    why: str


@dataclass(frozen=True, slots=True)
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
    | Undelivered
    | Spilled
    | SpillFailed
    | Restored
    | RestoreFailed
    | MemoryRead
)
