"""Length-prefixed frames on non-blocking Unix stream sockets.

A frame is a 4-byte big-endian length and that many bytes. The first frame on a connection is a hello of fixed format
(`hello.py`); nothing else is looked at before its token has been compared. `Connection` is what remains afterwards.
It never blocks and holds no policy: the loop calls `receive` when the socket is readable and `flush` when it is
writable and `wants_write` says so.
"""

from __future__ import annotations

import io
import socket
import struct
from collections import deque
from collections.abc import Sequence
from itertools import islice

from sparkray_core.ids import ProcessId

Part = bytes | bytearray | memoryview
Body = bytes | Sequence[Part]  # of one frame, whole or in parts

LENGTH = struct.Struct("!I")
_length_at = LENGTH.unpack_from

# Large data goes through the shared segment, and between nodes in chunks of some MiB. What is larger than this is a
# mistake or an attack, and would be held in memory three times on its way.
MAX_FRAME_BYTES = 512 << 20

# One recv. Python allocates this much before the call and gives back the rest: from 128 KiB on, malloc maps pages for
# it each time, and a small frame then costs 17 us instead of 2.3.
READ_BYTES = 64 << 10
# After so many bytes `receive` returns, so that one busy peer does not starve the others.
READ_TURN_BYTES = 512 << 10

# Up to here copying a body behind its length is cheaper than a vector of buffers (0.3 us more for sendmsg).
JOIN_BYTES = 16 << 10
PARTS_PER_WRITE = 256  # of one sendmsg; IOV_MAX is 1024 on Linux and macOS


class ConnectionLost(Exception):
    """The peer closed, died, or broke the framing. (A peer that never proved itself is `HelloRefused`.)"""

    def __init__(self, peer: ProcessId, why: str) -> None:
        super().__init__(peer, why)
        self.peer, self.why = peer, why

    def __str__(self) -> str:
        return f"the connection to process {self.peer.hex() or '(unknown)'} is lost: {self.why}"


