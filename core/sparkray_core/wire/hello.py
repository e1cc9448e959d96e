"""How a connection on a Unix socket begins: who may connect, and how a peer proves itself.

The listener's folder is 0700 and its socket 0600; both ends look at the other's uid where the system tells it; then the
peer that connected sends one frame of fixed format with the session's token. Until that token has been compared, the
accepting side reads exactly those bytes and hands nothing of them to a decoder. What follows the hello in the stream
stays in the kernel, so that a file descriptor may come next (`send_fd`, `recv_fd`).
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import os
import socket
import struct
import sys
import time
from dataclasses import dataclass

from sparkray_core.ids import ProcessId
from sparkray_core.messages import PROTOCOL_VERSION
from sparkray_core.wire.frames import LENGTH, Connection, ConnectionLost

TOKEN_BYTES = 32
HELLO_LIMIT_S = 5.0  # a local peer needs well under 1 ms; a forked child under memory pressure may need much longer
CONNECT_LIMIT_S = 10.0  # how long a full queue of the listener is waited for
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
MOST_GREETING = 256  # connected and not greeted yet; beyond, the oldest goes: nobody is to use up our descriptors
BACKLOG = 512  # connections not yet accepted: a node's workers may all connect while the raylet is busy

MAGIC = b"sparkray"
ROLE_BYTES = 16
# Magic, version, 6 spare bytes, role, process, token: for ever, so that any two versions can tell each other apart.
_HELLO = struct.Struct(f"!8sH6x{ROLE_BYTES}s16s{TOKEN_BYTES}s")
HELLO_FRAME_BYTES = LENGTH.size + _HELLO.size


class HelloRefused(Exception):
    """Whoever connected is not of this session. Its socket is closed already; nothing that it sent was decoded."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"a peer was refused: {self.why}"


@dataclass(frozen=True, slots=True)
class Hello:
    process: ProcessId
    role: str
    version: int


def hello_frame(token: bytes, process: ProcessId, role: str) -> bytes:
    """The body of the first frame. `role` is ASCII, at most 16 characters."""
    name = role.encode("ascii")
    assert (len(token), len(process), len(name) <= ROLE_BYTES) == (TOKEN_BYTES, 16, True)
    return _HELLO.pack(MAGIC, PROTOCOL_VERSION, name, process, token)


def check_hello(frame: bytes, token: bytes) -> Hello:
    """Read the first frame's body.

    Raises:
        HelloRefused: not a hello, of another version of sparkray, or with another token.
    """
    if len(frame) != _HELLO.size or not frame.startswith(MAGIC):
        raise HelloRefused("it does not speak sparkray's protocol")
    _, version, role, process, shown = _HELLO.unpack(frame)
    if version != PROTOCOL_VERSION:
        raise HelloRefused(
            f"it speaks version {version} of the protocol, this process version {PROTOCOL_VERSION}. "
            "Install the same sparkray on the driver and the executors."
        )
    if not hmac.compare_digest(shown, token):
        raise HelloRefused("its token is of another session")
    try:
        name = role.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise HelloRefused("its role is not ASCII") from None
    return Hello(ProcessId(process), name, version)


