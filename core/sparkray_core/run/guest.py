"""A visitor's half of the engine: a Spark Python worker that stores and reads objects on its executor's node.

A guest owns nothing and borrows nothing: the objects that it writes have ids of another process, the driver. It is
blocking and has no thread; a Spark task connects, does its work, and closes.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from sparkray_core.errors import NodeDiedError, ObjectLostError, by_name, unreadable
from sparkray_core.ids import NodeId, ObjectId, ProcessId, new_process_id, owner_of, raylet_of
from sparkray_core.messages import (
    AllocateObject,
    EndSession,
    FreeObjects,
    Message,
    ObjectAllocated,
    ObjectGone,
    ObjectMissing,
    ObjectPinned,
    ObjectReady,
    ObjectRefused,
    PinObject,
    Registered,
    RegisterProcess,
    SealObjects,
    UnpinObjects,
)
from sparkray_core.model.entries import bare, is_failure, is_stored, place
from sparkray_core.run.failures import error_of
from sparkray_core.run.folders import spill_path
from sparkray_core.settings import Settings
from sparkray_core.store.segment import Segment, pinned_file_view
from sparkray_core.wire import hello, values
from sparkray_core.wire.codec import ENVELOPE_BYTES, decode, encode
from sparkray_core.wire.frames import Connection, ConnectionLost

ROLE = "guest"
SOCKET_NAME = "raylet.sock"
# Room is refused after seconds; an object of a node far away may take a minute to come.
REPLY_LIMIT_S = 120.0


class Guest:
    """A connection to the raylet of one node, from its construction to `close`. For one thread.

    When it closes, or dies, the raylet takes back the room that was not sealed and the pins that were not let go.
    """

    def __init__(self, folder: str, token: bytes, node: NodeId) -> None:
        """
        Args:
            folder: the node's, where its raylet listens.

        Raises:
            NodeDiedError: nobody listens there, or our token was refused.
        """
        self.node = node
        self.folder = folder
        self._me = new_process_id(node)
        self._raylet = raylet_of(node)
        self._unpins: deque[ObjectId] = deque()  # filled by destructors
        try:
            self._connection = hello.connect(os.path.join(folder, SOCKET_NAME), token, self._me, ROLE, self._raylet)
        except ConnectionLost as lost:
            raise self._died(lost.why) from None
        try:
            fd = hello.recv_fd(self._connection.sock, self._raylet)
            try:
                welcome = self._ask(RegisterProcess(ROLE, os.getpid()), Registered)
            except BaseException:
                os.close(fd)
                raise
            self._segment = Segment.attach(fd, welcome.store_bytes)
        except ConnectionLost as lost:
            self._connection.close()
            raise self._died(lost.why) from None
        except BaseException:
            self._connection.close()
            raise
        self.store_bytes: int = welcome.store_bytes  # of the whole node

    # ------------------------------------------------------------------ writing
    def write(self, some: ObjectId, serialized: values.Serialized) -> int:
        """Store a value under an id that its owner gave out, to be told to the owner as `STORED` here.

        Returns:
            The bytes that it takes in the store.

        Raises:
            ObjectStoreFullError: no room was made within seconds, or it can never fit; the text has the sizes.
            NodeDiedError: the raylet is gone.
        """
        size = values.segment_size(serialized)
        answer = self._ask(AllocateObject(some, size), ObjectAllocated, ObjectRefused)
        if isinstance(answer, ObjectRefused):
            raise by_name(answer.error, answer.why)
        # Should this raise, the room is given back at `close`.
        values.write_to_file(self._segment.fileno(), answer.offset, serialized)
        self._tell(SealObjects([some]))
        return size

    def free(self, objects: Sequence[ObjectId]) -> None:
        """Take back what was written here and whose owner will never hear of it."""
        self._tell(FreeObjects(list(objects)))

    # ------------------------------------------------------------------ reading
    def read(self, some: ObjectId, nodes: Sequence[NodeId], wait_s: float = Settings.lost_block_wait_s) -> Any:
        """A stored value, in place: pinned until the last view of it died. Fetched here first if it is elsewhere.

        Args:
            nodes: that have it, as far as the caller knows. If none has, its owner is asked, and has it made again.
            wait_s: so long, at most, for the owner to say where it is then.

        Raises:
            ObjectLostError: none of the nodes has it any more, and its owner does not (or not soon) know one that has.
            ObjectStoreFullError: there is no room here for a copy.
            NodeDiedError: the raylet is gone.
        """
        answer = self._ask(PinObject(some, list(nodes)), ObjectPinned, ObjectGone)
        if isinstance(answer, ObjectGone) and answer.error == "ObjectLostError":
            value = self._ask_owner(some, nodes, wait_s)
            if value is None:
                raise ObjectLostError(some.hex(), message=late(some, answer.why, wait_s))
            if is_failure(value):
                raise error_of(bare(value))
            if not is_stored(value):
                return values.from_inline(bare(value))
            answer = self._ask(PinObject(some, list(place(value)[1])), ObjectPinned, ObjectGone)
        if isinstance(answer, ObjectGone):
            raise unreadable(some.hex(), answer.error, answer.why)
        unpins = self._unpins

        def release() -> None:
            unpins.append(some)

        if answer.file:
            view = pinned_file_view(spill_path(self.folder, answer.file), answer.offset, answer.size, release)
        else:
            view = self._segment.pinned_view(answer.offset, answer.size, release)
        kind, parts = values.read_from(view)
        return values.deserialize(kind, parts)

    def _ask_owner(self, some: ObjectId, nodes: Sequence[NodeId], wait_s: float) -> Any:
        """Its value as the owner knows it, which none of these nodes has; None if the owner says nothing for now."""
        self._tell(ObjectMissing(some, list(nodes)), owner_of(some))

        def is_it(received: Message) -> bool:
            return isinstance(received, ObjectReady) and received.object == some

        answer: Any = self._answer(is_it, wait_s)
        return None if answer is None else answer.value

    # ------------------------------------------------------------------ the end
    def close(self) -> None:
        """Leave. Views of what was read stay readable in this process, but their memory may be given to others."""
        with contextlib.suppress(NodeDiedError):
            self._flush()
        self._connection.close()
        self._segment.close()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ the wire
    def _ask(self, message: Message, *answers: type[Message]) -> Any:
        """Send, and wait for a message of one of these classes. One question at a time, so there is no mistaking it."""
        self._tell(message)
        answer = self._answer(lambda received: isinstance(received, answers), REPLY_LIMIT_S)
        if answer is None:
            raise self._died(f"it did not answer {type(message).__name__} within {REPLY_LIMIT_S:g} s")
        return answer

    def _answer(self, is_it: Callable[[Message], bool], limit: float) -> Message | None:
        """None: it did not come in time."""
        deadline = time.monotonic() + limit
        waiting = select.poll()  # not select: there may be more than 1,024 descriptors
        waiting.register(self._connection.fileno(), select.POLLIN)
        while True:
            try:
                frames = self._connection.receive()
            except ConnectionLost as lost:
                raise self._died(lost.why) from None
            for frame in frames:
                received = decode(frame, ENVELOPE_BYTES)
                if is_it(received):
                    return received
                if isinstance(received, EndSession):
                    raise self._died(received.why)
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            if not frames:
                waiting.poll(left * 1000)

    def _tell(self, message: Message, to: ProcessId | None = None) -> None:
        if self._unpins:
            unpins = [self._unpins.popleft() for _ in range(len(self._unpins))]
            self._connection.send(self._frame(UnpinObjects(unpins)))
        self._connection.send(self._frame(message, to))
        self._flush()

    def _frame(self, message: Message, to: ProcessId | None = None) -> bytes:
        return (to or self._raylet) + self._me + encode(message)

    def _flush(self) -> None:
        """Until the kernel has taken everything: what we tell last must be out before we close."""
        connection: Connection = self._connection
        waiting = select.poll()
        waiting.register(connection.fileno(), select.POLLOUT)
        deadline = time.monotonic() + REPLY_LIMIT_S
        while connection.wants_write:
            if time.monotonic() > deadline:
                raise self._died(f"it read nothing for {REPLY_LIMIT_S:g} s")
            waiting.poll(1000)
            connection.flush()

    def _died(self, why: str) -> NodeDiedError:
        return NodeDiedError(f"the node in {self.folder} cannot be used from this process: {why}")


def late(some: ObjectId, why: str, wait_s: float) -> str:
    """Why a reader did not wait any longer. (`Repeater` looks for its beginning in what Spark says.)"""
    return (
        f"object {some.hex()} is lost ({why}), and is being made again, which took more than {wait_s:g} s. A block of "
        f"from_spark() is made by a Spark job, which waits for a slot for as long as tasks of other jobs have all of "
        f"them, like this one. Run the action again: it finds the block as soon as it is made. More slots help, "
        f"spark.scheduler.mode=FAIR (then that job has a share of its own), and, where making it takes long, the "
        f"setting lost_block_wait_s"
    )
