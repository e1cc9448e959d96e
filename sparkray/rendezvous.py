"""Where the driver and the Spark tasks that start its nodes meet: one small TCP server in the driver.

Spark's own `barrier()` and `allGather()` cost a full second each, because Spark polls. Here the tasks connect, say who
they are, wait for a word, and say how it went. Both ends know the session's token, which came to the tasks inside
their closure, by Spark's own RPC.

    each end, at once     32 hexadecimal characters (a nonce), newline
    then lines            64 hexadecimal characters (a MAC), space, a JSON object, newline

The MAC is HMAC-SHA256 under the token, over the direction, both nonces, the line's number, and the JSON. So no byte
of JSON is parsed that was not written by an owner of the token, for this connection, at this place in it. Nothing here
is secret: the session's keys do not travel this way. And nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import re
import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any

from sparkray.sizing import UnfitSpark
from sparkray_core.errors import RaySystemError

NONCE = 16  # bytes
_NONCE_LINE = 2 * NONCE + 1
_GREETING = re.compile(rb"[0-9a-f]{%d}\n" % (2 * NONCE))
_MAC_CHARACTERS = 64
LONGEST_LINE = 1 << 20  # bytes; a failed start brings the ends of its logs along
CONNECT_LIMIT_S = 10.0

log = logging.getLogger(__name__)


class Refused(Exception):
    """The other end does not know the token, or does not keep to the form."""


class MeetingEnded(RaySystemError):
    """The other end closed the connection, or said nothing in time."""


class Lines:
    """One end of a connection, without its socket: bytes in, facts out, and the other way."""

    def __init__(self, token: bytes, is_driver: bool) -> None:
        self._token = token
        self._direction = (b"driver", b"task") if is_driver else (b"task", b"driver")
        self._nonce = os.urandom(NONCE).hex().encode()
        self._peer_nonce = b""
        self._sent = self._received = 0
        self._buffer = b""

    def greeting(self) -> bytes:
        """To be sent before anything else."""
        return self._nonce + b"\n"

    @property
    def greeted(self) -> bool:
        """The other end's nonce is here, so `write` works."""
        return bool(self._peer_nonce)

    def write(self, facts: dict[str, Any]) -> bytes:
        assert self.greeted
        text = json.dumps(facts).encode()
        nonces = self._nonce + self._peer_nonce
        mac = self._mac(self._direction[0], nonces, self._sent, text)
        self._sent += 1
        return mac + b" " + text + b"\n"

    def read(self, more: bytes) -> list[dict[str, Any]]:
        """
        Raises:
            Refused: what came is not authentic; nothing of it was parsed.
        """
        self._buffer += more
        if not self.greeted:
            if len(self._buffer) < _NONCE_LINE:
                return []
            greeting, self._buffer = self._buffer[:_NONCE_LINE], self._buffer[_NONCE_LINE:]
            if not _GREETING.fullmatch(greeting):
                raise Refused("it does not speak sparkray's protocol")
            self._peer_nonce = greeting[:-1]
        found = []
        while (end := self._buffer.find(b"\n")) >= 0:
            line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
            found.append(self._open(line))
        if len(self._buffer) > LONGEST_LINE:
            raise Refused(f"a line is longer than {LONGEST_LINE} bytes")
        return found

    def _open(self, line: bytes) -> dict[str, Any]:
        mac, text = line[:_MAC_CHARACTERS], line[_MAC_CHARACTERS + 1 :]
        nonces = self._peer_nonce + self._nonce
        if not hmac.compare_digest(mac, self._mac(self._direction[1], nonces, self._received, text)):
            raise Refused("its lines are not made with this session's token")
        self._received += 1
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise Refused("a line is not a JSON object")
        return facts

    def _mac(self, direction: bytes, nonces: bytes, number: int, text: bytes) -> bytes:
        body = b"%s %s %d " % (direction, nonces, number) + text
        return hmac.new(self._token, body, hashlib.sha256).hexdigest().encode()