def listen(path: str) -> socket.socket:
    """A non-blocking listener at `path`, of mode 0600. The folder and its mode (0700) are the caller's.

    Raises:
        OSError: the path is taken, or longer than the system allows (107 bytes on Linux, 103 on macOS).
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen: {error.strerror or error}", path) from None
    return listener


def connect(path: str, token: bytes, process: ProcessId, role: str, peer: ProcessId) -> Connection:
    """Connect to a listener and say hello. Blocks while the listener's queue is full, 10 s at most.

    Args:
        process: who we are.
        peer: who listens there; it is not asked to prove more than its uid, for the folder is ours.

    Raises:
        ConnectionLost: nobody listens there, or somebody of another user does (who is not shown the token).
    """
    sock = _above_standard_streams(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        # Not settimeout: it makes the socket non-blocking, and then a full queue fails at once, with EAGAIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_timeval(CONNECT_LIMIT_S)))
        sock.connect(path)
        _refuse_other_users(sock)
        connection = Connection(sock, peer)
        connection.send(hello_frame(token, process, role))
    except OSError as error:
        sock.close()
        why = error.strerror or str(error)
        if error.errno == errno.EAGAIN:
            why = f"it accepted nobody for {CONNECT_LIMIT_S:g} s"
        raise ConnectionLost(peer, f"cannot connect to {path}: {why}") from None
    except HelloRefused as refused:
        sock.close()
        raise ConnectionLost(peer, f"cannot connect to {path}: {refused.why}") from None
    return connection


class Handshake:
    """An accepted connection whose peer has not shown the token yet."""

    __slots__ = ("_read", "_sock", "_token", "deadline")

    def __init__(self, sock: socket.socket, token: bytes, deadline: float) -> None:
        """`deadline` is the caller's: past it, on the caller's clock, the caller closes the handshake."""
        sock.setblocking(False)
        self._sock = sock
        self._token = token
        self._read = b""
        self.deadline = deadline

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> tuple[Connection, Hello] | None:
        """Read on, when the socket is readable.

        Returns:
            None until the hello is whole; then the connection, which owns the socket from there on, and the hello.

        Raises:
            HelloRefused: the socket is closed.
        """
        try:
            hello = self._receive()
        except HelloRefused:
            self.close()
            raise
        if hello is None:
            return None
        return Connection(self._sock, hello.process), hello

    def _receive(self) -> Hello | None:
        try:
            data = self._sock.recv(HELLO_FRAME_BYTES - len(self._read))
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise HelloRefused(error.strerror or str(error)) from None
        if not data:
            raise HelloRefused("it closed before its hello was whole")
        self._read += data
        expected = LENGTH.pack(_HELLO.size) + MAGIC
        if self._read[: len(expected)] != expected[: len(self._read)]:
            raise HelloRefused("it does not speak sparkray's protocol")
        if len(self._read) < HELLO_FRAME_BYTES:
            return None
        _refuse_other_users(self._sock)
        return check_hello(self._read[LENGTH.size :], self._token)

    def close(self) -> None:
        self._sock.close()


def accept(listener: socket.socket, token: bytes, now: float) -> Handshake | None:
    """The next connection of a non-blocking listener, or None. Its hello is due within `HELLO_LIMIT_S` of `now`."""
    try:
        sock, _ = listener.accept()
    except OSError as error:
        if error.errno in _NO_DESCRIPTORS:  # of ours or of the machine's: whoever connects has to wait
            time.sleep(0.01)  # the listener stays readable meanwhile
        elif not isinstance(error, BlockingIOError | InterruptedError | ConnectionAbortedError):
            raise
        return None
    return Handshake(_above_standard_streams(sock), token, now + HELLO_LIMIT_S)


def _above_standard_streams(sock: socket.socket) -> socket.socket:
    """The same socket, not under a number that what a task prints is written to: a task may have closed 0 to 2."""
    if sock.fileno() > 2:
        return sock
    with sock:
        return socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 3))


def _timeval(seconds: float) -> tuple[int, int]:
    return int(seconds), int(seconds % 1 * 1e6)


def _refuse_other_users(sock: socket.socket) -> None:
    if sys.platform != "linux":
        return  # elsewhere the folder's mode alone keeps others out
    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    _, uid, _ = credentials.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    if uid != os.geteuid():
        raise HelloRefused(f"it belongs to user {uid}, this process to user {os.geteuid()}")


def send_fd(sock: socket.socket, fd: int) -> None:
    """Hand a duplicate of `fd` to the peer, with one byte of payload, before any frame is sent that way.

    Raises:
        OSError: the peer is gone.
    """
    socket.send_fds(sock, [b"F"], [fd])


def recv_fd(sock: socket.socket, peer: ProcessId, limit_s: float = CONNECT_LIMIT_S) -> int:
    """Wait for the descriptor that `send_fd` sends. The socket keeps its blocking mode; the descriptor is the caller's.

    Raises:
        ConnectionLost: the peer closed (it does when it refuses our hello), sent something else, or nothing in time.
    """
    before = sock.gettimeout()
    sock.settimeout(limit_s)
    try:
        payload, fds, _, _ = socket.recv_fds(sock, 1, 1)
    except TimeoutError:
        raise ConnectionLost(peer, f"it sent no file descriptor for {limit_s:g} s") from None
    except OSError as error:
        raise ConnectionLost(peer, error.strerror or str(error)) from None
    finally:
        sock.settimeout(before)
    if not payload:
        raise ConnectionLost(peer, "it closed instead of sending a file descriptor; was our token refused?")
    if payload != b"F" or len(fds) != 1:
        for fd in fds:
            os.close(fd)
        raise ConnectionLost(peer, f"it sent {payload!r} and {len(fds)} file descriptors, not one")
    os.set_inheritable(fds[0], False)  # recv_fds leaves it inheritable
    return fds[0]
