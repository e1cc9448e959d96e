"""What the models wish for. The shell performs each in a short function; the simulator performs them on paper."""

from __future__ import annotations

from sparkray_core.frozen import frozen
from sparkray_core.ids import NodeId, ObjectId, ProcessId
from sparkray_core.messages import Message


@frozen
class Send:
    to: ProcessId
    message: Message


@frozen
class SendFrom:
    """Pass a message on with its first sender on the envelope, so that the answer goes to that one."""

    to: ProcessId
    sender: ProcessId
    message: Message


@frozen
class WakeAt:
    """A `ClockTicked` is wanted at this time (seconds on the caller's monotonic clock). The earliest one counts."""

    at: float


@frozen
class StartWorker:
    """Node: have the zygote fork a worker of this id. Answered by its `RegisterProcess`, or by `WorkerExited`."""

    worker: ProcessId


@frozen
class KillWorker:
    """Node: SIGKILL it now. Answered by `WorkerExited`."""

    worker: ProcessId
    why: str


@frozen
class SendChunk:
    """Node: read the range out of the segment and send it as `ObjectChunk`. (The model never touches bytes.)"""

    to: ProcessId
    object: ObjectId
    offset: int  # of the object in the segment
    first: int
    length: int
    size: int


@frozen
class WriteChunk:
    """Node: put received bytes into the segment."""

    offset: int  # in the segment, chunk included
    data: bytes | bytearray


@frozen
class MapPeer:
    """Node: map the segment of this node of the same host, to read from it. Answered by `PeerMapped`."""

    node: NodeId
    folder: str
    size: int  # bytes, of its segment


@frozen
class CopyChunk:
    """Node: copy the range from the mapped segment of a peer into ours. Answered by `ChunkCopied`."""

    object: ObjectId
    source: NodeId
    first: int
    length: int
    offset: int  # of the object in the peer's segment
    into: int  # of the object in ours


@frozen
class ForgetChunks:
    """Node: what is still to be copied of this object is not to be, and nothing writes to its block any more."""

    object: ObjectId


@frozen
class PunchHole:
    """Node: give the pages of a freed large object back to the system."""

    offset: int
    size: int


@frozen
class SpillObjects:
    """Node: write these ranges of the segment to a new file of this number. Answered by `Spilled` or `SpillFailed`."""

    file: int
    size: int  # bytes, of the file
    pieces: tuple[tuple[int, int, int], ...]  # (offset in the segment, first byte in the file, bytes)


@frozen
class RestoreObject:
    """Node: read an object back from its file into the segment. Answered by `Restored` or `RestoreFailed`."""

    object: ObjectId
    file: int
    at: int  # first byte in the file
    offset: int  # in the segment
    size: int


@frozen
class SendSpilled:
    """Node: like `SendChunk`, of an object that is on disk only. (`NotHere`, if it cannot be read.)"""

    to: ProcessId
    object: ObjectId
    file: int
    at: int  # of the object in the file
    first: int
    length: int
    size: int


@frozen
class DropSpilled:
    """Node: remove the file; all that was in it is freed."""

    file: int


@frozen
class ConnectPeer:
    """Raylet or head: this node can be reached there from now on."""

    node: NodeId
    address: str


@frozen
class ForgetPeer:
    """Raylet or head: close what leads to this node; it is dead to us."""

    node: NodeId


@frozen
class LookForSigns:
    """Head: these have said nothing for long. Did anything come from them, if only an acknowledgement? `PeersHeard`."""

    nodes: list[NodeId]


@frozen
class MakeAgain:
    """Owner: have the objects of this delivery made again. Answered by `Owner.made_again`."""

    delivery: int
    maker: object  # as the shell has given it


@frozen
class Stop:
    """Head or raylet: end this process, and with it the node."""

    why: str


Effect = (
    Send
    | SendFrom
    | WakeAt
    | StartWorker
    | KillWorker
    | SendChunk
    | WriteChunk
    | MapPeer
    | CopyChunk
    | ForgetChunks
    | PunchHole
    | SpillObjects
    | RestoreObject
    | SendSpilled
    | DropSpilled
    | ConnectPeer
    | ForgetPeer
    | LookForSigns
    | MakeAgain
    | Stop
)