class FrameTooLarge(ValueError):
    """The caller's own message is too large to send; nothing of it was sent and the connection is sound."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size

    def __str__(self) -> str:
        return (
            f"a message of {self.size:,} bytes is larger than a frame may be ({MAX_FRAME_BYTES:,}). "
            "Large values belong in the object store: pass a ref made by put() instead of the value."
        )


class Connection:
    """One peer at the other end of a Unix stream socket. For one thread at a time.

    A lost peer is reported in one place, `receive`, after the last frames that it wrote. `send` and `flush` drop what
    cannot be written any more, so that the code which performs effects needs no second way to learn of a death.
    """

    __slots__ = ("_filled", "_out", "_partial", "_partial_file", "_recv", "_rest", "_send", "lost", "peer", "sock")

    def __init__(self, sock: socket.socket, peer: ProcessId) -> None:
        """Take over a connected socket; it is made non-blocking, and closed by `close`."""
        sock.setblocking(False)
        self.sock = sock
        self.peer = peer
        self.lost: str | None = None  # why writing failed; `receive` raises it once there is nothing left to read
        self._out: deque[Part] = deque()  # not yet taken by the kernel, in order
        self._rest = b""  # up to 3 bytes of a length
        self._partial: memoryview | None = None  # a frame whose length is known, being filled
        self._partial_file = io.BytesIO()  # whose memory that is
        self._filled = 0
        self._recv = sock.recv
        self._send = sock.send

    def fileno(self) -> int:
        """For a selector; -1 once closed."""
        return self.sock.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether the kernel's buffer was full and `flush` should be called when the socket is writable."""
        return bool(self._out)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait in this process for a slow peer."""
        return sum(len(part) for part in self._out)

    # ------------------------------------------------------------------------------ writing
    def send(self, body: Body) -> None:
        """Write one frame, at once as far as the kernel takes it.

        Args:
            body: the frame, whole or as parts that are sent one after the other. Large ones are not copied: they must
                not change before `wants_write` is false.

        Raises:
            FrameTooLarge: nothing was sent.
        """
        if type(body) is not bytes:
            self._send_parts(body)
            return
        size = len(body)
        if size > JOIN_BYTES:
            self._send_parts((body,))
            return
        data = LENGTH.pack(size) + body
        if self._out:
            self._out.append(data)
            return
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        if sent != len(data):
            self._out.append(memoryview(data)[sent:] if sent else data)

    def send_many(self, bodies: Sequence[bytes]) -> None:
        """Write a batch of frames with as few system calls as possible. Raises `FrameTooLarge` before any is sent."""
        pieces: list[bytes] = []
        for body in bodies:
            if len(body) > MAX_FRAME_BYTES:
                raise FrameTooLarge(len(body))
            pieces.append(LENGTH.pack(len(body)))
            pieces.append(body)
        self._queue(pieces)
        self.flush()

    def flush(self) -> None:
        """Write on, until all is written or the kernel takes no more."""
        out = self._out
        while out:
            try:
                sent = self.sock.sendmsg(islice(out, PARTS_PER_WRITE))
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(error)
                return
            while out and sent >= len(out[0]):
                sent -= len(out.popleft())
            if sent:
                out[0] = memoryview(out[0])[sent:]

    def _send_parts(self, body: Body) -> None:
        parts: Sequence[Part] = (body,) if isinstance(body, bytes) else [_as_bytes(part) for part in body]
        size = sum(map(len, parts))
        if size > MAX_FRAME_BYTES:
            raise FrameTooLarge(size)
        self._queue((LENGTH.pack(size), *parts))
        self.flush()

    def _queue(self, pieces: Sequence[Part]) -> None:
        """Append to what is outgoing, with runs of small pieces joined into one."""
        if self.lost is not None:
            return
        small: list[Part] = []
        for piece in pieces:
            if len(piece) <= JOIN_BYTES:
                small.append(piece)
                continue
            if small:
                self._out.append(b"".join(small))
                small.clear()
            self._out.append(piece)
        if small:
            self._out.append(b"".join(small))

    def _lose(self, error: OSError) -> None:
        self.lost = error.strerror or str(error)
        self._out.clear()

    # ------------------------------------------------------------------------------ reading
    def receive(self) -> list[bytes]:
        """Take what has arrived, up to a turn's worth of bytes; a level-triggered selector calls again for the rest.

        Returns:
            The whole frames, in order; none when the next one is still on its way.

        Raises:
            ConnectionLost: all whole frames have been returned before. (A peer that breaks the framing is cut at
                once.) The caller closes.
        """
        frames: list[bytes] = []
        turn = READ_TURN_BYTES
        try:
            while turn > 0:
                if self._partial is None:
                    room = READ_BYTES
                    data = self._recv(READ_BYTES)
                    got = len(data)
                    self._split(data, frames)
                else:
                    room = len(self._partial) - self._filled
                    got = self.sock.recv_into(self._partial[self._filled :])
                    self._filled += got
                    if got == room:
                        frames.append(self._end())
                if got < room:
                    if not got and not frames:
                        raise ConnectionLost(self.peer, self._end_of_stream())
                    return frames  # a stream socket gives less than asked only when it has no more
                turn -= got
        except (BlockingIOError, InterruptedError):
            if self.lost is not None and not frames:
                raise ConnectionLost(self.peer, self.lost) from None
        except OSError as error:
            if not frames:  # else the next call meets the same end of the stream
                raise ConnectionLost(self.peer, error.strerror or str(error)) from None
        return frames

    def _split(self, data: bytes, frames: list[bytes]) -> None:
        """Cut off the whole frames, and begin to fill the one that the rest belongs to."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= LENGTH.size:
            start = at + LENGTH.size
            at = start + _length_at(data, at)[0]
            if at > end:
                self._begin(at - start, data[start:])
                break
            frames.append(data[start:at])
        self._rest = data[at:]

    def _begin(self, size: int, first: bytes) -> None:
        """Make room for a frame at once, so that a large one is read in linear time, and never beyond its end."""
        if size > MAX_FRAME_BYTES:
            raise ConnectionLost(self.peer, f"it announced a frame of {size:,} bytes")
        # A BytesIO gives away the bytes that it was filled with. A bytearray would have to be copied into bytes at the
        # end: half the speed from 1 MiB on, for the pages are new each time.
        self._partial_file = io.BytesIO()
        self._partial_file.seek(size - 1)
        self._partial_file.write(b"\0")
        self._partial = self._partial_file.getbuffer()
        self._partial[: len(first)] = first
        self._filled = len(first)

    def _end(self) -> bytes:
        assert self._partial is not None
        self._partial.release()
        self._partial = None
        frame = self._partial_file.getvalue()
        self._partial_file = io.BytesIO()
        return frame

    def _end_of_stream(self) -> str:
        return "closed by the peer" + (" in the middle of a frame" if self._partial is not None or self._rest else "")

    def close(self) -> None:
        """Close the socket; what was not written is dropped. Closing twice does nothing."""
        self._out.clear()
        self.sock.close()


def _as_bytes(part: Part) -> Part:
    """The part with a `len` in bytes, which a memoryview of wider items lacks."""
    return part if isinstance(part, bytes | bytearray) else part.cast("B")