# ------------------------------------------------------------------------------------------ the task's end
class Meeting:
    """A task's connection to the driver."""

    def __init__(self, sock: socket.socket, token: bytes) -> None:
        self._sock = sock
        self._lines = Lines(token, is_driver=False)
        self._heard: list[dict[str, Any]] = []

    @classmethod
    def join(cls, address: tuple[str, int], token: bytes) -> Meeting:
        """
        Raises:
            MeetingEnded: the driver cannot be reached there, or does not know the token.
        """
        try:
            sock = socket.create_connection(address, CONNECT_LIMIT_S)
        except OSError as error:
            raise MeetingEnded(
                f"the driver cannot be reached at {address[0]}:{address[1]}: {error}. It listens on the address in "
                "spark.driver.host (over Spark Connect: in SPARK_LOCAL_IP, if it is set there), on a port that the "
                "system chooses; a firewall must let executors through"
            ) from error
        meeting = cls(sock, token)
        try:
            sock.sendall(meeting._lines.greeting())
            deadline = time.monotonic() + CONNECT_LIMIT_S
            while not meeting._lines.greeted:
                meeting._receive(deadline)
        except OSError as error:
            sock.close()
            raise MeetingEnded(f"the driver closed the connection: {error}") from error
        except BaseException:
            sock.close()
            raise
        return meeting

    @property
    def own_host(self) -> str:
        """The address of this machine on the way to the driver."""
        return str(self._sock.getsockname()[0])

    def say(self, facts: dict[str, Any]) -> None:
        """
        Raises:
            MeetingEnded: the driver is gone.
        """
        self._sock.settimeout(CONNECT_LIMIT_S)
        try:
            self._sock.sendall(self._lines.write(facts))
        except OSError as error:
            raise MeetingEnded(f"the driver is gone: {error}") from error

    def hear(self, limit: float) -> dict[str, Any]:
        """The driver's next line.

        Raises:
            MeetingEnded: the driver is gone, or said nothing for `limit` seconds.
        """
        deadline = time.monotonic() + limit
        while not self._heard:
            self._receive(deadline)
        return self._heard.pop(0)

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise MeetingEnded("the driver said nothing in time")
        self._sock.settimeout(left)
        try:
            more = self._sock.recv(1 << 16)
        except TimeoutError:
            return
        except OSError as error:
            raise MeetingEnded(f"the driver is gone: {error}") from error
        if not more:
            raise MeetingEnded("the driver closed the connection")
        try:
            self._heard += self._lines.read(more)
        except Refused as refused:
            raise MeetingEnded(f"who listens there is not the driver of this session: {refused}") from refused

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()


# ------------------------------------------------------------------------------------------ the driver's end
@dataclass(eq=False)
class Guest:
    """A task that is connected, as the driver sees it."""

    sock: socket.socket
    lines: Lines
    known: bool = False  # it has shown that it knows the token


@dataclass(frozen=True)
class Said:
    guest: Guest
    facts: dict[str, Any]


@dataclass(frozen=True)
class Left:
    """Of guests that have said something only. A guest that leaves is forgotten."""

    guest: Guest


class Rendezvous:
    """The listening end. One thread calls `wait`; any thread calls `wake`."""

    def __init__(self, host: str, token: bytes) -> None:
        """
        Args:
            host: an address of this machine, to listen on; the system chooses the port.

        Raises:
            UnfitSpark: it is not an address of this machine.
        """
        self._token = token
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, 0), family=family, backlog=512)
        except OSError as error:
            raise UnfitSpark(
                f"the driver cannot listen on {host}, where Spark says that it is reached: {error.strerror}. Set "
                "spark.driver.host, or spark.driver.bindAddress, to an address of this machine"
            ) from error
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._wake_end = socket.socketpair()
        self._wake_end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._guests: set[Guest] = set()

    def wait(self, timeout: float) -> list[Said | Left]:
        """What was said since, after at most so many seconds; none after a `wake`, too."""
        events: list[Said | Left] = []
        for key, _ in self._selector.select(max(timeout, 0)):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake:
                self._wake.recv(4096)
            else:
                events += self._read(key.data)
        return events

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyway; or closed: nobody waits
            self._wake_end.send(b"!")

    def say(self, guest: Guest, facts: dict[str, Any]) -> None:
        """To a guest that is gone nothing is said; `wait` tells of it."""
        try:
            guest.sock.settimeout(CONNECT_LIMIT_S)
            guest.sock.sendall(guest.lines.write(facts))
            guest.sock.setblocking(False)
        except OSError as error:
            log.debug("a task is gone: %s", error)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            sock, _ = self._listener.accept()
            guest = Guest(sock, Lines(self._token, is_driver=True))
            self._guests.add(guest)
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # the next read tells
                sock.send(guest.lines.greeting())
            self._selector.register(sock, selectors.EVENT_READ, guest)

    def _read(self, guest: Guest) -> list[Said | Left]:
        try:
            more = guest.sock.recv(1 << 16)
            heard = guest.lines.read(more)
        except BlockingIOError:
            return []
        except OSError as error:
            log.debug("a task is gone: %s", error)
            more, heard = b"", []
        except Refused as refused:
            log.warning("a peer at the rendezvous was refused: %s", refused)
            self._forget(guest)
            return [Left(guest)] if guest.known else []
        guest.known = guest.known or bool(heard)
        events: list[Said | Left] = [Said(guest, facts) for facts in heard]
        if not more:
            self._forget(guest)
            if guest.known:
                events.append(Left(guest))
        return events

    def _forget(self, guest: Guest) -> None:
        self._guests.discard(guest)
        self._selector.unregister(guest.sock)
        guest.sock.close()

    def close(self) -> None:
        """Every task that is still connected gets a `MeetingEnded`."""
        for guest in list(self._guests):
            self._forget(guest)
        self._selector.close()
        for sock in (self._listener, self._wake, self._wake_end):
            sock.close()

    def __enter__(self) -> Rendezvous:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def numeric_address(host: str) -> str:
    """The address of `host`, for a bind: zmq takes no names. An IPv4 one, if there is any.

    Raises:
        UnfitSpark: the name is not known here.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnfitSpark(f"Spark uses the name {host} for this machine, which does not know it: {error}") from error
    by_family = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(by_family[0][4][0])
